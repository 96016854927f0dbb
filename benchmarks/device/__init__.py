"""What `benchmarks/accelerator.py` measures on one accelerator, and how it keeps to its minutes."""
