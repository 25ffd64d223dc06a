"""Conformance suites, for a user's own classes as for ours."""

from seqrl.testing.agent import check_agent
from seqrl.testing.environment import check_environment
from seqrl.testing.language import check_language_model
from seqrl.testing.memory import check_memory

__all__ = ["check_agent", "check_environment", "check_language_model", "check_memory"]
