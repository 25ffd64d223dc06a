"""Tables and pictures of runs: learning curves, adaptation, frontiers, whether to ship."""
