"""What `benchmark.py` measures, one noun a file."""
