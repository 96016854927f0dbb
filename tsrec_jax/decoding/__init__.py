"""Constrained decoding: the trie of valid SIDs and the beam search that never leaves it."""
