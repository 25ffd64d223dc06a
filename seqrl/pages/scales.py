"""Axes: where a value stands, and which round values are named."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "log", "root"]

_FORWARD: dict[str, Callable[[float], float]] = {
    "linear": float,
    "log": math.log10,
    "root": lambda value: math.sqrt(max(value, 0.0)),
}


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` on [0, 1]: evenly, by their logarithm, or by their root."""

    low: float
    high: float
    kind: Kind = "linear"
    whole: bool = False
    """Whether only whole numbers are named: of counts."""
    named: tuple[float, ...] = ()
    """The values that are named, whatever their number; none for round ones."""

    @classmethod
    def over(cls, values: Sequence[float], kind: Kind = "linear", *, margin: float = 0.06) -> "Scale":
        """One on which all finite `values` have room. A logarithmic one needs values above 0, else it is linear."""
        known = [float(value) for value in values if math.isfinite(value)] or [0.0, 1.0]
        if kind == "log" and min(known) <= 0:
            kind = "linear"
        low, high = min(known), max(known)
        if kind == "log":
            room = (high / low) ** margin if high > low else 2.0
            return cls(low / room, high * room, kind)
        if low == high == 0:  # counts, shares and ages are never negative
            high = 1.0
        if high - low <= 1e-9 * abs(high):  # one value, up to rounding
            half = abs(high) * 0.1
            return cls(low - half, high + half, kind)
        room = margin * (high - low)
        return cls(low if kind == "root" else low - room, high + room, kind)

    def place(self, value: float) -> float:
        f = _FORWARD[self.kind]
        return (f(value) - f(self.low)) / (f(self.high) - f(self.low))

    def ticks(self, most: int) -> list[float]:
        """Up to about `most` round values in range, or those that are to be named."""
        if self.named:
            return [value for value in self.named if self.low <= value <= self.high]
        if self.kind == "log":
            return self._powers(most)
        if self.kind == "root":  # about evenly spaced where they are drawn, of one digit each
            wanted = [self.low + (self.high - self.low) * (k / most) ** 2 for k in range(most + 1)]
            rounded = sorted({x for each in wanted if self.low <= (x := float(f"{each:.1g}")) <= self.high})
            return self._apart(rounded, 0.5 / most)
        ticks = self._multiples(nice_step((self.high - self.low) / max(most, 1)))
        if len(ticks) < 2:  # a single value tells no distances
            ticks = self._multiples(nice_step((self.high - self.low) / (2 * max(most, 1))))
        return ticks

    def _apart(self, values: Sequence[float], least: float) -> list[float]:
        """Of rising values those that do not stand nearer than `least` to the one before: 9 and 10 would touch."""
        kept: list[float] = []
        for value in values:
            if not kept or self.place(value) - self.place(kept[-1]) >= least:
                kept.append(value)
        return kept

    def _multiples(self, step: float) -> list[float]:
        """All in range of a step, or of a whole number near it where only those are named."""
        if self.whole:
            step = max(1.0, 5.0 if step == 2.5 else step)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]

    def _powers(self, most: int) -> list[float]:
        low, high = math.log10(self.low), math.log10(self.high)
        if high - low < 1.2:  # hardly one power of ten lies in range
            values = [m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
        else:
            every = max(1, math.ceil((high - low) / most))
            values = [10.0**k for k in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1, every)]
        inside = [value for value in values if self.low <= value <= self.high]
        # None or one of them lies in a narrow range, as of a gradient's norm that hardly changes.
        return inside if len(inside) > 1 else self._multiples(nice_step((self.high - self.low) / max(most, 1)))


def nice_step(rough: float) -> float:
    """The least of 1, 2, 2.5, 5, 10 times a power of ten that is `rough` or more."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def tick_label(value: float, ticks: Sequence[float]) -> str:
    """A value as short as its neighbours allow: 200k, 1.5M, 0.25, 1e−05."""
    largest = max((abs(tick) for tick in ticks), default=abs(value))
    if value == 0:
        return "0"
    if largest >= 1e4:
        for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if largest >= size:
                return f"{value / size:.4g}".replace("-", "−") + letter
    if largest < 1e-3 or abs(value) < 1e-4:
        return f"{value:.3g}".replace("-", "−")
    return f"{value:.6g}".replace("-", "−")
