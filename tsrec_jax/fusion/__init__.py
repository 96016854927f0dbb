"""Several recommenders as one: their scores in a weighted sum whose weights are fitted on the selection split."""
