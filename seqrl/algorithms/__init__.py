"""Algorithms, a readable file each. Each has a `Config`, `build`, `loss` and `train`; so has one of your own."""

import contextlib
import dataclasses
import json
import sys
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
from seqrl.config import ProblemConfig, RunConfig
from seqrl.errors import UserError, nearest, quoted
from seqrl.evaluations import acts_by_drawing
from seqrl.language.agent import LanguageAgent
from seqrl.language_runs.config import LanguageConfig, check_rewarded
from seqrl.language_runs.rewards import is_reward_run
from seqrl.language_runs.run import read_tokenizer
from seqrl.malloc import keep_freed_memory
from seqrl.own_code import algorithm_of, find_class, what_is
from seqrl.run_folder import (
    config_from_json,
    config_to_json,
    default_run_dir,
    load_weights,
    read_json,
    read_saved_step,
    read_spaces,
    readable,
)

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
    "check",
    "config_class",
    "decision_transformer",
    "dpo",
    "ilql",
    "impala",
    "kto",
    "load",
    "load_speaker",
    "module_of",
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
    """Train as `config` says (a `Config` of one of the algorithms, or of your own), and return the agent.

    Raises UserError for what cannot be trained, and a setting that is not of its type.
    """
    module, config = module_of(config), readable(config)
    keep_freed_memory()
    return module.train(with_policy(with_run_dir(config)))


def with_policy(config: Any) -> Any:
    """`config` with a policy to steer or to propose, cloned now with the same settings, if it needs one.

    Raises KeyboardInterrupt where cloning was interrupted: of half a policy no values are learnt.
    """
    if not isinstance(config, ilql.Config | chai.Config) or config.policy:
        return config
    check(dataclasses.replace(config, policy="yet to come"))
    if config.dialogues:
        check_rewarded(config)  # before anything is cloned
    folder = f"{config.run_dir}_policy"
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(LanguageConfig)}
    cloning = bc.Config(**shared | {"run_dir": folder})
    bc.train(cloning, resume=Path(folder).exists() and read_config(folder) == cloning)
    step = read_saved_step(Path(folder))
    if step < cloning.num_steps:
        raise KeyboardInterrupt(
            f"interrupted while the policy was cloned, saved at step {step:,} in {folder}: the same command goes on"
        )
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
        return dataclasses.replace(config, run_dir=default_run_dir(problem, algorithm_of(config), config.seed))
    problem = config.env or Path(getattr(config, "dataset", "")).name
    return dataclasses.replace(config, run_dir=default_run_dir(problem, config.memory, config.seed))


def resume(run: str | Path, num_steps: int | None = None) -> Any:
    """Continue the run in a folder, bit for bit, and return the agent. `num_steps` replaces the run's own number."""
    config = dataclasses.replace(read_config(run), run_dir=str(run))
    if num_steps is not None:
        config = dataclasses.replace(config, num_steps=num_steps)
    keep_freed_memory()
    return module_of(config).train(config, resume=True)


def load(run: str | Path) -> ActingModule:
    """The trained agent of a run folder, ready to `act`.

    Raises UserError when the folder is not a run, or its checkpoint is missing, damaged, pickled or of another agent.
    """
    folder = Path(run)
    config = dataclasses.replace(read_config(folder), device="cpu")
    if isinstance(config, LanguageConfig):
        raise UserError(f"{run} speaks and has no actions: load it with seqrl.algorithms.load_speaker")
    with _blaming(folder / "config.json"):
        agent = module_of(config).build(config, *read_spaces(folder))
    load_weights(agent, folder)
    if isinstance(config, RunConfig):
        agent.draws = acts_by_drawing(folder, config)
    return agent.eval()


def draws(run: str | Path | None) -> bool:
    """Whether the trained agent of a run folder acts by drawn actions where nothing else is asked for. Not so where it
    is no run: what is wrong there is said by `load`."""
    try:
        config = read_config(run or "")
    except UserError:
        return False
    return isinstance(config, RunConfig) and acts_by_drawing(run or "", config)


