"""Which approach does this problem need? Each gets the same problem over several seeds, and is measured."""

import contextlib
import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.acting import ActingModule
from seqrl.checkpoint import write_json
from seqrl.comparison.additions import check_only_adds
from seqrl.comparison.advice import advice
from seqrl.comparison.approaches import Approach
from seqrl.comparison.config import Config, check, default_settings, read_comparison
from seqrl.comparison.experience import compare_methods
from seqrl.comparison.floor import LONGEST, RANDOM, play_randomly, random_floor, threshold
from seqrl.comparison.folder import RESULTS, locked, write_results
from seqrl.comparison.horizon import measure_horizon
from seqrl.comparison.learning_curve import (
    Reached,
    last_evaluation,
    mean_of_second_half,
    reached,
    read_threshold,
    rewards_clipped,
)
from seqrl.comparison.plot import plot_comparison
from seqrl.comparison.reach import Reach
from seqrl.comparison.report import Comparison, Row
from seqrl.comparison.run_pool import EVALUATION, EVALUATION_SEED, Job, is_done, run_all, seed_of
from seqrl.config import RunConfig, make_environment, problem_name
from seqrl.evaluate import MAX_LENGTH, evaluate
from seqrl.run_folder import check_new, config_to_json, create_folder, read_json, read_metrics
from seqrl.statistics import mean_and_half_width

__all__ = ["Config", "check", "compare", "default_settings", "read_comparison"]


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
        files = {"config.json": config_to_json("compare", config)}
        if floor := play_randomly(config):
            files[RANDOM] = floor._asdict()
        create_folder(config.folder, files)
    with locked(config.folder):
        if resumed and (there := read_comparison(config.folder)) != config:
            check_only_adds(there, config)
            write_json(config.folder / "config.json", config_to_json("compare", config))
        return _compare(config)


def _compare(config: Config) -> Comparison:
    online, methods = config.named()
    runs = {approach: config.runs_of(approach) for approach in online}
    jobs = [Job(f"{config.label(approach)} seed {run.seed}", run) for approach in online for run in runs[approach]]
    # Where random actions are the floor, all are cut at the same step: what goes on for ever would else be above it.
    longest = LONGEST if config.memoryless() is None else MAX_LENGTH
    measure = partial(play, num_episodes=config.num_episodes, max_length=longest)
    try:
        failed = run_all(jobs, measure, config.workers, config.folder)
    except KeyboardInterrupt:
        done = [approach for approach in online if all(is_done(run.run_dir) for run in runs[approach])]
        if done and not _tells_more(config.folder, done):
            _write(summarise(config, done), config.folder)
        raise
    online = [approach for approach in online if all(is_done(run.run_dir) for run in runs[approach])]
    if not online:
        raise failed[0]
    result = dataclasses.replace(summarise(config, online), failed=[str(error) for error in failed])
    shows_parts = not _tells_more(config.folder, online)
    if shows_parts:
        _write(result, config.folder)
    if config.horizon_sweep:
        for horizon, failed in measure_horizon(config, online, measure):
            result = dataclasses.replace(result, horizon=horizon, failed=[*result.failed, *map(str, failed)])
            if shows_parts:
                _write(result, config.folder)
    if methods:
        folders = [Path(run.run_dir) for approach in online for run in runs[approach]]
        offline, verdict = compare_methods(config, folders)
        result = dataclasses.replace(result, offline=offline, verdict=verdict)
    _write(result, config.folder)
    plot_comparison(result, config.folder / "compare.png")
    return result


def _tells_more(folder: Path, done: Sequence[Approach]) -> bool:
    """Whether results.json, as it was before something was added, holds and tells of more than `done`."""
    if not (folder / RESULTS).is_file():
        return False
    before = read_json(folder, RESULTS)
    rows = before.get("rows") or ()
    holds = all(is_done(folder / Path(run).name) for row in rows for run in row.get("runs", ()))
    more = {row.get("approach") for row in rows} - set(map(str, done))
    return holds and bool(more or before.get("offline") or before.get("horizon"))


def _write(result: Comparison, folder: Path) -> None:
    write_results(folder, dataclasses.asdict(result), result.markdown(advice(result)))


def play(run: RunConfig, agent: ActingModule, *, num_episodes: int, max_length: int) -> dict[str, Any]:
    """Returns and lengths of a trained agent's episodes, how many of them were cut at `max_length`, and whether it drew
    its actions."""
    seed = seed_of(run, EVALUATION_SEED)
    with contextlib.closing(make_environment(run, min(num_episodes, 50))) as environment:
        played = evaluate(agent, environment, num_episodes, seed, agent.draws, max_length=max_length)
    returns, lengths = played.returns.tolist(), played.lengths.tolist()
    return {"returns": returns, "lengths": lengths, "num_cut": played.num_cut, "drawn": agent.draws}


def summarise(config: Config, online: Sequence[Approach]) -> Comparison:
    """The measured figures of these approaches' runs in the comparison's folder."""
    settings = config.settings
    runs = {approach: config.runs_of(approach) for approach in online}
    results = {approach: [read_json(Path(run.run_dir), EVALUATION) for run in runs[approach]] for approach in online}
    floor, given = random_floor(config), read_threshold(config.threshold)
    rows = [_row(approach, runs[approach], results[approach]) for approach in online]
    best = max(rows, key=lambda row: row.mean)
    needed = threshold(config, floor, best.mean, best.episodes_half_width, len(rows))
    return Comparison(
        env=problem_name(vars(settings)),
        num_steps=settings.num_steps,
        num_episodes=config.num_episodes,
        optimal=config.optimal(),
        memoryless=config.memoryless(),
        rows=[_with_cost(row, needed, floor.mean if floor else 0.0) for row in rows],
        threshold=needed,
        share=given.value if given.is_share else None,
        random=floor.mean if floor else None,
        random_half_width=floor.half_width if floor else 0.0,
    )


def _row(approach: Approach, runs: list[Any], results: list[dict[str, Any]]) -> Row:
    folders = [Path(run.run_dir) for run in runs]
    means = [float(np.mean(result["returns"])) for result in results]
    mean, half_width = mean_and_half_width(means)
    _, of_episodes = mean_and_half_width([value for result in results for value in result["returns"]])
    seconds = float(np.mean([result["seconds"] for result in results]))
    ended = [last_evaluation(path) for path in folders]
    stale = [mean_of_second_half(path, "delta_q_first") for path in folders]
    known = [value for value in stale if value is not None]
    drawn = [result.get("drawn", False) for result in results]
    return Row(
        approach=str(approach),
        memory=approach.name,
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
        # What draws is the agent of the last step, whose evaluations in training took its likeliest actions.
        final_means=[mean if draws else last for mean, draws, (last, _) in zip(means, drawn, ended, strict=True)],
        earlier_kept=[earlier for _, earlier in ended],
        reach=Reach.of(approach, runs[0], float(np.mean([steps for result in results for steps in result["lengths"]]))),
        delta_q=float(np.mean(known)) if known else None,
        num_cut=sum(result.get("num_cut", 0) for result in results),
        rewards_clipped=max(map(rewards_clipped, folders)),
        drawn=drawn,
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
