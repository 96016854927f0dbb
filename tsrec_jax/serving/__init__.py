"""A trained recommender outside its training run: the exported folder and its use from Python."""
