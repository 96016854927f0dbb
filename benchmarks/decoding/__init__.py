"""What `benchmarks/decode.py` measures: methods that search one catalogue, cases, floors, timing and reports."""
