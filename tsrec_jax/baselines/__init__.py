"""What a sensible user would try before a language model: counts, texts, their mixture and SASRec.

All of them do the recommender's own task under its protocol: they rank every SID of the catalogue for every row, are
fitted on train, and have their settings chosen on a selection split, never on the rows that are evaluated.
"""
