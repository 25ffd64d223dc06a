"""Values of logged observations, and returns-to-go raised to what they promise."""

import io
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from seqrl.checkpoint import write_atomically
from seqrl.data import EpisodeDataset, Windows
from seqrl.errors import UserError
from seqrl.learner import Learner
from seqrl.nets import ActionEncoder, Encoder
from seqrl.objectives import expectile_error, masked_mean, squared_error
from seqrl.progress import progress_bar
from seqrl.trajectory import Tree, tree_map


@dataclass(frozen=True, kw_only=True)
class ValueConfig:
    """How values are learnt from a log."""

    num_updates: int = 5_000
    gamma: float = 1.0
    expectile: float = 0.9
    """τ: ½ for the mean over logged actions, towards 1 for the best of them."""
    hidden_size: int = 128
    batch_size: int = 64
    length: int = 8
    """Rows of a window; each is a transition, and nothing is carried from one to the next."""
    learning_rate: float = 1e-3
    target_rate: float = 0.01
    """Share of the way that the target network goes at each update."""
    seed: int = 0


class Values(nn.Module):
    """Q(o, a), twice, and V(o), of one observation each: without memory, since a stitched path has another history."""

    encoder: Any
    action: Any
    head: Any

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, hidden_size: int):
        super().__init__()
        self.encoder = nn.ModuleList(Encoder(observation_space, hidden_size, normalize=True) for _ in range(3))
        self.action = nn.ModuleList(ActionEncoder(action_space, hidden_size) for _ in range(2))
        self.head = nn.ModuleList(_head(hidden_size) for _ in range(3))

    def of_actions(self, observation: Tree, action: Tensor) -> list[Tensor]:
        """Both Q(o, a), [T, B] each."""
        return [self._value(k, observation, self.action[k].project(action)) for k in range(2)]

    def of_observations(self, observation: Tree) -> Tensor:
        """V(o), [T, B]."""
        return self._value(2, observation)

    def _value(self, k: int, observation: Tree, also: Tensor | float = 0.0) -> Tensor:
        return self.head[k](self.encoder[k].project(observation) + also).squeeze(-1)

    def update_statistics(self, windows: Windows) -> None:
        for encoder in self.encoder:
            encoder.update_statistics(windows.inputs.observation, windows.mask)


def _head(hidden_size: int) -> nn.Sequential:
    return nn.Sequential(nn.Tanh(), nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 1))


