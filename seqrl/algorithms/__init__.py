"""Algorithms, a readable file each. Each has a `Config`, `build`, `loss` and `train`."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from seqrl.acting import ActingModule
from seqrl.algorithms import (
    algorithm_distillation,
    bc,
    chai,
    decision_transformer,
    dpo,
    ilql,
    impala,
    kto,
    ppo,
    r2d2,
    recurrent_sac,
    reward_model,
    rlhf,
)
from seqrl.errors import UserError, nearest
from seqrl.language.agent import LanguageAgent
from seqrl.language_runs.config import LanguageConfig
from seqrl.language_runs.run import read_tokenizer
from seqrl.malloc import keep_freed_memory
from seqrl.run_folder import config_from_json, default_run_dir, load_weights, read_json, read_spaces

ALGORITHMS: dict[str, ModuleType] = {
    "ppo": ppo,
    "r2d2": r2d2,
    "recurrent_sac": recurrent_sac,
    "impala": impala,
    "decision_transformer": decision_transformer,
    "algorithm_distillation": algorithm_distillation,
    "bc": bc,
    "ilql": ilql,
    "chai": chai,
    "rlhf": rlhf,
    "dpo": dpo,
    "kto": kto,
    "reward_model": reward_model,
}

__all__ = [
    "ALGORITHMS",
    "algorithm_distillation",
    "bc",
    "chai",
    "decision_transformer",
    "dpo",
    "ilql",
    "impala",
    "kto",
    "load",
    "load_speaker",
    "ppo",
    "r2d2",
    "read_config",
    "recurrent_sac",
    "resume",
    "reward_model",
    "rlhf",
    "train",
    "with_run_dir",
]


def train(config: Any) -> Any:
    """Train as `config` says (a `Config` of one of the algorithms), and return the agent."""
    module = _module_of(config)
    keep_freed_memory()
    return module.train(with_policy(with_run_dir(config)))


def with_policy(config: Any) -> Any:
    """`config` with a policy to steer or to propose, cloned now with the same settings, if it needs one."""
    if not isinstance(config, ilql.Config | chai.Config) or config.policy:
        return config
    _module_of(config).check(dataclasses.replace(config, policy="yet to come"))
    folder = f"{config.run_dir}_policy"
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(LanguageConfig)}
    cloning = bc.Config(**shared | {"run_dir": folder})
    bc.train(cloning, resume=Path(folder).exists() and read_config(folder) == cloning)
    return dataclasses.replace(config, policy=folder)


def with_run_dir(config: Any) -> Any:
    """`config` with a folder to write, named after its problem, if it has none."""
    if config.run_dir:
        return config
    if isinstance(config, LanguageConfig):
        logs = (
            config.dialogues,
            *(getattr(config, name, "") for name in ("prompts", "preferences", "thumbs", "policy")),
        )
        problem = config.task or Path(next(filter(None, logs), "")).stem
        return dataclasses.replace(config, run_dir=default_run_dir(problem, _name_of(config), config.seed))
    problem = config.env or Path(getattr(config, "dataset", "")).name
    return dataclasses.replace(config, run_dir=default_run_dir(problem, config.memory, config.seed))


def resume(run: str | Path, num_steps: int | None = None) -> Any:
    """Continue the run in a folder, bit for bit, and return the agent. `num_steps` replaces the run's own number."""
    config = dataclasses.replace(read_config(run), run_dir=str(run))
    if num_steps is not None:
        config = dataclasses.replace(config, num_steps=num_steps)
    keep_freed_memory()
    return _module_of(config).train(config, resume=True)


def load(run: str | Path) -> ActingModule:
    """The trained agent of a run folder, ready to `act`.

    Raises UserError when the folder is not a run, or its checkpoint is missing, damaged, pickled or of another agent.
    """
    folder = Path(run)
    config = dataclasses.replace(read_config(folder), device="cpu")
    if isinstance(config, LanguageConfig):
        raise UserError(f"{run} speaks and has no actions: load it with seqrl.algorithms.load_speaker")
    with _blaming(folder / "config.json"):
        agent = _module_of(config).build(config, *read_spaces(folder))
    load_weights(agent, folder)
    return agent.eval()


def load_speaker(run: str | Path) -> LanguageAgent:
    """What was trained to speak in a run folder: `voice()` talks to tasks, `tokenizer` is its vocabulary.

    Raises UserError as `load` does.
    """
    folder = Path(run)
    config = dataclasses.replace(read_config(folder), device="cpu")
    if not isinstance(config, LanguageConfig):
        raise UserError(f"{run} acts and does not speak: load it with seqrl.algorithms.load")
    if isinstance(config, reward_model.Config):
        raise UserError(f"{run} scores and does not speak: load it with seqrl.language_runs.rewards.load_reward_model")
    with _blaming(folder / "config.json"):
        agent = _module_of(config).build(config, read_tokenizer(folder), folder)
    load_weights(agent, folder)
    return agent.eval()


def read_config(run: str | Path) -> Any:
    """The config of a run folder. Raises UserError where it is damaged, or is none that could be trained."""
    path = Path(run) / "config.json"
    data = read_json(Path(run), path.name)
    name = str(data.get("type"))
    if name.startswith("compare"):
        raise UserError(f"{run} is a comparison, not a run: name a folder inside it, or seqrl compare --resume {run}")
    if name not in ALGORITHMS:
        raise UserError(f"{path} is of the unknown algorithm '{name}': {nearest(name, ALGORITHMS)}")
    config = config_from_json(data, ALGORITHMS[name].Config, path)
    with _blaming(path):
        ALGORITHMS[name].check(dataclasses.replace(config, device="cpu"))  # which a run may be read on
    return config


@contextlib.contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """What is wrong with settings is said of the file that they come from."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _module_of(config: Any) -> ModuleType:
    return ALGORITHMS[_name_of(config)]


def _name_of(config: Any) -> str:
    for name, module in ALGORITHMS.items():
        if type(config) is module.Config:
            return name
    raise UserError(
        f"{type(config).__name__} is not a Config of an algorithm: use for example seqrl.algorithms.ppo.Config"
    )
