"""Which approach does this problem need? Each gets the same problem over several seeds, and is measured."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.acting import ActingModule
from seqrl.checkpoint import write_json
from seqrl.comparison.additions import check_only_adds
from seqrl.comparison.approaches import Approach
from seqrl.comparison.config import Config, check, default_settings, read_comparison
from seqrl.comparison.experience import compare_methods
from seqrl.comparison.floor import Floor, play_randomly, random_floor
from seqrl.comparison.folder import RESULTS, locked, write_results
from seqrl.comparison.horizon import read_sweep, sweep
from seqrl.comparison.learning_curve import (
    Reached,
    last_evaluation,
    mean_of_second_half,
    reached,
    read_threshold,
)
from seqrl.comparison.plot import plot_comparison
from seqrl.comparison.report import Comparison, Horizon, Row
from seqrl.comparison.run_pool import EVALUATION, EVALUATION_SEED, Job, run_all, seed_of
from seqrl.config import RunConfig, make_environment, parse_env_kwargs
from seqrl.envs.exact import memoryless_return, optimal_return
from seqrl.evaluate import evaluate
from seqrl.run_folder import check_new, config_to_json, create_folder, read_json, read_metrics
from seqrl.statistics import mean_and_half_width

__all__ = ["Config", "check", "compare", "default_settings", "read_comparison"]

HORIZON = "horizon"
"""In a comparison's folder, the runs of its sweep, a folder for each value."""


def compare(config: Config, resumed: bool = False) -> Comparison:
    """Train every approach on every seed, evaluate each run, and write results.json, table.md and compare.png.

    Everything goes under `settings.run_dir`: a run folder for each approach and seed; `horizon` where a sweep is asked
    for; `log` and `offline` where methods learn from what was played. Figures and table are written after each of these
    parts, with what is known by then, and where it is interrupted. With `resumed`, what is done is kept and the rest
    continued; `config` may then have more than the folder's config.json, which is brought to it. An approach of which
    a run fails is left out, and what was wrong is in `failed`. Raises UserError for bad settings, an existing folder,
    one that another process works in, and where no approach is left.
    """
    check(config)
    if not resumed:
        check_new(config.folder)
        create_folder(config.folder, {"config.json": config_to_json("compare", config), **play_randomly(config)})
    with locked(config.folder):
        if resumed and (there := read_comparison(config.folder)) != config:
            check_only_adds(there, config)
            write_json(config.folder / "config.json", config_to_json("compare", config))
        return _compare(config)


def _compare(config: Config) -> Comparison:
    online, methods = config.named()
    runs = {approach: config.runs_of(approach, config.num_seeds) for approach in online}
    jobs = [Job(f"{_label(config, approach)} seed {run.seed}", run) for approach in online for run in runs[approach]]
    try:
        failed = run_all(jobs, partial(play, num_episodes=config.num_episodes), config.workers, config.folder)
    except KeyboardInterrupt:
        done = [approach for approach in online if all(_is_done(run.run_dir) for run in runs[approach])]
        if done and not _tells_more(config.folder, done):
            _write(summarise(config, done), config.folder)
        raise
    online = [approach for approach in online if all(_is_done(run.run_dir) for run in runs[approach])]
    if not online:
        raise failed[0]
    result = dataclasses.replace(summarise(config, online), failed=[str(error) for error in failed])
    shows_parts = not _tells_more(config.folder, online)
    if shows_parts:
        _write(result, config.folder)
    if config.horizon_sweep:
        for horizon in measure_horizon(config, online):
            result = dataclasses.replace(result, horizon=horizon)
            if shows_parts:
                _write(result, config.folder)
    if methods:
        folders = [Path(run.run_dir) for approach in online for run in runs[approach]]
        offline, verdict = compare_methods(config, folders)
        result = dataclasses.replace(result, offline=offline, verdict=verdict)
    _write(result, config.folder)
    plot_comparison(result, config.folder / "compare.png")
    return result


def _is_done(run: str | Path) -> bool:
    return (Path(run) / EVALUATION).is_file()


def _tells_more(folder: Path, done: Sequence[Approach]) -> bool:
    """Whether results.json, as it was before something was added, holds and tells of more than `done`."""
    if not (folder / RESULTS).is_file():
        return False
    before = read_json(folder, RESULTS)
    holds = all(_is_done(folder / Path(run).name) for row in before["rows"] for run in row.get("runs", ()))
    more = {row.get("approach") for row in before["rows"]} - set(map(str, done))
    return holds and bool(more or before.get("offline") or before.get("horizon"))


def _label(config: Config, approach: Approach) -> str:
    return str(approach) if config.approaches else approach.memory


def _write(result: Comparison, folder: Path) -> None:
    write_results(folder, dataclasses.asdict(result), result.markdown())


def play(run: RunConfig, agent: ActingModule, *, num_episodes: int) -> dict[str, Any]:
    """Returns and lengths of a trained agent's episodes."""
    with contextlib.closing(make_environment(run, min(num_episodes, 50))) as environment:
        evaluation = evaluate(agent, environment, num_episodes, seed_of(run, EVALUATION_SEED))
    return {"returns": evaluation.returns.tolist(), "lengths": evaluation.lengths.tolist()}


