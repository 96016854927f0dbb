"""A dataset folder as typed objects, the prompts made from it, and the packed batches."""
