"""seqrl collect."""

import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy
import tyro

from seqrl.acting import Policy
from seqrl.algorithms import load, read_config
from seqrl.cli.arguments import environment_asked_for, parse, positionals
from seqrl.cli.outputs import DATASETS, versions
from seqrl.cli.speaking import collect_dialogues
from seqrl.collect import collect as play
from seqrl.collect import random_policy, watched
from seqrl.config import ProblemConfig, RunConfig, make_environment, require
from seqrl.data import EpisodeWriter
from seqrl.envs import Environment
from seqrl.errors import UserError, nearest, quoted
from seqrl.evaluate import equal_shares
from seqrl.references import references_for
from seqrl.references.learners import AnnealedOracle, QLearning
from seqrl.run_folder import check_spaces, first_free
from seqrl.seeds import derived_seed

RANDOM = "random"
LEARNERS: dict[str, Callable[[Environment], Policy]] = {"q_learning": QLearning, "annealed_oracle": AnnealedOracle}
"""Policies that become better within a trial, and are no references: their histories are worth imitating."""
SETTINGS = ("env", "env_kwargs", "hide", "flicker", "noise")
"""What makes two environments the same problem."""


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Log episodes that trained agents, random actions, references or learners play: a dataset to learn from.

    Learners are q_learning and annealed_oracle; each of their trials is a learning history. With --task NAME, speakers
    talk to a task of words instead: seqrl collect optimal:0.3 --task wordle --help.
    """

    env: str = ""
    """The environment; by default the run's own, with its --env-kwargs, --hide, --flicker and --noise."""
    env_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Other arguments of the environment than the run's."""
    hide: Annotated[tuple[int | str, ...] | None, tyro.conf.arg(metavar="INT|KEY")] = None
    """Entries of a vector observation to hide, or keys of a Dict; by default the run's."""
    flicker: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Probability that an observation is blanked; by default the run's."""
    noise: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Standard deviation of noise added to observations; by default the run's."""
    num_episodes: Annotated[int, tyro.conf.arg(aliases=["--episodes"])] = 1000
    """Episodes to play, in equal shares for all that were named."""
    random_share: float = 0.0
    """Share of the episodes that are played by uniformly random actions."""
    epsilon: float = 0.0
    """Chance of a uniformly random action at each step of the others."""
    sample: bool = True
    """Draw actions from the policy; else the likeliest one is taken."""
    seed: int = 0
    """Seeds the episodes and the actions."""
    num_envs: int = 50
    """Environments that are played side by side."""
    dataset_dir: str = ""
    """Folder to write; must not exist yet. By default datasets/ENV, numbered if that is taken."""


def collect(args: list[str]) -> int:
    """Each policy plays its share in turn, with environments and draws seeded anew."""
    if any(word.partition("=")[0] == "--task" for word in args):
        return collect_dialogues(args)
    names, args = positionals(args)
    options = parse(Collect, args, Collect(), "seqrl collect RUN")
    require(bool(names), "collect needs a run folder, or random, or a reference, named first: seqrl collect RUN")
    _check(options, names)
    config = _problem(options, names)
    folder = Path(options.dataset_dir or first_free(DATASETS, config.env))
    shares = equal_shares(options.num_episodes, len(names)).tolist()
    try:
        with contextlib.closing(make_environment(config, min(options.num_envs, max(shares)))) as environment:
            spaces = environment.single_observation_space, environment.single_action_space
            policies = [_policy(name, environment) for name in names]
            with EpisodeWriter(folder, *spaces, about=_about(config, options, names, shares)) as writer:
                num_steps, total = 0, 0.0
                for k, (name, policy, share) in enumerate(zip(names, policies, shares, strict=True)):
                    seed = derived_seed(options.seed, k) >> 2
                    episodes = play(
                        policy, environment, share, seed, sample=options.sample, epsilon=options.epsilon,
                        random_share=options.random_share,
                    )  # fmt: skip
                    for episode in watched(episodes, share, f"{name} {config.env}"):
                        writer.add(episode)
                        num_steps += len(episode.reward)
                        total += float(episode.reward.sum(dtype=numpy.float64))
    except KeyboardInterrupt:
        print("seqrl: interrupted; no episodes were kept", file=sys.stderr)
        return 130
    count = options.num_episodes
    print(f"{folder}: {count:,} episodes, {num_steps:,} steps, mean return {total / count:.4g}. "
          f"Look at them first: seqrl audit {quoted(folder)}")  # fmt: skip
    return 0