def value_loss(
    values: Values,
    target: Values,
    windows: Windows,
    config: ValueConfig,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Tensor:
    """Implicit Q-learning: V an expectile of the lower target Q over logged actions, Q one step of reward and V ahead.

        L_V = |τ − 1(u < 0)| u²,  u = min Q'(o, a) − V(o);      L_Q = ½ Σ_i (r + γ (1 − terminated) V(o') − Q_i(o, a))²

    Only logged actions are ever asked about. What Q learns from is kept within `bounds`, which a return cannot leave:
    undiscounted values of a task that only a limit of time ends would grow for ever. Where outcomes are drawn by chance
    a high τ counts luck as skill. Source: Kostrikov et al. 2022, arXiv 2110.06169, equations 5 and 6; the bounds are
    ours.
    """
    observation, action = windows.inputs.observation, windows.action
    with torch.no_grad():
        logged = torch.stack(target.of_actions(observation, action)).amin(0)
    value = values.of_observations(observation)
    # A decision's successor is the next row, unless the window ends there: at its last row, or where pads begin.
    decision = windows.mask[:-1] & (~windows.inputs.is_first[1:] | windows.terminated[:-1])
    goal = windows.reward[:-1] + config.gamma * (~windows.terminated[:-1]).float() * value[1:].detach()
    goal = goal.clamp(*bounds)
    now = tree_map(lambda leaf: leaf[:-1], (observation, action))
    total = masked_mean(expectile_error(value, logged, config.expectile), windows.mask)
    for q in values.of_actions(*now):
        total = total + masked_mean(squared_error(q, goal), decision)
    return total


def learn_values(dataset: EpisodeDataset, config: ValueConfig) -> Values:
    """Values of the log, from scratch; the same each time for the same settings."""
    spaces = dataset.observation_space, dataset.action_space
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        values, target = (Values(*spaces, config.hidden_size) for _ in range(2))
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(64):
        values.update_statistics(dataset.windows(64, config.length, generator))
    target.load_state_dict(values.state_dict())
    learner = Learner(values, config.learning_rate, max_grad_norm=10.0)
    least, greatest = (float(limit[0]) for limit in bounds(dataset, config.gamma))
    with progress_bar() as progress:
        task = progress.add_task("values of the log", total=config.num_updates, episode_return=None, steps_per_second=0)
        for update in range(config.num_updates):
            learner.learning_rate = config.learning_rate * (1 - update / config.num_updates)
            windows = dataset.windows(config.batch_size, config.length, generator)
            learner.update(value_loss(values, target, windows, config, (least, greatest)))
            with torch.no_grad():
                for old, new in zip(target.parameters(), values.parameters(), strict=True):
                    old.lerp_(new, config.target_rate)
            progress.update(task, completed=update + 1)
    return values


def relabelled_returns(
    dataset: EpisodeDataset, config: ValueConfig, path: Path | None = None, held_out: EpisodeDataset | None = None
) -> np.ndarray:
    """Returns-to-go [R] of all rows of `dataset`'s files: R_t = r_t + γ max(R_{t+1}, V(o_{t+1})).

    Backwards from each episode's end, where R is 0 if the task ended and V(o_T) if it was cut. What a better ending
    elsewhere in the log promises goes up the episode: a return can then be asked for that no single episode brought.
    V is no more than an episode as long as the log's longest could bring from there (`bounds`). Episodes of the same
    files that are `held_out` are relabelled by the same values and bounds, which are learnt without them; other rows
    are 0. With `path` they are kept in that file, and read from it if there; the seconds that it took to learn them
    stand beside it. Raises UserError for a file there that is damaged, or of another log.

    Source: Yamagata et al. 2023, arXiv 2209.03993, section 3. Differs: V of implicit Q-learning in place of CQL's, and
    no cut of the relabelling at a window's end.
    """
    if path is not None and path.exists():
        return _kept(path, dataset)
    begin = time.monotonic()
    value = state_values(dataset, learn_values(dataset, config))
    _, greatest = bounds(dataset, config.gamma)
    result = scan(dataset, value, config.gamma, greatest)
    if held_out is not None:
        rows, _ = rows_of(held_out)
        result[rows] = scan(held_out, value, config.gamma, greatest)[rows]
    if path is not None:
        seconds = {"seconds": time.monotonic() - begin}
        write_atomically(path.with_suffix(".json"), json.dumps(seconds).encode())
        buffer = io.BytesIO()
        np.save(buffer, result, allow_pickle=False)
        write_atomically(path, buffer.getvalue())
    return result


def _kept(path: Path, dataset: EpisodeDataset) -> np.ndarray:
    """The returns-to-go in `path`, one for each row of `dataset`'s files."""
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is damaged ({reason}): delete it, and the same are learnt again") from None
    if found.shape != dataset.reward.shape:
        raise UserError(
            f"{path} holds {found.size:,} returns-to-go, and {dataset.folder} {len(dataset.reward):,} rows: the log is "
            "not the one that the run began with; train on this one in a new folder"
        )
    return found


def seconds_of(path: Path) -> float:
    """What the returns-to-go in the file `path` took to learn; 0 where there are none."""
    beside = path.with_suffix(".json")
    return float(json.loads(beside.read_text())["seconds"]) if beside.exists() else 0.0


@torch.no_grad()
def state_values(dataset: EpisodeDataset, values: Values, chunk: int = 8192) -> np.ndarray:
    """V(o) of all rows of the files, [R] float32."""
    parts = []
    for start in range(0, len(dataset.reward), chunk):
        rows = tree_map(lambda leaf, s=start: torch.from_numpy(np.array(leaf[s : s + chunk])), dataset.observation)
        parts.append(values.of_observations(rows).numpy())
    return np.concatenate(parts)


def bounds(dataset: EpisodeDataset, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest return-to-go after t decisions of an episode, [H + 1] each, t = 0 … H.

    H is the log's longest episode, and each decision that is left brings at least the log's lowest reward and at most
    its highest, or nothing, if the task has ended.
    """
    reward = dataset.reward[rows_of(dataset)[0]]
    left = gamma ** np.arange(int(dataset.lengths.max()), dtype=np.float64)
    weight = np.append(np.cumsum(left)[::-1], 0.0)  # Σ γ^k over the decisions that are left
    return weight * min(float(reward.min()), 0.0), weight * max(float(reward.max()), 0.0)


def rows_of(dataset: EpisodeDataset) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the files that are `dataset`'s, final observations too, and the decisions before each."""
    length = dataset.lengths + 1
    timestep = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return np.repeat(dataset.starts[:-1], length) + timestep, timestep


def scan(dataset: EpisodeDataset, value: np.ndarray, gamma: float, greatest: np.ndarray | None = None) -> np.ndarray:
    """The recursion of `relabelled_returns`, all episodes at once, a step back at a time.

    A promise does not exceed the `greatest` [H + 1] of `bounds`, by default `dataset`'s own, as if no episode were
    longer than the log's longest: after its H decisions nothing is promised.
    """
    greatest = bounds(dataset, gamma)[1] if greatest is None else greatest
    result = np.zeros(len(dataset.reward), dtype=np.float32)
    last = dataset.starts[:-1] + dataset.lengths  # the rows of the final observations
    rows, timestep = rows_of(dataset)
    value = value.copy()
    value[rows] = np.minimum(value[rows], greatest[np.minimum(timestep, len(greatest) - 1)])
    cut = ~dataset.terminated[last - 1]
    following = np.where(cut, value[last], 0.0).astype(np.float32)
    for back in range(1, int(dataset.lengths.max()) + 1):
        going = back <= dataset.lengths
        rows = last[going] - back
        promised = following[going] if back == 1 else np.maximum(following[going], value[rows + 1])
        following[going] = dataset.reward[rows] + gamma * promised
        result[rows] = following[going]
    return result
