"""Scripted policies that play, and the logs made of them: what the experiments learn from.

A controller is a function of the current row, `choose(inputs, generator)`, as `seqrl.collect.Scripted` takes it. It
reads the observation alone; randomness comes from `collect`, which replaces its actions with the chance `epsilon`.
A log is a list of parts, each so many episodes of one controller, and is written with its parts in `about`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from seqrl.collect import Scripted, collect, random_policy
from seqrl.data import EpisodeDataset, EpisodeWriter
from seqrl.envs import CrossingCorridors, Environment, make
from seqrl.envs.crossing_corridors import FIRST, SECOND
from seqrl.envs.tmaze import DOWN, RIGHT, UP
from seqrl.trajectory import AgentInput

Choose = Callable[[AgentInput, Generator], Tensor]


@dataclass(frozen=True)
class Part:
    """`episodes` of one controller, or of uniformly random actions where `choose` is None."""

    name: str
    episodes: int
    choose: Choose | None = None
    epsilon: float = 0.0


def write_log(
    folder: Path,
    env: str,
    parts: Sequence[Part],
    *,
    seed: int,
    num_envs: int = 64,
    env_kwargs: Mapping[str, Any] | None = None,
) -> EpisodeDataset:
    """Play all parts in `env`, each with a seed of its own, and open the dataset that they make."""
    environment = make(env, num_envs, env_kwargs=dict(env_kwargs or {}))
    about = {
        "env": env,
        "env_kwargs": [f"{key}={value}" for key, value in (env_kwargs or {}).items()],
        "hide": [],
        "flicker": 0.0,
        "noise": 0.0,
        "source": "; ".join(f"{part.episodes} {part.name}, epsilon {part.epsilon:g}" for part in parts),
    }
    spaces = environment.single_observation_space, environment.single_action_space
    with closing(environment), EpisodeWriter(folder, *spaces, about=about) as writer:
        for k, part in enumerate(parts):
            for episode in _play(part, environment, 1000 * seed + k):
                writer.add(episode)
    return EpisodeDataset.open(folder)


def _play(part: Part, environment: Environment, seed: int) -> Any:
    space = environment.single_action_space
    policy = random_policy(space) if part.choose is None else Scripted(space, part.choose)
    return collect(policy, environment, part.episodes, seed=seed, epsilon=part.epsilon)


# ------------------------------------------------------------------------------------------------ CartPole-v1


def cart_pole(x: float, x_dot: float, theta: float, theta_dot: float, lean: float = 0.0) -> Choose:
    """Push right where the weighted sum of the state is above `lean`. A lean makes the cart drift until it is out."""
    weight = torch.tensor([x, x_dot, theta, theta_dot], dtype=torch.float32)
    return lambda inputs, generator: (inputs.observation @ weight > lean).long()


def mixed_cart_pole(scale: int = 20) -> list[Part]:
    """Random, partial and good controllers whose returns spread from 10 to 500: 25 `scale` episodes.

    That of the angle alone swings the pole up and falls after 25 to 65 steps; that of angle and rate never lets it fall
    but does not know where the cart is. With a lean the cart leaves the track, the sooner the greater it is.
    """
    leans = (0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.08, 0.12)
    return [
        Part("random", 4 * scale),
        Part("angle", 4 * scale, cart_pole(0, 0, 1, 0), 0.1),
        *(Part(f"lean {lean:g}", scale, cart_pole(0, 0, 1, 0.2, lean), 0.02) for lean in leans),
        Part("angle and rate", 4 * scale, cart_pole(0, 0, 1, 0.2), 0.3),
        Part("good", 4 * scale, cart_pole(0.05, 0.1, 1, 0.2), 0.02),
    ]


# ------------------------------------------------------------------------------------------------ Pendulum-v1


def pendulum(gain: float, hold: bool = True) -> Choose:
    """Swing up by pumping energy, and with `hold` stabilise near the top; a small gain pumps slowly.

    The energy about the upright position is θ̇²/6 + 5 (cos θ − 1) per unit of mass and length (Gymnasium's constants),
    and torque along the motion adds to it.
    """

    def choose(inputs: AgentInput, generator: Generator) -> Tensor:
        cos, sin, rate = inputs.observation.unbind(1)
        pump = -gain * (rate.square() / 6 + 5 * (cos - 1)) * torch.where(rate >= 0, 1.0, -1.0)
        balance = -10 * torch.atan2(sin, cos) - 2 * rate
        near_top = (cos > 0.9) if hold else torch.zeros_like(cos, dtype=torch.bool)
        return torch.where(near_top, balance, pump).clamp(-2, 2).unsqueeze(1)

    return choose


def mixed_pendulum(scale: int = 30) -> list[Part]:
    """Random, partial and good controllers: 10 `scale` episodes of 200 steps, mean return about −750."""
    return [
        Part("random", 3 * scale),
        Part("swings, does not hold", 2 * scale, pendulum(2, hold=False), 0.2),
        Part("swings slowly", 2 * scale, pendulum(0.2), 0.5),
        Part("good, often random", 2 * scale, pendulum(2), 0.5),
        Part("good", scale, pendulum(2), 0.1),
    ]


# ------------------------------------------------------------------------------------------------ T-maze


def maze_walker() -> Choose:
    """Walk to the junction of a T-maze, and turn as the cue said."""
    cue = torch.zeros(0)

    def choose(inputs: AgentInput, generator: Generator) -> Tensor:
        nonlocal cue
        shown, at_junction = inputs.observation[:, 0], inputs.observation[:, 2] > 0
        cue = torch.where(inputs.is_first, shown, cue) if len(cue) else shown
        return torch.where(at_junction, torch.where(cue > 0, UP, DOWN), RIGHT)

    return choose


# ------------------------------------------------------------------------------------------------ crossing corridors


def corridors(env: CrossingCorridors, way_in: int, way_out: int) -> Choose:
    """Take `way_in` at the start and `way_out` at the crossing; within the corridors both actions are the same."""

    def choose(inputs: AgentInput, generator: Generator) -> Tensor:
        cell = inputs.observation
        anything = torch.randint(2, cell.shape, generator=generator)
        at_forks = torch.where(cell == env.crossing, way_out, way_in)
        return torch.where((cell == 0) | (cell == env.crossing), at_forks, anything)

    return choose


def crossing_log(length: int, scale: int = 50) -> list[Part]:
    """Two in three episodes go S, A, X, B and get 1; one in three S, C, X, D, for 2. None goes S, A, X, D, for 3."""
    env = CrossingCorridors(length=length)
    return [
        Part("A, then B", 2 * scale, corridors(env, FIRST, FIRST)),
        Part("C, then D", scale, corridors(env, SECOND, SECOND)),
    ]


# ------------------------------------------------------------------------------------------------ MuJoCo


GALLOP = (12.1, (5.0, 0.6, 3.6, 1.2, 5.1, 3.1))
"""Period and phases of the joints of HalfCheetah: the fastest of 60 drawn at random; about 340 in 1,000 steps."""


def sines(period: float, phases: Sequence[float], amplitude: float) -> Choose:
    """Every joint swings with one period and a phase of its own. The clock counts calls: make one for each log.

    It runs on from episode to episode, which thereby begin in the midst of a swing.
    """
    phase = torch.tensor(phases)
    step = 0

    def choose(inputs: AgentInput, generator: Generator) -> Tensor:
        nonlocal step
        step += 1
        action = amplitude * torch.sin(2 * math.pi * step / period + phase)
        return action.expand(len(inputs.is_first), -1)

    return choose


def mixed_half_cheetah(scale: int = 10) -> list[Part]:
    """Random actions, and a gallop at several strengths: 5 `scale` episodes of 1,000 steps."""
    strengths = (0.4, 0.6, 0.8, 0.99)
    return [
        Part("random", scale),
        *(Part(f"gallop at {strength:g}", scale, sines(*GALLOP, strength), 0.1) for strength in strengths),
    ]
