"""Several recommenders as one: a weighted sum of their scores, with weights fitted on the selection split."""
