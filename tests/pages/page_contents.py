"""Runs, and episodes and conversations of untrained agents, for pages of them."""

import json
from contextlib import closing

import gymnasium as gym
import numpy as np
import torch
from guessing import Guess, random_voice
from markup_reading import EVIL

from seqrl.algorithms import ppo
from seqrl.config import make_environment
from seqrl.inspection.dialogues import inspect_dialogues
from seqrl.inspection.episodes import inspect
from seqrl.language.steering import SteeredAgent, TokenValues

ABOUT = {"title": EVIL, "kind": EVIL, "subtitle": EVIL, "env": "seqrl/TMaze-v0"}
BOX = gym.spaces.Box(-1, 1, (3,), np.float32)


def played(length, number, max_steps=1000):
    return _played(ppo.Config(env="seqrl/TMaze-v0", env_kwargs=(f"length={length}",), hidden_size=8), number, max_steps)


def played_mixed():
    return _played(ppo.Config(env="mixed_actions:MixedEcho-v0", hidden_size=8), 1)


def _played(config, number, max_steps=1000):
    with closing(make_environment(config, 1)) as environment:
        agent = ppo.build(config, environment.single_observation_space, environment.single_action_space).eval()
        return inspect(agent, environment, number, sample=True, max_steps=max_steps)


def spoken(number=2):
    task = Guess()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        values = TokenValues(random_voice(task.tokenizer, 1).model)
    agent = SteeredAgent(task.tokenizer, random_voice(task.tokenizer, 0).model, values, beta=1.0).eval()
    return inspect_dialogues(agent, task, number, sample=True, max_tokens=4)


def run_folder(path, lines, **config):
    path.mkdir()
    about = {"type": "r2d2", "memory": "gru", "env": EVIL, "env_kwargs": ["length=3"], "seed": 4, "num_steps": 300_000}
    (path / "config.json").write_text(json.dumps(about | config))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')
    return path
