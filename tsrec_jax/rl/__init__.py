"""The second stage: a trained recommender learns from rankings of the catalogue's items, its own or a teacher's."""
