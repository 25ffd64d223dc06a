"""References: policies that are known, computed and not quoted, to measure learners by."""
