"""The approaches that `seqrl compare ENV` measures, by name: who acts while it learns, and who learns from a log.

`ppo:gru` is an algorithm that acts, with a memory. Either may be one's own, or both: `ppo:module:Class`,
`module:Class:gru`, `module:Class:other:Kind`. `ppo:gru+reward` reads what its last action brought besides.
`behaviour_cloning` (or `bc`), `filtered_bc` (or `best_bc`), `decision_transformer` and `qdt` learn from what the others
played.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from seqrl.algorithms import config_class, ppo
from seqrl.config import RunConfig, require
from seqrl.errors import UserError, nearest
from seqrl.memory.make import MEMORIES, check_name, is_own
from seqrl.own_code import is_there
from seqrl.recipes import settings_for

ONLINE = ("ppo", "impala", "r2d2", "recurrent_sac")
"""Algorithms that act, from the simplest on."""
OFFLINE = ("behaviour_cloning", "filtered_bc", "decision_transformer", "qdt")
"""Methods that learn from a log, from the simplest on, as `seqrl.comparison.offline.METHODS` knows them."""
ALIASES = {"bc": "behaviour_cloning", "best_bc": "filtered_bc", "dt": "decision_transformer"}
SHARED = (
    "env", "env_kwargs", "hide", "flicker", "noise", "device", "vectorization", "seed", "num_steps", "hidden_size",
    "num_frames", "memory_horizon", "precision", "normalize_observations", "num_evaluations", "evaluation_episodes",
    "keep", "actions",
)  # fmt: skip
"""Settings that all that act have in common: the problem, the budget, the size of the network, which agent is kept, and
how it acts."""


INPUTS = {"action": "previous_action", "reward": "previous_reward"}
"""What may stand behind a memory and a plus: what the agent then reads besides observations, and the setting for it."""


class Approach(NamedTuple):
    """An algorithm that acts, with a memory, and what it reads besides observations, in the order of `INPUTS`."""

    algorithm: str
    memory: str
    inputs: tuple[str, ...] = ()

    @classmethod
    def of(cls, algorithm: str, name: str, flag: str) -> "Approach":
        """With the memory and the inputs that `name` says, such as gru+reward. Raises UserError for unknown ones."""
        memory, *inputs = name.split("+")
        check_name(memory, flag)
        for each in inputs:
            require(each in INPUTS, f"unknown input '{each}' in '{name}' ({flag}): {nearest(each, INPUTS)}")
            require(inputs.count(each) == 1, f"'{name}' ({flag}) names {each} twice: name it once")
        return cls(algorithm, memory, tuple(sorted(inputs)))

    @property
    def name(self) -> str:
        """The memory with the inputs."""
        return "+".join((self.memory, *self.inputs))

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.name}"

    @property
    def folder(self) -> str:
        """What its runs' folders begin with: the memory alone for PPO, as before there were other algorithms."""
        name = self.name if self.algorithm == "ppo" else f"{self.algorithm}_{self.name}"
        return name.replace(":", "-")


def read(names: Sequence[str]) -> tuple[list[Approach], list[str]]:
    """Those of `names` that act, and those that learn from a log.

    Raises UserError for a name that is not known, and for one that comes twice.
    """
    online: list[Approach] = []
    offline: list[str] = []
    for name in names:
        method = ALIASES.get(name, name)
        if ":" in name:
            online.append(_approach(name))
        else:
            known = [*OFFLINE, *ALIASES, *(f"{algorithm}:gru" for algorithm in ONLINE)]
            require(method in OFFLINE, f"unknown approach '{name}' (--approaches): {nearest(name, known)}")
            offline.append(method)
    for every in (online, offline):
        require(len(set(every)) == len(every), "--approaches names one twice: name each once")
    require(bool(online), "--approaches names none that acts, such as ppo:gru: what should the others learn from?")
    return online, offline


