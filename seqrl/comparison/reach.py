"""How far back and ahead an approach's runs look, beside how long its episodes are.

Only what was measured to matter is told (docs/benchmarks.md, docs/log.md). With gradients over 64 steps, an LSTM and a
linear recurrence did not learn to remember 300, as a GRU did. And an agent may lose what it had where its discount
makes nothing of an episode's end.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

from seqrl.comparison.approaches import Approach
from seqrl.config import RunConfig

NEEDS_GRADIENTS = ("lstm", "linear")
"""Memories that were seen to fail for want of them."""
FAR = 4.0
"""Times that gradients reach back, from which on an episode is long for these memories."""
AHEAD = 2.0
"""Horizons of the discount, 1 / (1 − γ), from which on an episode is long for it: of a reward that far off 13 % are
left."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """In steps."""

    algorithm: str
    episode: float
    """Mean length of an evaluated episode."""
    back: int = 0
    """How far back gradients flow, and the setting that says so; 0 for a memory that is not known to need them."""
    setting: str = ""
    gamma: float = 1.0

    @classmethod
    def of(cls, approach: Approach, run: RunConfig, episode: float) -> Self:
        """Of one's own algorithm it knows the settings that have the same names as ours."""
        found = cls(algorithm=approach.algorithm, episode=episode, gamma=getattr(run, "gamma", 1.0))
        for name in ("length", "bptt_length", "rollout_length"):
            if approach.memory in NEEDS_GRADIENTS and (steps := getattr(run, name, 0)):
                return replace(found, back=steps, setting=name)
        return found

    def advice_on_gradients(self, name: str) -> str:
        """What to give where they end long before an episode of approach `name` does: a sentence, or ""."""
        if not 0 < FAR * self.back < self.episode:
            return ""
        reach, flag = f"reach {self.back} steps back", self._flag(self.setting, _two_digits(self.episode))
        return f"Gradients of {name} {reach}, its episodes last {self.episode:.0f}: compare with {flag}."

    def advice_on_discount(self) -> str:
        """What to give where it makes little of an episode's end."""
        if self.gamma >= 1 or self.episode <= AHEAD / (1 - self.gamma):
            return ""
        ahead, flag = 1 / (1 - self.gamma), self._flag("gamma", 1 - float(f"{1 / self.episode:.1g}"))
        return f"γ {self.gamma:g} looks {ahead:.0f} steps ahead, episodes last {self.episode:.0f}: compare with {flag}."

    def _flag(self, setting: str, value: float) -> str:
        if self.algorithm == "ppo":
            return f"--{setting.replace('_', '-')} {value:g}"
        return f"--override {self.algorithm}.{setting}={value:g}"


def _two_digits(steps: float) -> int:
    """`steps`, rounded up to two digits."""
    unit = 10 ** max(math.floor(math.log10(max(steps, 1))) - 1, 0)
    return math.ceil(steps / unit) * unit