def summarise(config: Config, online: Sequence[Approach]) -> Comparison:
    """The measured figures of these approaches' runs in the comparison's folder."""
    settings = config.settings
    runs = {approach: config.runs_of(approach, config.num_seeds) for approach in online}
    results = {approach: [read_json(Path(run.run_dir), EVALUATION) for run in runs[approach]] for approach in online}
    kwargs = parse_env_kwargs(settings.env_kwargs)
    optimal = None if config.is_masked else optimal_return(settings.env, **kwargs)
    floor = random_floor(config)
    rows = [_row(approach, runs[approach], results[approach]) for approach in online]
    threshold = _threshold(config, max(rows, key=lambda row: row.mean), optimal, floor)
    return Comparison(
        env=" ".join([settings.env, *settings.env_kwargs]),
        num_steps=settings.num_steps,
        num_episodes=config.num_episodes,
        optimal=optimal,
        memoryless=None if config.is_masked else memoryless_return(settings.env, **kwargs),
        rows=[_with_cost(row, threshold, floor.mean if floor else 0.0) for row in rows],
        threshold=threshold,
        random=floor.mean if floor else None,
        random_half_width=floor.half_width if floor else 0.0,
    )


def _threshold(config: Config, best: Row, optimal: float | None, floor: Floor | None) -> float:
    """The return that counts as reached: of the optimum, or of the way from random actions to the best approach. NaN
    where it is not clear that the best has left them."""
    given = read_threshold(config.threshold)
    if not given.is_share or optimal is not None or floor is None:
        return given.of(best.mean if optimal is None else optimal)
    return given.of(best.mean, floor.mean) if floor.is_below(best.mean, best.episodes_half_width) else math.nan


def _row(approach: Approach, runs: list[Any], results: list[dict[str, Any]]) -> Row:
    folders = [Path(run.run_dir) for run in runs]
    means = [float(np.mean(result["returns"])) for result in results]
    mean, half_width = mean_and_half_width(means)
    _, of_episodes = mean_and_half_width([value for result in results for value in result["returns"]])
    seconds = float(np.mean([result["seconds"] for result in results]))
    ended = [last_evaluation(path) for path in folders]
    stale = [mean_of_second_half(path, "delta_q_first") for path in folders]
    known = [value for value in stale if value is not None]
    return Row(
        approach=str(approach),
        memory=approach.memory,
        mean=mean,
        half_width=half_width,
        episodes_half_width=of_episodes,
        seed_means=means,
        steps_per_second=runs[0].num_steps / seconds,
        num_parameters=results[0]["num_parameters"],
        seconds=seconds,
        best_run=str(folders[int(np.argmax(means))]),
        curves=[_curve(path) for path in folders],
        num_steps=runs[0].num_steps,
        runs=[str(path) for path in folders],
        final_means=[last for last, _ in ended],
        earlier_kept=[earlier for _, earlier in ended],
        delta_q=float(np.mean(known)) if known else None,
    )


def _with_cost(row: Row, threshold: float, floor: float) -> Row:
    """The row with what it took each seed to reach the threshold."""
    there = [value >= threshold for value in row.seed_means]
    cost = [
        reached(Path(run), threshold, floor) if ok else Reached(None, None)
        for run, ok in zip(row.runs, there, strict=True)
    ]
    return dataclasses.replace(
        row,
        reached=there,
        steps_to_threshold=[one.steps for one in cost],
        seconds_to_threshold=[one.seconds for one in cost],
        exploring=any(one.exploring for one in cost),
    )


def _curve(folder: Path) -> list[tuple[float, float]]:
    return [(line["step"], line["episode_return"]) for line in read_metrics(folder) if "episode_return" in line]


def measure_horizon(config: Config, online: Sequence[Approach]) -> Iterator[Horizon]:
    """What each approach solves as the sweep's argument grows; once more after each of its values."""
    asked = read_sweep(config.horizon_sweep)
    mine = parse_env_kwargs(config.settings.env_kwargs)

    def runs_of(approach: Approach, value: float) -> list[Any]:
        if mine.get(asked.key) == value and config.horizon_seeds <= config.num_seeds:
            return config.runs_of(approach, config.horizon_seeds)  # the comparison's own problem is done already
        kwargs = tuple(pair for pair in config.settings.env_kwargs if pair.partition("=")[0] != asked.key)
        runs = config.runs_of(
            approach,
            config.horizon_seeds,
            env_kwargs=(*kwargs, f"{asked.key}={value}"),
            run_dir=f"{config.folder}/{HORIZON}/{asked.key}={value:g}",
        )
        return [dataclasses.replace(run, num_steps=round(config.horizon_steps * run.num_steps)) for run in runs]

    def level(value: float) -> float:
        needed = config.needed(asked, value)
        assert needed is not None, "`check` refuses what is not known"
        return needed

    makers = {str(approach): partial(runs_of, approach) for approach in online}
    measure = partial(play, num_episodes=config.num_episodes)
    for tried in sweep(asked.values, makers, level, measure, config.workers, config.folder):
        found = {name: list(some) for name, some in tried.items()}
        yield Horizon(key=asked.key, values=list(asked.values), tried=found, steps=config.horizon_steps)