def load_speaker(run: str | Path) -> LanguageAgent:
    """What was trained to speak in a run folder: `voice()` talks to tasks, `tokenizer` is its vocabulary.

    Raises UserError as `load` does.
    """
    folder = Path(run)
    config = dataclasses.replace(read_config(folder), device="cpu")
    if not isinstance(config, LanguageConfig):
        play = f"seqrl evaluate {quoted(run)}"
        raise UserError(f"{run} acts and does not speak: play it with {play}, load it with seqrl.load")
    if is_reward_run(folder):
        raise UserError(
            f"{run} scores and does not speak: seqrl evaluate {quoted(run)} tells how well, and "
            "seqrl.language_runs.rewards.load_reward_model loads it"
        )
    with _blaming(folder / "config.json"):
        agent = module_of(config).build(config, read_tokenizer(folder), folder)
    load_weights(agent, folder)
    return agent.eval()


def read_config(run: str | Path) -> Any:
    """The config of a run folder. Raises UserError where it is damaged, or is none that could be trained."""
    path = Path(run) / "config.json"
    data = read_json(Path(run), path.name)
    name = str(data.get("type"))
    if name.startswith("compare"):
        raise UserError(
            f"{run} is a comparison, not a run: name a folder inside it, or seqrl compare --resume {quoted(run)}"
        )
    with _blaming(path):
        kind = config_class(name)
    config = config_from_json(data, kind, path)
    with _blaming(path):
        check(dataclasses.replace(config, device="cpu"))  # which a run may be read on
    return config


@contextlib.contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """What is wrong with settings is said of the file that they come from."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def config_class(name: str) -> Any:
    """The `Config` of the algorithm called `name`: of ours, or of one's own as `module:Class`, which is imported.

    Raises UserError for an unknown name, and for a module or a class that is not there, or no algorithm.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name].Config
    module, _, own = name.rpartition(":")
    if not (module and own):
        raise UserError(f"unknown algorithm '{name}': {nearest(name, (*ALGORITHMS, 'module:Class'))}")
    kind = find_class("algorithm", name, (ProblemConfig, LanguageConfig), "seqrl.config.RunConfig")
    _check_class(kind, name)
    module_of(kind())
    return kind


def _check_class(kind: Any, name: str) -> None:
    """Raise UserError where a class of settings is not one that a run's folder can name, hold and give back."""
    if "__dataclass_params__" not in vars(kind):  # else what it adds would be no settings, without a word
        raise UserError(f"algorithm '{name}' is no dataclass: write @dataclass(frozen=True, kw_only=True) above it")
    try:
        default = kind()
    except Exception as error:  # whatever its constructor raises
        raise UserError(f"algorithm '{name}' needs a default for each setting ({what_is(error)})") from error
    if algorithm_of(default) != name:
        raise UserError(f"algorithm '{name}' is {algorithm_of(default)}: call it so, or define a class of its own")
    try:
        data = json.loads(json.dumps(config_to_json(name, default)))
        same = config_from_json(data, kind, Path("config.json")) == default
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"algorithm '{name}' has settings that config.json cannot hold ({error})") from error
    if not same:
        raise UserError(f"algorithm '{name}' has settings that config.json does not give back: use plain ones")


def module_of(config: Any) -> ModuleType:
    """The module of the algorithm that `config` is of, which has `train` and `build`. Raises UserError where there is
    none."""
    name = algorithm_of(config)
    if name in ALGORITHMS and type(config) is ALGORITHMS[name].Config:
        return ALGORITHMS[name]
    if ":" not in name or not isinstance(config, ProblemConfig | LanguageConfig):
        raise UserError(
            f"{type(config).__name__} is not a Config of an algorithm: use for example seqrl.algorithms.ppo.Config"
        )
    module = sys.modules[type(config).__module__]
    for part in ("train", "build"):
        if not callable(getattr(module, part, None)):
            raise UserError(f"algorithm '{name}': its module has no {part}(): write or import it (docs/your_own.md)")
    return module


def check(config: Any) -> None:
    """What the algorithm of `config` has to say against its settings, a UserError; one of one's own need not look."""
    getattr(module_of(config), "check", lambda _: None)(config)