def _approach(name: str) -> Approach:
    """`ALGORITHM:MEMORY`. Behind one of ours all is the memory; else the first two parts are an algorithm of one's own,
    which is imported."""
    algorithm, _, memory = name.partition(":")
    if algorithm not in ONLINE:
        kind, colon, memory = memory.partition(":")
        way_out = nearest(algorithm, (*ONLINE, "module:Class"))
        require(bool(colon), f"unknown algorithm in '{name}' (--approaches): {way_out}")
        algorithm = f"{algorithm}:{kind}"
        acts = issubclass(config_class(algorithm), RunConfig)
        require(acts, f"algorithm '{algorithm}' (--approaches {name}) is no subclass of seqrl.config.RunConfig: only "
                      "what learns by acting is compared here")  # fmt: skip
    elif _is_of_own_file(memory.partition("+")[0]):
        raise UserError(
            f"--approaches {name}: behind {algorithm}: stands a memory, and '{memory}' is none; if {algorithm}.py is a "
            f"file of yours, give it a name that is not one of ours ({', '.join(ONLINE)})"
        )
    return Approach.of(algorithm, memory, f"--approaches {name}")


def _is_of_own_file(memory: str) -> bool:
    """Whether what stands behind one of ours is a class and its memory, such as Config:gru of a user's own ppo.py."""
    module, _, last = memory.rpartition(":")
    return ":" in module or (last in MEMORIES and bool(module) and not is_there(module))


class Override(NamedTuple):
    """A setting of some approaches alone, as `r2d2.num_steps=60000` says it."""

    target: str
    """An algorithm, an approach (ppo:gru), or "offline": methods that learn from one log share their settings."""
    setting: str
    value: Any


def read_overrides(words: Sequence[str], names: Sequence[str]) -> list[Override]:
    """`words` as overrides; `names` are the targets that there are. Raises UserError for words that are none."""
    overrides = []
    for word in words:
        name, equals, text = word.partition("=")
        target, dot, setting = name.rpartition(".")
        target = ALIASES.get(target, target)
        require(bool(equals and dot), f"--override {word} is not APPROACH.SETTING=VALUE, such as r2d2.num_steps=60000")
        require(target in names, f"--override {word}: there is no '{target}' here: {nearest(target, list(names))}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        overrides.append(Override(target, setting, tuple(value) if isinstance(value, list) else value))
    return overrides


def targets_of(online: Sequence[Approach], offline: Sequence[str]) -> list[str]:
    """What an override may name."""
    algorithms = dict.fromkeys(approach.algorithm for approach in online)
    return [*algorithms, *map(str, online), *(["offline"] if offline else [])]


def overridden(settings: Any, names: Sequence[str], overrides: Sequence[Override]) -> Any:
    """`settings` with what `overrides` say of any of `names`; of two the later wins.

    Raises UserError for a setting that there is not, and for a value of another type than the setting's own.
    """
    for target, setting, value in overrides:
        if target not in names:
            continue
        fields = [field.name for field in dataclasses.fields(settings)]
        require(setting in fields, f"--override {target}.{setting}: no such setting: {nearest(setting, fields)}")
        known = type(getattr(settings, setting))
        if not (type(value) is known or (known is float and type(value) is int)):
            wanted = 'a list, such as ["key=1"]' if known is tuple else f"of type {known.__name__}"
            raise UserError(f"--override {target}.{setting}={value}: it must be {wanted}")
        settings = dataclasses.replace(settings, **{setting: value})
    return settings


def settings_of(approach: Approach, base: ppo.Config, overrides: Sequence[Override] = ()) -> RunConfig:
    """The config of `approach` on the problem and with the budget of `base`.

    For PPO it is `base` with the memory and the inputs. Others start from their recipe for the same environment, if
    there is one, else from their defaults, and share with `base` what `SHARED` names. `memory_kwargs` of `base` are for
    memories of one's own alone: ours differ in what they take. Overrides come last.
    """
    settings: RunConfig = base
    if approach.algorithm != "ppo":
        start = settings_for(base.env, config_class(approach.algorithm))
        settings = dataclasses.replace(start, **{name: getattr(base, name) for name in SHARED})
    kwargs = base.memory_kwargs if is_own(approach.memory) else ()
    reads: dict[str, Any] = {INPUTS[each]: True for each in approach.inputs}
    settings = dataclasses.replace(settings, memory=approach.memory, memory_kwargs=kwargs, **reads)
    return overridden(settings, (approach.algorithm, str(approach)), overrides)
