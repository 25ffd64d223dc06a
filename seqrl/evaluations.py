"""Evaluations of an agent while it trains, the best agent that they have seen, and how it acts best."""

import contextlib
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seqrl.acting import ActingModule
from seqrl.checkpoint import load_leaf
from seqrl.config import RunConfig, make_environment
from seqrl.errors import UserError
from seqrl.evaluate import evaluate
from seqrl.run import Stateful
from seqrl.run_folder import CHECKPOINT
from seqrl.seeds import derived_seed
from seqrl.statistics import mean_and_half_width
from seqrl.trajectory import Tree

SEED = 3
"""Tells the seeds of these episodes from others that are made of the run's."""
MIN_CUT, MAX_CUT = 1_000, 10_000
"""Bounds of the length at which an episode is cut: what trains without a time limit is not to wait for one."""


class Evaluations:
    """Plays `config.num_evaluations` times, evenly over a run's steps. With `keep` best the run ends with the agent of
    the best evaluation (of equals the later one), if that is better than the last one by more than chance explains.

    Training can lose what it had: with a discount of 0.99 a GRU that held masked CartPole's pole for 500 steps may let
    the cart drift off later, too slowly for that horizon to tell (docs/log.md). But where returns are much by chance,
    the best of ten evaluations is a draw among agents, early ones included. So the best and the last play once more,
    other episodes, and the last agent stays unless the mean difference in these lies above 0 by more than its 95 %
    interval.

    Likeliest actions are played by, and may bring less than nothing where what matters is not seen: an agent that has
    turned over a wrong card turns it over for ever, while training, which draws, gets on. The best policy that has no
    memory may be one that draws (Singh, Jaakkola and Jordan 1994). So with `actions` best the last agent plays these
    other episodes by drawn actions as well, and is kept, acting so, where that brings more by more than the interval.

    Every evaluation plays the same episodes, in environments made for it: it changes nothing of the run, and two of
    them differ by the agent alone. Their steps are not among the run's `num_steps`. A figure to report needs episodes
    that nothing was chosen by (`seqrl evaluate`).
    """

    def __init__(
        self,
        config: RunConfig,
        agent: ActingModule,
        agree: Callable[[list[float]], list[float]] = lambda returns: returns,
    ):
        """With several learners, who all keep the same agent, `agree` turns the returns of each into those of all."""
        self.config, self.agent, self.agree = config, agent, agree
        self.step = torch.zeros((), dtype=torch.int64)
        self.best_return = torch.full((), -math.inf, dtype=torch.float64)
        self.best = _copied(agent) if config.keep == "best" else {}
        agent.draws = config.actions == "drawn"

    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint is to hold: this, where evaluations are asked for; so older runs can be resumed."""
        return {"evaluations": self} if self.config.num_evaluations else {}

    def after(self, step: int) -> dict[str, float]:
        """The metric `eval_return`, if an evaluation is due at `step`. After the last step the agent becomes the one to
        keep, whose own is `kept_return`: higher where it is an earlier one. Where it was chosen how to act, `draws` is
        1 or 0, and `likeliest_return` and `drawn_return` are what either brought in other episodes."""
        due = self._number(step) > self._number(int(self.step))
        self.step.fill_(step)
        if not due:
            return {}
        self.agent.draws = self.config.actions == "drawn"  # a finished run that goes on had chosen
        mean = float(np.mean(self._play(0)))
        metrics = {"eval_return": mean}
        if self.best and mean >= float(self.best_return):
            self.best_return.fill_(mean)
            self.best = _copied(self.agent)
        return metrics | self._choose(mean) if step >= self.config.num_steps else metrics

    def _number(self, step: int) -> int:
        """How many evaluations there are to have been by `step`."""
        return min(step, self.config.num_steps) * self.config.num_evaluations // self.config.num_steps

    def _choose(self, mean: float) -> dict[str, float]:
        """Bring the agent, which brought `mean`, to what is to be kept. The last one, acting by its likeliest actions,
        is to be beaten: by the best weights first, then by itself where it draws."""
        metrics = {"kept_return": mean} if self.best else {}
        has_better = bool(self.best) and float(self.best_return) > mean
        if not has_better and self.config.actions != "best":
            return metrics
        last, returns = _copied(self.agent), self._play(1)
        drawn = self._play_drawn() if self.config.actions == "best" else []
        if has_better:
            self.agent.load_state_dict(self.best)
            if _is_better(those := self._play(1), returns):
                returns, metrics["kept_return"] = those, float(self.best_return)
            else:
                self.agent.load_state_dict(last)
        if drawn and _is_better(drawn, returns):
            self.agent.load_state_dict(last)
            self.agent.draws = True
            metrics |= {"kept_return": mean} if self.best else {}
        if drawn:
            metrics |= {"likeliest_return": float(np.mean(returns)), "drawn_return": float(np.mean(drawn))}
            metrics["draws"] = float(self.agent.draws)
        return metrics

    def _play_drawn(self) -> list[float]:
        self.agent.draws = True
        try:
            return self._play(1)
        finally:
            self.agent.draws = False

    def _play(self, purpose: int) -> list[float]:
        """The returns of the run's evaluation episodes, as the agent acts; other episodes for another `purpose`."""
        config, episodes = self.config, self.config.evaluation_episodes
        longest = min(max(config.num_steps // config.num_envs, MIN_CUT), MAX_CUT)  # no more than one column trains
        if config.vectorization == "async":  # processes that are forked while others' threads run may never end
            config = replace(config, vectorization="sync")
        seed = derived_seed(config.seed, SEED, purpose) >> 2  # below 2³⁰: an environment's own stays an int32
        with _global_draws_kept(self.agent.device):
            try:
                environment = make_environment(config, min(episodes, config.num_envs, 50))
            except UserError as error:
                likeliest = " --actions likeliest" if config.actions == "best" else ""
                without = f"--num-evaluations 0 --keep last{likeliest} trains without"
                raise UserError(f"{error} (to evaluate it beside those that are trained in: {without})") from error
            with contextlib.closing(environment):
                played = evaluate(self.agent, environment, episodes, seed, self.agent.draws, max_length=longest)
        return self.agree(played.returns.tolist())

    def state_dict(self) -> dict[str, Tree]:
        draws = torch.tensor(self.agent.draws)
        return {"step": self.step, "best_return": self.best_return, "best": dict(self.best), "draws": draws}

    def load_state_dict(self, state: dict[str, Tree]) -> None:
        self.step.copy_(state["step"])
        self.best_return.copy_(state["best_return"])
        self.agent.draws = bool(state.get("draws", False))  # older runs have none
        for key, value in self.best.items():
            value.copy_(state["best"][key])


def acts_by_drawing(run: str | Path, config: RunConfig) -> bool:
    """Whether the trained agent of a run's folder acts by drawn actions: as it was asked for, or as was chosen."""
    if config.actions != "best":
        return config.actions == "drawn"
    chosen = load_leaf(Path(run) / CHECKPOINT, "evaluations.draws")
    return chosen is not None and bool(chosen.any())


def _is_better(returns: list[float], than: list[float]) -> bool:
    """Whether these are higher, in the same episodes, by more than chance explains."""
    gain, half_width = mean_and_half_width(np.subtract(returns, than).tolist())
    return gain > half_width


def _copied(agent: ActingModule) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in agent.state_dict().items()}


@contextlib.contextmanager
def _global_draws_kept(device: torch.device) -> Iterator[None]:
    """What is drawn inside from the generators that Python, NumPy and PyTorch share with everyone, or seeded there, as
    older environments do, changes nothing of what is drawn later."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
