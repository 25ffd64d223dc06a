"""Updates a second of R2D2's learner, against a plain PyTorch loop that learns the same from the same batches.

    python -m benchmarks.r2d2_updates --output benchmarks/results/r2d2_updates.json

Nothing acts. An update is a batch of 32 sequences of 80 rows behind a burn-in of 40, a GRU of 128 units, dueling double
Q-learning with 5-step returns and rescaled values, clipped gradients and Adam. Ours is `r2d2.learn` with the library's
settings, prioritised replay among them, save that observations are not normalised and staleness is not measured, which
the plain loop does not do either.

The plain loop is what is commonly written: sequences in NumPy arrays, cut beforehand and drawn uniformly, with the
states stored; the modules are torch.nn's. Its GRU knows where episodes end and goes row by row (nn.GRUCell), or runs
over the whole sequence and does not know (nn.GRU). That its loss is ours is checked first. One process, taking turns;
the median counts.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.learning import machine
from seqrl.agent import Agent
from seqrl.algorithms import r2d2
from seqrl.data import Replay, ReplayBatch
from seqrl.data.storage import unpack
from seqrl.learner import Learner
from seqrl.trajectory import AgentInput, Trajectory

EPISODE, CHUNK = 500, 1000
OUTCOMES = ("action", "reward", "terminated", "truncated", "mask")
CONFIG = r2d2.Config(
    hidden_size=128, batch_size=32, length=80, overlap=40, burn_in=40, normalize_observations=False, staleness_every=0
)
SPACES = gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(2)


def filled() -> Replay:
    """R2D2's replay, full of random steps of episodes of `EPISODE`."""
    replay = Replay(CONFIG.replay_capacity, CONFIG.num_envs, CONFIG.length, CONFIG.overlap, CONFIG.burn_in)
    shape = (CHUNK, CONFIG.num_envs)
    while len(replay) < CONFIG.replay_capacity:
        t = torch.arange(replay.rows, replay.rows + CHUNK + 1)
        is_first = (t % EPISODE == 0)[:, None].repeat(1, CONFIG.num_envs)
        action, reward = torch.randint(2, shape), torch.randn(shape)
        inputs = AgentInput(
            torch.randn(*is_first.shape, 4), torch.randint(2, is_first.shape), torch.randn(is_first.shape), is_first
        )
        last = is_first[1:]  # of an episode's rows, the one with its final observation
        terminated, false = torch.cat([last[1:], torch.zeros_like(last[:1])]), torch.zeros(shape, dtype=torch.bool)
        states = torch.randn(len(replay.state_rows(CHUNK)), CONFIG.num_envs, CONFIG.hidden_size).tanh()
        value = torch.zeros(is_first.shape)
        replay.add(Trajectory(inputs, action, reward, terminated, false, ~last, value[:-1], value, states))
    return replay


