"""seqrl: reinforcement learning with memory.

    import seqrl
    from seqrl.algorithms import ppo

    agent = seqrl.train(ppo.Config(env="seqrl/TMaze-v0", memory="gru", run_dir="runs/tmaze"))
    agent = seqrl.load("runs/tmaze")
    action = agent.act(observation)   # keeps its own memory; agent.reset() begins a new episode

Importing seqrl registers its environments with Gymnasium.
"""

from seqrl import envs
from seqrl.agent import Agent
from seqrl.algorithms import load, resume, train
from seqrl.errors import UserError

__version__ = "0.1.0"

__all__ = ["Agent", "UserError", "envs", "load", "resume", "train"]
