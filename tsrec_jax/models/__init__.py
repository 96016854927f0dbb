"""The transformer, Hugging Face weights in and out, and the vocabulary extension."""
