"""What `benchmarks/train.py` measures."""
