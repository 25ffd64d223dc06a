"""What Decision Transformers can learn from a log, and what they cannot: `python -m benchmarks.offline NAME`."""
