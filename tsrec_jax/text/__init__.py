"""The words of texts, and how similar texts are."""