class Network(nn.Module):
    """Values of two actions [T, N, 2], and the GRU's state after T rows, [N, H]. Its parameters stand in our order."""

    def __init__(self, knows_ends: bool):
        super().__init__()
        H = CONFIG.hidden_size
        self.observation = nn.Linear(4, H)
        self.gru: nn.Module = nn.GRUCell(H, H) if knows_ends else nn.GRU(H, H)
        self.hidden, self.value, self.advantage = nn.Linear(H, 2 * H), nn.Linear(H, 1), nn.Linear(H, 2)
        self.action, self.reward = nn.Embedding(2, H), nn.Linear(1, H, bias=False)

    def forward(self, rows: dict[str, Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
        going_on = (~rows["is_first"]).float().unsqueeze(-1)
        before = self.action(rows["previous_action"]) + self.reward(rows["previous_reward"].unsqueeze(-1))
        x = torch.tanh(self.observation(rows["observation"]) + before * going_on)
        if isinstance(self.gru, nn.GRU):
            y, state = self.gru(x, state[None])
            state = state[0]
        else:
            steps = []
            for x_t, keep in zip(x, going_on, strict=True):
                state = self.gru(x_t, state * keep)
                steps.append(state)
            y = torch.stack(steps)
        for_value, for_advantage = torch.relu(self.hidden(y)).chunk(2, -1)
        advantage = self.advantage(for_advantage)
        return self.value(for_value) + advantage - advantage.mean(-1, keepdim=True), state


class PlainLoop:
    """The plain loop, on the sequences that `replay` holds, starting with the weights of `agent`."""

    def __init__(self, agent: Agent, replay: Replay, knows_ends: bool):
        self.network = Network(knows_ends)
        for parameter, value in zip(self.network.parameters(), agent.parameters(), strict=True):
            parameter.data.copy_(value.data)
        self.target = copy.deepcopy(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), CONFIG.learning_rate, eps=1e-5, fused=True)
        self.random = np.random.default_rng(0)
        self.updates = 0
        slot = replay.tree.leaves.nonzero().view(-1)
        assert replay.storage is not None
        rows = unpack(replay.storage.fields, replay.storage.read_sequences(slot, replay.stride))
        self.sequences = {name: leaf.transpose(0, 1).numpy().copy() for name, leaf in named(rows).items()}
        self.states = replay.states.flatten(0, 1)[slot].numpy()

    def loss(self, rows: dict[str, Tensor], state: Tensor) -> Tensor:
        """½ (h(G) − q)², meaned over the rows that count; `rows` are [burn_in + length + 1, N, ...]."""
        warm_up = {name: leaf[: CONFIG.burn_in] for name, leaf in rows.items()}
        rows = {name: leaf[CONFIG.burn_in :] for name, leaf in rows.items()}
        with torch.no_grad():
            _, target_state = self.target(warm_up, state)
            _, state = self.network(warm_up, state)
            q_target, _ = self.target(rows, target_state)
        q, _ = self.network(rows, state)
        with torch.no_grad():
            next_q = _unscaled(q_target.gather(-1, q.argmax(-1, keepdim=True)).squeeze(-1))[1:]
            reward, terminated, truncated = (rows[name][:-1] for name in ("reward", "terminated", "truncated"))
            discount, going_on = CONFIG.gamma * (~terminated).float(), (~(terminated | truncated)).float()
            goal = reward + discount * next_q
            for _ in range(CONFIG.n_step - 1):
                later = torch.cat([goal[1:], next_q[-1:]])
                goal = reward + discount * (going_on * later + (1 - going_on) * next_q)
            goal = goal.sign() * ((goal.abs() + 1).sqrt() - 1) + 1e-3 * goal
        value = q[:-1].gather(-1, rows["action"][:-1].unsqueeze(-1)).squeeze(-1)
        mask = rows["mask"][:-1].float()
        return (0.5 * (goal - value).square() * mask).sum() / mask.sum()

    def update(self) -> None:
        index = self.random.integers(len(self.states), size=CONFIG.batch_size)
        rows = {name: torch.from_numpy(leaf[index]).transpose(0, 1) for name, leaf in self.sequences.items()}
        loss = self.loss(rows, torch.from_numpy(self.states[index]))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CONFIG.max_grad_norm)
        self.optimizer.step()
        self.updates += 1
        if self.updates % CONFIG.target_every == 0:
            self.target.load_state_dict(self.network.state_dict())


def named(rows: Any) -> dict[str, Tensor]:
    """The leaves of rows of a replay that the plain loop reads, by name."""
    return {**rows.inputs._asdict(), **{name: getattr(rows, name) for name in OUTCOMES}}


def _unscaled(x: Tensor, epsilon: float = 1e-3) -> Tensor:
    root = (1 + 4 * epsilon * (x.abs() + 1 + epsilon)).sqrt()
    return x.sign() * (((root - 1) / (2 * epsilon)).square() - 1)


def check_losses(agent: Agent, target: Agent, plain: PlainLoop, batch: ReplayBatch) -> None:
    """That the plain loop which knows the ends has our loss on our batch."""
    ours, _, _ = r2d2.loss(agent, target, batch, CONFIG)
    rows = named(batch)
    for name in OUTCOMES:  # its sequences hold the bootstrap's row of these as well, and do not read it
        rows[name] = torch.cat([rows[name], rows[name][-1:]])
    torch.testing.assert_close(plain.loss(rows, batch.state), ours, rtol=1e-4, atol=1e-6)


def measure(repeats: int) -> dict[str, float]:
    """Median seconds of an update."""
    replay = filled()
    agent = r2d2.build(CONFIG, *SPACES)
    target, learner = copy.deepcopy(agent), Learner(agent, CONFIG.learning_rate, CONFIG.max_grad_norm)
    cell, sequence = (PlainLoop(agent, replay, knows_ends) for knows_ends in (True, False))
    check_losses(agent, target, cell, replay.sample(CONFIG.batch_size))
    calls: dict[str, Callable[[int], Any]] = {
        "seqrl": lambda turn: r2d2.learn(agent, target, learner, replay, turn, CONFIG),
        "plain, nn.GRUCell row by row": lambda turn: cell.update(),
        "plain, nn.GRU without resets": lambda turn: sequence.update(),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-5, repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call(turn)
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    seconds = measure(args.repeats)
    ratios = {name: value / seconds["seqrl"] for name, value in seconds.items()}
    table = Table("", "updates a second", "an update", "over seqrl's time")
    for name, value in seconds.items():
        table.add_row(name, f"{1 / value:.1f}", f"{1e3 * value:.1f} ms", f"{ratios[name]:.2f} ×")
    Console().print(table)
    if args.output:
        command = f"python -m benchmarks.r2d2_updates {' '.join(sys.argv[1:])}"
        rates = {name: 1 / value for name, value in seconds.items()}
        result = {"threads": args.threads, "seconds": seconds, "updates_per_second": rates, "ratios": ratios}
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({"command": command, **machine(), **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
