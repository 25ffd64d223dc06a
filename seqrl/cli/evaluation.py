"""seqrl evaluate."""

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrl.acting import ActingModule
from seqrl.algorithms import draws, load, read_config
from seqrl.cli.arguments import environment_asked_for, parse, positional
from seqrl.cli.judging import evaluate_reward_model
from seqrl.cli.outputs import check_output, print_row, write_output
from seqrl.cli.speaking import evaluate_speaker
from seqrl.comparison.folder import RESULTS
from seqrl.config import make_environment, parse_env_kwargs, problem_name, require
from seqrl.errors import UserError, quoted
from seqrl.evaluate import Evaluation
from seqrl.evaluate import evaluate as play
from seqrl.language_runs.rewards import is_reward_run
from seqrl.nets import ActionValueHead
from seqrl.progress import episodes_bar
from seqrl.reports.common import mean_and_interval, no_proof
from seqrl.run_folder import check_spaces, read_json, read_metrics
from seqrl.statistics import is_above, mean_and_half_width

LAST_UPDATES = 10
"""Of which training's episodes are compared with what is played."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Play episodes with a trained agent, on the environment it was trained on or another that fits."""

    num_episodes: int = 100
    """Episodes to play."""
    seed: int = 10_000
    """Seed of the episodes."""
    sample: bool = False
    """Draw actions from the policy, or take the likeliest ones; by default as the run chose (--actions of train)."""
    env: str = ""
    """Another environment than the run's, with the same spaces."""
    env_kwargs: tuple[str, ...] = ()
    """Other arguments of the environment, KEY=VALUE."""
    num_envs: int = 50
    """Environments that are played side by side."""
    output: str = ""
    """File to write what was played and each episode's return and length to as JSON; by default none."""


def evaluate(args: list[str]) -> int:
    run, args = positional(args)
    if run is not None and is_reward_run(run):
        return evaluate_reward_model(run, args)
    if run is not None and (Path(run) / "vocabulary.json").is_file():
        return evaluate_speaker(run, args)
    options = parse(Evaluate, args, Evaluate(sample=draws(run)), "seqrl evaluate RUN")
    if run is None:
        raise UserError("evaluate needs a run folder, named first: seqrl evaluate RUN")
    for flag, value in (("--num-episodes", options.num_episodes), ("--num-envs", options.num_envs)):
        require(value >= 1, f"{flag} is {value}: it must be at least 1")
    check_output(options.output)
    _refuse_comparison(Path(run))
    config = read_config(run)
    changes = environment_asked_for(options.env, options.env_kwargs)
    config = dataclasses.replace(config, device="cpu", **changes)
    agent = load(run)
    with (
        contextlib.closing(make_environment(config, min(options.num_envs, options.num_episodes))) as environment,
        episodes_bar(run, options.num_episodes) as watch,
    ):
        check_spaces(Path(run), environment.single_observation_space, environment.single_action_space)
        result = play(agent, environment, options.num_episodes, options.seed, options.sample, watch=watch)
    columns = {
        "episodes": str(len(result.returns)),
        "return (95 %)": mean_and_interval(result.mean, result.half_width),
        "lowest": f"{result.returns.min():.4g}",
        "highest": f"{result.returns.max():.4g}",
        "mean length": f"{result.lengths.mean():.1f}",
    }
    print_row(f"{run} on {problem_name(vars(config))}{', actions drawn' if options.sample else ''}", columns)
    if alike := no_proof(result.returns.tolist(), "episodes"):
        print(alike)
    if result.num_cut:
        print(
            f"{result.num_cut} of {len(result.returns)} episodes had not ended and were cut after "
            f"{result.lengths.max():,} steps: give a time limit, --env-kwargs max_episode_steps=1000"
        )
    if not (options.sample or changes) and (drawn := _brought_in_training(Path(run), agent, result)):
        print(f"Training, which draws actions, ended with {drawn}: compare --sample, or train with --actions best")
    write_output(options.output, _figures(run, config, options, result))
    return 0


def _brought_in_training(folder: Path, agent: ActingModule, result: Evaluation) -> str:
    """What the episodes of the last updates brought, if that is clearly more than what likeliest actions bring."""
    if isinstance(agent.heads["policy"], ActionValueHead):  # it has nothing to draw by
        return ""
    means = [line["episode_return"] for line in read_metrics(folder) if "episode_return" in line][-LAST_UPDATES:]
    if len(means) < LAST_UPDATES:
        return ""
    mean, half_width = mean_and_half_width(means)
    return mean_and_interval(mean, half_width) if is_above(mean, half_width, result.mean, result.half_width) else ""


def _refuse_comparison(folder: Path) -> None:
    """Raise UserError for a comparison's folder, with the run of it that did best."""
    if not (folder / RESULTS).is_file() or not str(read_json(folder, "config.json").get("type")).startswith("compare"):
        return
    rows = [row for row in read_json(folder, RESULTS).get("rows") or () if row.get("best_run")]
    if rows:
        best = max(rows, key=_mean_of)
        raise UserError(
            f"{folder} is a comparison, not a run: its best one is played by "
            f"seqrl evaluate {quoted(folder / Path(best['best_run']).name)}"
        )


def _mean_of(row: dict[str, Any]) -> float:
    """What an approach brought, or a method on logged episodes; −∞ where nothing was played."""
    score = row if "mean" in row else row.get("calibrated") or row.get("returns") or {}
    return float("-inf") if score.get("mean") is None else float(score["mean"])


def _figures(run: str, config: Any, options: Evaluate, result: Evaluation) -> dict[str, Any]:
    """What --output writes: the problem, how it was played, and what came of it."""
    return {
        "run": run,
        "env": config.env,
        "env_kwargs": parse_env_kwargs(config.env_kwargs),
        **{name: getattr(config, name) for name in ("hide", "flicker", "noise")},
        **{name: getattr(options, name) for name in ("seed", "sample", "num_envs", "num_episodes")},
        "returns": result.returns.tolist(),
        "lengths": result.lengths.tolist(),
        "num_cut": result.num_cut,
        "mean": result.mean,
        "half_width": result.half_width,
    }
