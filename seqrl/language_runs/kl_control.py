"""The coefficient of a KL to a reference: fixed, adaptive towards a target, or whatever holds a budget."""

from typing import Any, Literal

import torch

Control = Literal["fixed", "adaptive"]
RAISE, LOWER, LEAST = 1.3, 0.9, 0.01
"""Factors of a budget's coefficient, once an update is taken back and after one that stays well inside; and what it is
at least raised from."""


class KlControl:
    """The coefficient c of a KL of whole conversations: a sum over their tokens, a mean over conversations.

    adaptive   c ← c (1 + clip(KL / target − 1, −0.2, 0.2) · n / horizon) after an update on n conversations;
    fixed      c stays, unless there is a budget.

    With a `budget` above 0 a policy whose KL is beyond it is not allowed: its update is taken back, and c ← 1.3 c
    (`refuse`). A fixed c comes down again, to where it began, by 0.9 after each update that keeps below ¾ of the
    budget.

    Source: the adaptive one is Ziegler et al. 2019, arXiv 1909.08593, section 2.2. The budget is ours.
    """

    def __init__(
        self, kind: Control, weight: float, target: float = 6.0, horizon: float = 10_000.0, budget: float = 0.0
    ) -> None:
        self.kind, self.weight, self.least = kind, weight, weight
        self.target, self.horizon, self.budget = target, horizon, budget

    def allows(self, kl: float, error: float = 0.0) -> bool:
        """Whether a policy may stay whose KL was measured with this standard error: what is tried again and again is
        sometimes measured too low, so two errors must have room below the budget."""
        return self.budget == 0 or kl + 2 * error <= self.budget

    def follow(self, kl: float, count: int) -> None:
        """After an update on `count` conversations, whose policy had this KL when it drew them."""
        if self.kind == "adaptive":
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.weight *= 1 + error * count / self.horizon
        elif self.budget > 0 and kl < 0.75 * self.budget:
            self.weight = max(self.weight * LOWER, self.least)

    def refuse(self) -> None:
        """An update was taken back."""
        self.weight = max(self.weight, LEAST) * RAISE

    def state_dict(self) -> dict[str, Any]:
        return {"weight": torch.tensor(self.weight, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weight = float(state["weight"])
