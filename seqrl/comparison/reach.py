"""How far apart a cause and its effect may lie for a run to learn of it, beside how long its episodes are.

A run that learns nothing is often not short of steps: its gradients end before what must be remembered, its units
have forgotten it, or its discount makes nothing of what comes of it.
"""

import math
from dataclasses import dataclass
from typing import Self

from seqrl.comparison.approaches import Approach
from seqrl.config import RunConfig

AHEAD = 2.0
"""Horizons of the discount, 1 / (1 − γ), from which on an episode is long for it: of a reward that far off 13 % are
left."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What an approach's runs span, in steps; 0 where there is no such bound."""

    algorithm: str
    episode: float
    """Mean length of an evaluated episode."""
    back: int = 0
    """How far back gradients flow, and the setting that says so."""
    setting: str = ""
    kept: int = 0
    """How long half of a GRU's or LSTM's units keep what they read, before anything is learnt (`memory_horizon`)."""
    gamma: float = 1.0

    @classmethod
    def of(cls, approach: Approach, run: RunConfig, episode: float) -> Self:
        """Of one's own algorithm it knows the settings that have the same names as ours."""
        remembers = approach.memory not in ("none", "frame_stack")
        names = [name for name in ("length", "bptt_length", "rollout_length") if getattr(run, name, 0)]
        return cls(
            algorithm=approach.algorithm,
            episode=episode,
            back=getattr(run, names[0]) if remembers and names else 0,
            setting=names[0] if remembers and names else "",
            kept=run.memory_horizon if approach.memory in ("gru", "lstm") else 0,
            gamma=getattr(run, "gamma", 1.0),
        )

    def advice(self) -> str:
        """What is shorter than an episode, and what to give instead: a sentence, or "" where nothing is."""
        needed = _two_digits(self.episode)
        bounds = [("gradients reach {} back", self.back, self.setting)]
        bounds += [("units keep what they read for {}", self.kept, "memory_horizon")]
        short = [(words, steps, setting) for words, steps, setting in bounds if 0 < steps < needed]
        said = [words.format(steps) for words, steps, _ in short] + self._looks_ahead()
        flags = [self._flag(setting, needed) for *_, setting in short] + self._longer_discount()
        return self._sentence(said, "where what matters lies further apart, compare with", flags) if said else ""

    def advice_on_discount(self) -> str:
        """The same of the discount alone: what was learnt once could be remembered."""
        said, flags = self._looks_ahead(), self._longer_discount()
        return self._sentence(said, "compare with", flags) if said else ""

    def _looks_ahead(self) -> list[str]:
        short = self.gamma < 1 and self.episode > AHEAD / (1 - self.gamma)
        return [f"γ {self.gamma:g} looks {1 / (1 - self.gamma):.0f} ahead"] if short else []

    def _longer_discount(self) -> list[str]:
        """γ whose horizon is an episode."""
        return [self._flag("gamma", 1 - float(f"{1 / self.episode:.1g}"))] if self._looks_ahead() else []

    def _sentence(self, said: list[str], way_out: str, flags: list[str]) -> str:
        listed = " and ".join([", ".join(said[:-1]), said[-1]] if said[1:] else said)
        return f"Episodes last {self.episode:.0f} steps, while {listed}: {way_out} {' '.join(flags)}."

    def _flag(self, setting: str, value: float) -> str:
        if self.algorithm == "ppo":
            return f"--{setting.replace('_', '-')} {value:g}"
        return f"--override {self.algorithm}.{setting}={value:g}"


def _two_digits(steps: float) -> int:
    """`steps`, rounded up to two digits."""
    unit = 10 ** max(math.floor(math.log10(max(steps, 1))) - 1, 0)
    return math.ceil(steps / unit) * unit
