"""Approaches side by side, online and on a log: what each brings, costs and remembers, and a verdict."""
