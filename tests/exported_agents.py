"""Small agents of every memory and every kind of space, with weights that have something to say."""

import gymnasium as gym
import numpy as np
import torch

from seqrl.acting import ActingModule
from seqrl.agent import Agent
from seqrl.decision_agent import DecisionAgent
from seqrl.memory import MEMORIES, Memory, Reencoded, Transformer, make_memory
from seqrl.nets import ActionValueHead, Encoder, PolicyHead, ValueHead

NUMBERS = gym.spaces.Dict({"v": gym.spaces.Box(-1.0, 1.0, (3,)), "n": gym.spaces.Discrete(4, start=2)})
MOVES = gym.spaces.Discrete(3, start=1)
ALL_MEMORIES = (*MEMORIES, "reencoded")
DECISION_AGENTS = ("decide-reencode", "decide-cache", "decide-learned")


def memory(name: str, size: int = 16) -> Memory:
    if name == "transformer":
        return Transformer(size, size, window=6)
    if name == "reencoded":
        return Reencoded(Transformer(size, size, num_layers=1, window=4), 4)
    return make_memory(name, size, size)


def agent(name: str = "gru", observation: gym.Space = NUMBERS, action: gym.Space = MOVES, **head: bool) -> Agent:
    """With `greedy` its policy are values of actions; with `squash` a squashed Gaussian."""
    torch.manual_seed(0)
    policy = ActionValueHead(16, action) if head.pop("greedy", False) else PolicyHead(16, action, **head)
    made = Agent(
        observation,
        action,
        Encoder(observation, 16, normalize=True),
        memory(name),
        {"policy": policy, "value": ValueHead(16)},
        use_previous_action=True,
        use_previous_reward=True,
    )
    return shaken(made)


def decision_agent(name: str, observation: gym.Space = NUMBERS, action: gym.Space = MOVES) -> DecisionAgent:
    torch.manual_seed(0)
    context = "cache" if name == "decide-cache" else "reencode"
    timesteps = {"timestep": "learned", "max_timestep": 400} if name == "decide-learned" else {}
    made = DecisionAgent(observation, action, hidden_size=16, num_layers=1, context_length=4, context=context,
                         gamma=0.9, **timesteps)  # fmt: skip
    made.target_return = 2.0
    return shaken(made)


def any_agent(name: str) -> ActingModule:
    return decision_agent(name) if name.startswith("decide") else agent(name)


def shaken(made: ActingModule) -> ActingModule:
    """With larger weights than at the start, statistics of a log, and no gradients."""
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
        for name, buffer in made.named_buffers():
            if name.endswith("norm.mean"):
                buffer.add_(0.5)
            elif name.endswith("norm.variance"):
                buffer.mul_(0.25)
    return made.eval()


def observations(space: gym.Space, num_steps: int, batch_size: int) -> list[list[object]]:
    """Elements of a space by step and row."""
    space.seed(0)
    return [[space.sample() for _ in range(batch_size)] for _ in range(num_steps)]


def batch(rows: list[object]) -> object:
    """Rows of an observation as one batch."""
    if isinstance(rows[0], dict):
        return {key: batch([row[key] for row in rows]) for key in rows[0]}
    if isinstance(rows[0], tuple):
        return tuple(batch(list(parts)) for parts in zip(*rows, strict=True))
    return np.stack([np.asarray(row) for row in rows])
