"""Algorithms, a readable file each. Each has a `Config`, `build`, `loss` and `train`."""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

from seqrl.agent import Agent
from seqrl.algorithms import impala, ppo, r2d2, recurrent_sac
from seqrl.checkpoint import load_checkpoint
from seqrl.errors import UserError, nearest
from seqrl.malloc import keep_freed_memory
from seqrl.run import CHECKPOINT, config_from_json, default_run_dir, read_json, read_spaces

ALGORITHMS: dict[str, ModuleType] = {
    "ppo": ppo,
    "r2d2": r2d2,
    "recurrent_sac": recurrent_sac,
    "impala": impala,
}

__all__ = ["ALGORITHMS", "impala", "load", "ppo", "r2d2", "read_config", "recurrent_sac", "resume", "train"]


def train(config: Any) -> Agent:
    """Train as `config` says (a `Config` of one of the algorithms), and return the agent."""
    module = _module_of(config)
    keep_freed_memory()
    if not config.run_dir:
        config = dataclasses.replace(config, run_dir=default_run_dir(config.env, config.memory, config.seed))
    return module.train(config)


def resume(run: str | Path, num_steps: int | None = None) -> Agent:
    """Continue the run in a folder, bit for bit, and return the agent. `num_steps` replaces the run's own number."""
    config = dataclasses.replace(read_config(run), run_dir=str(run))
    if num_steps is not None:
        config = dataclasses.replace(config, num_steps=num_steps)
    keep_freed_memory()
    return _module_of(config).train(config, resume=True)


def load(run: str | Path) -> Agent:
    """The trained agent of a run folder, ready to `act`.

    Raises UserError when the folder is not a run, or its checkpoint is missing, damaged, pickled or of another agent.
    """
    folder = Path(run)
    config = dataclasses.replace(read_config(folder), device="cpu")
    agent = _module_of(config).build(config, *read_spaces(folder))
    tree, _ = load_checkpoint(folder / CHECKPOINT)
    try:
        agent.load_state_dict(tree["agent"])
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{folder / CHECKPOINT} does not fit the agent of config.json ({str(error).splitlines()[0]}): "
            "restore both files from the same run"
        ) from None
    return agent.eval()


def read_config(run: str | Path) -> Any:
    """The config of a run folder."""
    data = read_json(Path(run), "config.json")
    name = str(data.get("type"))
    if name == "compare":
        raise UserError(f"{run} is a comparison, not a run: name a folder inside it, or seqrl compare --resume {run}")
    if name not in ALGORITHMS:
        raise UserError(f"{run}/config.json is of the unknown algorithm '{name}': {nearest(name, ALGORITHMS)}")
    return config_from_json(data, ALGORITHMS[name].Config, Path(run) / "config.json")


def _module_of(config: Any) -> ModuleType:
    for module in ALGORITHMS.values():
        if type(config) is module.Config:
            return module
    raise UserError(
        f"{type(config).__name__} is not a Config of an algorithm: use for example seqrl.algorithms.ppo.Config"
    )