def _check(options: Collect, names: Sequence[str]) -> None:
    """Raise UserError for flags that make no sense, before anything is made."""
    require(options.num_envs >= 1, f"--num-envs is {options.num_envs}: it must be at least 1")
    for flag, share in (("--random-share", options.random_share), ("--epsilon", options.epsilon)):
        require(0 <= share <= 1, f"{flag} is {share}: give a number from 0 to 1")
    least = len(names)
    require(
        options.num_episodes >= least,
        f"--num-episodes is {options.num_episodes}: it must be at least {least}, one for each that plays",
    )
    if options.dataset_dir and Path(options.dataset_dir).exists():
        raise UserError(f"{options.dataset_dir} exists already (--dataset-dir): choose another folder, or remove it")


def _problem(options: Collect, names: Sequence[str]) -> Any:
    """The config of the environment that all play: the runs' own, with the flags over it."""
    others = [name for name in names if _is_reference(name, options)]
    runs = [name for name in names if name != RANDOM and name not in others]
    configs = [read_config(run) for run in runs]
    if not configs:
        require(bool(options.env), "random actions need an environment: name one with --env, or a run beside random")
    config = configs[0] if configs else RunConfig()
    changes = {"device": "cpu", **environment_asked_for(options.env, options.env_kwargs)}
    changes |= {
        name: getattr(options, name) for name in ("hide", "flicker", "noise") if getattr(options, name) is not None
    }
    for run, other in zip(runs, configs, strict=True):
        require(isinstance(other, ProblemConfig), f"{run} speaks: name the task that it plays with --task")
        for name in SETTINGS:
            mine, theirs = getattr(config, name), getattr(other, name)
            if name not in changes and mine != theirs:
                raise UserError(
                    f"{runs[0]} has --{name.replace('_', '-')} {mine!r}, {run} has {theirs!r}: "
                    "all must play the same problem; say which with this flag"
                )
    return dataclasses.replace(config, **changes)


def _is_reference(name: str, options: Collect) -> bool:
    """Whether `name` is to be looked up among references. Without an environment it can only be a run."""
    return name != RANDOM and bool(options.env) and not Path(name).exists()


def _policy(name: str, environment: Environment) -> Policy:
    if name == RANDOM:
        return random_policy(environment.single_action_space)
    if not Path(name).exists():
        return _reference(name, environment)
    agent = load(name)
    check_spaces(Path(name), environment.single_observation_space, environment.single_action_space)
    return agent


def _reference(name: str, environment: Environment) -> Policy:
    """The learner or the reference called `name`, in small letters and with _ for what is no letter or digit."""
    if name in LEARNERS:
        return LEARNERS[name](environment)
    known = {re.sub(r"\W+", "_", key.lower()): policy for key, policy in references_for(environment).items()}
    if name not in known:
        choices = nearest(name, [RANDOM, *known, *LEARNERS])
        raise UserError(f"{name} is no run folder, and no reference or learner for this environment: {choices}")
    return known[name]


def _about(config: RunConfig, options: Collect, names: Sequence[str], shares: Sequence[int]) -> dict[str, Any]:
    """Where the episodes come from, for the dataset's index."""
    return {
        **{name: getattr(config, name) for name in SETTINGS},
        "source": f"seqrl collect {' '.join(names)}",
        "policies": [{"policy": name, "num_episodes": share} for name, share in zip(names, shares, strict=True)],
        **{name: getattr(options, name) for name in ("random_share", "epsilon", "sample", "seed", "num_envs")},
        "versions": versions(),
    }
