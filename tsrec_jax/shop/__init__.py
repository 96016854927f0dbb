"""The embedded shop: items, users and texts that need no download."""
