"""Conformance suites, for a user's own classes as for ours."""

from seqrl.testing.memory import check_memory

try:
    from seqrl.testing.environment import check_environment
except ModuleNotFoundError:
    __all__ = ["check_memory"]
else:
    __all__ = ["check_environment", "check_memory"]
