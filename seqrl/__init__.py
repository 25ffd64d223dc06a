"""seqrl: reinforcement learning with memory.

    import seqrl
    from seqrl.algorithms import ppo

    agent = seqrl.train(ppo.Config(env="seqrl/TMaze-v0", memory="gru", run_dir="runs/tmaze"))
    agent = seqrl.load("runs/tmaze")
    action = agent.act(observation)   # keeps its own memory; agent.reset() begins a new episode

Importing seqrl registers its environments with Gymnasium. Where PyTorch or Gymnasium is not installed, only
`seqrl.exported` can be used: it acts from files that `seqrl export` wrote.
"""

from seqrl.errors import UserError
from seqrl.interrupt import ends_on_interrupt

try:
    with ends_on_interrupt():
        from seqrl import envs
        from seqrl.agent import Agent
        from seqrl.algorithms import load, resume, train
except ModuleNotFoundError as _error:
    if _error.name not in ("torch", "gymnasium"):
        raise

__version__ = "0.1.0"

__all__ = ["Agent", "UserError", "envs", "load", "resume", "train"]


def __getattr__(name: str) -> object:
    hint = ": it needs PyTorch and Gymnasium, pip install torch gymnasium" if name in __all__ else ""
    raise AttributeError(f"module 'seqrl' has no attribute '{name}'{hint}")
