"""Semantic IDs: item texts to embeddings, embeddings to codes, and how good the codes are."""
