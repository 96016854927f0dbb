"""What `benchmarks/train_growth.py` measures: one training step of one shape, in a process of its own."""
