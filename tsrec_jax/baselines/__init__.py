"""What a sensible user would try before a language model: counts, texts, their mixture and SASRec.

All of them answer the recommender's own question under its protocol: every SID of the catalogue ranked for every row,
fitted on train, settings chosen on a selection split, never on the rows that are evaluated.
"""
