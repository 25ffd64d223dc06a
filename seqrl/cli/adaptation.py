"""seqrl adapt."""

import contextlib
import dataclasses
import inspect
import shlex
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape

from seqrl import adaptation
from seqrl.algorithms import load, read_config
from seqrl.cli.arguments import parse, positional
from seqrl.cli.outputs import versions
from seqrl.config import ProblemConfig, make_environment, parse_env_kwargs, problem_name, require
from seqrl.envs import ENVIRONMENTS, Environment, TrialVectorEnv
from seqrl.envs.trials import EPISODE_START, OPTIMAL_ACTION
from seqrl.errors import UserError
from seqrl.progress import progress_bar
from seqrl.references import references_for
from seqrl.reports import adaptation as report
from seqrl.run_folder import check_spaces, read_spaces


@dataclass(frozen=True, kw_only=True)
class Adapt:
    """How an agent adapts to tasks that it has not seen, its weights frozen, inner episode by inner episode.

    It plays trials of held-out tasks, and so does every reference that is known for them: adaptation.png and
    adaptation.json in the run's folder.
    """

    env: str = ""
    """Another environment of trials than the run's, with the same spaces."""
    env_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Arguments over the run's own and those that make held-out tasks, such as num_episodes=100 for longer trials."""
    num_trials: int = 200
    """Trials to play, each of another task."""
    seed: int = 10_000
    """Seed of the tasks and of what happens in them."""
    sample: bool = True
    """Draw actions from the policy; else the likeliest one is taken."""
    num_envs: int = 200
    """Environments that are played side by side."""
    references: bool = True
    """Whether references play the same trials."""


def adapt(args: list[str]) -> int:
    command = shlex.join(["seqrl", "adapt", *args])
    name, args = positional(args)
    options = parse(Adapt, args, Adapt(), "seqrl adapt RUN")
    if name is None:
        raise UserError("adapt needs a run folder, named first: seqrl adapt RUN")
    for flag, value in (("--num-trials", options.num_trials), ("--num-envs", options.num_envs)):
        require(value >= 1, f"{flag} is {value}: it must be at least 1")
    run = Path(name)
    config = problem(run, options)
    agent = load(run)
    with contextlib.closing(make_environment(config, min(options.num_envs, options.num_trials))) as environment:
        check_environment(run, config.env, environment)
        references = references_for(environment) if options.references else {}
        per_trial = _inner_episodes(config)
        total = per_trial and per_trial * options.num_trials * (1 + len(references))
        try:
            with _progress(total, f"adapt {run.name}") as watch:
                found = adaptation.adapt(
                    agent, environment, options.num_trials, options.seed, options.sample, references, watch
                )
        except KeyboardInterrupt:
            print("seqrl: interrupted; nothing was written", file=sys.stderr)
            return 130
    title = f"{run.name} on {problem_name(vars(config))}"
    console = Console()
    console.print(report.table(found, escape(title), console.width))
    console.print(report.sentence(found))
    console.print(f"The weights stayed frozen: sha256 {found.digest}… before and after.", highlight=False)
    print("Written:", *report.write(run, found, _about(command, config, options), title))
    return 0


def problem(run: Path, options: Adapt) -> Any:
    """The run's config with the environment to play: its own arguments, or none of another environment; over them
    those that make held-out tasks; over them --env-kwargs. The best action is shown only to who was trained with it.

    Raises UserError for an environment of ours that has no trials.
    """
    config = read_config(run)
    require(isinstance(config, ProblemConfig), f"{run} speaks, and acts in no environment: give a run that does")
    env = options.env or config.env
    kind = ENVIRONMENTS.get(env)
    pairs = {} if options.env else _by_name(config.env_kwargs)
    if kind is not None:
        require(issubclass(kind, TrialVectorEnv), _no_trials(env))
        pairs |= {key: f"{key}={value}" for key, value in getattr(kind, "held_out", {}).items()}
        if OPTIMAL_ACTION not in getattr(read_spaces(run)[0], "spaces", {}):
            pairs.pop("reveal", None)
    pairs |= _by_name(options.env_kwargs)
    return dataclasses.replace(config, device="cpu", env=env, env_kwargs=tuple(pairs.values()))


def _by_name(pairs: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE by KEY. Raises UserError for what is not that."""
    return dict(zip(parse_env_kwargs(pairs), pairs, strict=True)) if pairs else {}


def _no_trials(env: str) -> str:
    families = ", ".join(name for name, kind in ENVIRONMENTS.items() if issubclass(kind, TrialVectorEnv))
    return f"{env} has no trials of many inner episodes, so there is nothing to adapt to: choose one of {families}"


def check_environment(run: Path, env: str, environment: Environment) -> None:
    """Raise UserError for an environment without trials, or with other spaces than the run's agent."""
    observation_space = environment.single_observation_space
    require(EPISODE_START in getattr(observation_space, "spaces", {}), _no_trials(env))
    check_spaces(run, observation_space, environment.single_action_space)


def _inner_episodes(config: Any) -> int | None:
    """Inner episodes of a trial, where the environment's arguments tell: for the progress bar alone."""
    given = parse_env_kwargs(config.env_kwargs).get("num_episodes")
    if given is None and config.env in ENVIRONMENTS:
        known = inspect.signature(ENVIRONMENTS[config.env]).parameters.get("num_episodes")
        given = known and known.default
    return given if isinstance(given, int) else None


@contextlib.contextmanager
def _progress(num_episodes: int | None, label: str) -> Iterator[adaptation.Watch]:
    """A bar over the inner episodes of all policies, with the playing one's mean return of an inner episode."""
    begun: Counter[str] = Counter()
    rewards: dict[str, float] = defaultdict(float)
    start, steps = time.monotonic(), 0
    with progress_bar() as progress:
        task = progress.add_task(label, total=num_episodes, episode_return=None, steps_per_second=0.0)

        def watch(name: str, episodes: int, reward: float, rows: int) -> None:
            nonlocal steps
            begun[name] += episodes
            rewards[name] += reward
            steps += rows
            progress.update(
                task, description=f"{label}: {name}", completed=begun.total(),
                episode_return=rewards[name] / max(begun[name], 1),
                steps_per_second=steps / max(time.monotonic() - start, 1e-9),
            )  # fmt: skip

        yield watch


def _about(command: str, config: Any, options: Adapt) -> dict[str, Any]:
    """How the figures came about, for adaptation.json."""
    return {
        "command": command,
        "env": config.env,
        "env_kwargs": parse_env_kwargs(config.env_kwargs),
        **{name: getattr(options, name) for name in ("seed", "sample", "num_envs")},
        "versions": versions(),
    }
