"""Words of texts and how alike texts are."""
