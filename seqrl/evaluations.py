"""Evaluations of an agent while it trains, and the best agent that they have seen."""

import contextlib
import math
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch

from seqrl.agent import Agent
from seqrl.config import RunConfig, make_environment
from seqrl.errors import UserError
from seqrl.evaluate import evaluate
from seqrl.run import Stateful
from seqrl.seeds import derived_seed
from seqrl.statistics import mean_and_half_width
from seqrl.trajectory import Tree

SEED = 3
"""Tells the seed of these episodes from others that are made of the run's."""
MAX_LENGTH = 10_000
"""Steps after which an episode is cut: what trains without a time limit is not to wait for one."""


class Evaluations:
    """Plays `config.num_evaluations` times, evenly over a run's steps. With `keep` best the run ends with the agent of
    the best evaluation (of equals the later one), if that was better than the last by more than chance explains.

    Training can lose what it had: a GRU that held masked CartPole's pole for 500 steps lets the cart drift off later,
    too slowly for its horizon to tell (docs/log.md). But where returns are much by chance, the best of ten evaluations
    is a draw among agents, early ones included: so the last agent stays unless the mean difference over the episodes
    lies above 0 by more than its 95 % interval.

    Every evaluation plays the same episodes, in environments made for it, by likeliest actions: it changes nothing of
    the run, and two of them differ by the agent alone. What was chosen by them they judge too well: a figure to report
    needs other episodes (`seqrl evaluate`, `seqrl compare`). Their steps are not among the run's `num_steps`.
    """

    def __init__(
        self, config: RunConfig, agent: Agent, agree: Callable[[list[float]], list[float]] = lambda returns: returns
    ):
        """With several learners, who all keep the same agent, `agree` turns the returns of each into those of all."""
        self.config, self.agent, self.agree = config, agent, agree
        self.step = torch.zeros((), dtype=torch.int64)
        self.best_returns = torch.full((config.evaluation_episodes,), -math.inf, dtype=torch.float64)
        self.best = {key: value.clone() for key, value in agent.state_dict().items()} if config.keep == "best" else {}

    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint is to hold: this, where evaluations are asked for; so older runs can be resumed."""
        return {"evaluations": self} if self.config.num_evaluations else {}

    def after(self, step: int) -> dict[str, float]:
        """The metric `eval_return`, if one is due at `step`. After the last step the agent becomes the one to keep,
        whose return is `kept_return`: higher where it is an earlier one."""
        due = self._number(step) > self._number(int(self.step))
        self.step.fill_(step)
        if not due:
            return {}
        returns = torch.tensor(self.agree(self._play()), dtype=torch.float64)
        if self.best and returns.mean() >= self.best_returns.mean():
            self.best_returns.copy_(returns)
            for key, value in self.agent.state_dict().items():
                self.best[key].copy_(value)
        metrics = {"eval_return": float(returns.mean())}
        if self.best and step >= self.config.num_steps:
            lost, half_width = mean_and_half_width((self.best_returns - returns).tolist())
            if lost > half_width:
                self.agent.load_state_dict(self.best)
            metrics["kept_return"] = float((self.best_returns if lost > half_width else returns).mean())
        return metrics

    def _number(self, step: int) -> int:
        """How many evaluations there are to have been by `step`."""
        return min(step, self.config.num_steps) * self.config.num_evaluations // self.config.num_steps

    def _play(self) -> list[float]:
        episodes = self.config.evaluation_episodes
        seed = derived_seed(self.config.seed, SEED) >> 2  # below 2³⁰: an environment's own stays an int32
        with _global_draws_kept(self.agent.device):
            try:
                environment = make_environment(self.config, min(episodes, 50))
            except UserError as error:
                without = "--num-evaluations 0 --keep last trains without"
                raise UserError(f"{error} (to evaluate it beside those that are trained in: {without})") from error
            with contextlib.closing(environment):
                return evaluate(self.agent, environment, episodes, seed, max_length=MAX_LENGTH).returns.tolist()

    def state_dict(self) -> dict[str, Tree]:
        return {"step": self.step, "best_returns": self.best_returns, "best": dict(self.best)}

    def load_state_dict(self, state: dict[str, Tree]) -> None:
        self.step.copy_(state["step"])
        self.best_returns.copy_(state["best_returns"])
        for key, value in self.best.items():
            value.copy_(state["best"][key])


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
