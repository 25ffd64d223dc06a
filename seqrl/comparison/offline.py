"""Is this log worth learning from, and by which method? Each learns from the same episodes over several seeds."""

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import tyro

from seqrl.acting import ActingModule
from seqrl.algorithms import decision_transformer
from seqrl.algorithms.decision_transformer import chosen_episodes, relabelled
from seqrl.audit import audit
from seqrl.audit.reading import Rows
from seqrl.calibrate import calibrate, target_grid
from seqrl.checkpoint import write_json
from seqrl.comparison.folder import RESULTS, check_grows, locked, write_results
from seqrl.comparison.report_offline import MethodRow, OfflineComparison, Score, plot_offline
from seqrl.comparison.run_pool import EVALUATION, EVALUATION_SEED, Job, check_seeds, is_done, run_all, seed_of
from seqrl.comparison.verdict import verdict
from seqrl.config import make_environment, problem_name, require
from seqrl.data import EpisodeDataset
from seqrl.decision_agent import DecisionAgent
from seqrl.errors import UserError, nearest
from seqrl.evaluate import evaluate
from seqrl.offline.config import problem_of
from seqrl.offline.relabel import seconds_of
from seqrl.offline.training import held_out_metrics
from seqrl.recipes import behaviour_cloning, filtered_bc, qdt
from seqrl.run_folder import config_from_json, config_to_json, create_folder, read_json
from seqrl.spaces import difference

TYPE = "compare_offline"
"""The type in the config.json of such a comparison."""
CALIBRATION_SEED = 20_000
"""Added to a run's seed, so that targets are chosen by other episodes than those that are reported."""
NUM_TARGETS = 11

METHODS: dict[str, Callable[[], decision_transformer.Config]] = {
    "behaviour_cloning": behaviour_cloning,
    "filtered_bc": filtered_bc,
    "decision_transformer": decision_transformer.Config,
    "qdt": qdt,
}
"""From the simplest on, by the names that `seqrl train` knows them by."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to compare, and how thoroughly. All other flags hold for every method; --best-share is filtered_bc's."""

    methods: tuple[str, ...] = tuple(METHODS)
    """The methods to compare: any of behaviour_cloning, filtered_bc, decision_transformer, qdt."""
    num_seeds: int = 3
    """Runs of each method, with the seeds SEED, SEED + 1, …"""
    num_episodes: int = 100
    """Evaluation episodes of each run."""
    target_episodes: int = 20
    """Episodes for each target return that is tried, of methods that are asked for one."""
    play: bool = True
    """Whether the environment is played; without, agents are asked about held-out actions alone."""
    workers: int = 0
    """Runs that train at the same time; 0 for one on each processor."""
    settings: Annotated[decision_transformer.Config, tyro.conf.arg(name="")] = field(default_factory=filtered_bc)


def compare(config: Config, resumed: bool = False) -> tuple[OfflineComparison, list[str]]:
    """Train every method on every seed, measure each run, and write results.json, table.md and compare.png.

    Returns the figures and the verdict. Everything goes under `settings.run_dir`, one run folder for each method and
    seed. With `resumed`, runs that are done are kept and the others continued; `config` may then have more methods and
    seeds than the folder's config.json, which is brought to it. A method of which a run fails is left out, and what
    was wrong is in `failed`. Raises UserError for bad settings, a folder that holds no episodes, an environment that
    does not fit them, an existing run folder, one that another process works in, and where no method is left.
    """
    dataset = EpisodeDataset.open(config.settings.dataset, config.settings.gamma)
    settings = problem_of(config.settings, dataset)
    config = dataclasses.replace(config, settings=settings, play=config.play and bool(settings.env))
    runs = runs_of(config)
    check(config, dataset)
    folder = Path(settings.run_dir)
    if not resumed:
        create_folder(folder, {"config.json": config_to_json(TYPE, config)})
    with locked(folder):
        if resumed:
            _bring_folder_to(config, dataset)
        jobs = [Job(f"{method} seed {run.seed}", run) for method, some in runs.items() for run in some]
        measured = partial(
            measure, num_episodes=config.num_episodes if config.play else 0, per_target=config.target_episodes
        )
        failed = run_all(jobs, measured, config.workers, folder)
        done = [method for method, some in runs.items() if all(is_done(run.run_dir) for run in some)]
        if not done:
            raise failed[0]
        result = summarise(dataclasses.replace(config, methods=tuple(done)), dataset)
        result = dataclasses.replace(result, failed=[str(error) for error in failed])
        sentences = verdict(result)
        write_results(folder, {**dataclasses.asdict(result), "verdict": sentences}, result.markdown(sentences))
        plot_offline(result, folder / "compare.png")
    return result, sentences


def _bring_folder_to(config: Config, dataset: EpisodeDataset) -> None:
    """Let config.json say what `config` adds, and the runs' where their log is: it may have been moved with them.

    Raises UserError where runs would learn from another log than before.
    """
    folder = Path(config.settings.run_dir)
    there = read_comparison(folder)
    check_grows(folder, (there.num_seeds, config.num_seeds), (there.methods, config.methods))
    if (folder / RESULTS).is_file():
        before = read_json(folder, RESULTS)["data"]
        now = _size_and_returns(dataset)
        require(
            all(before.get(name) == value for name, value in now.items()),
            f"{dataset.folder} holds other episodes than the runs in {folder} learnt from: restore them, or remove "
            "these runs and compare anew",
        )
    if there != config:
        write_json(folder / "config.json", config_to_json(TYPE, config))
    for run in (run for some in runs_of(config).values() for run in some):
        path = Path(run.run_dir)
        if path.exists() and (settings := read_json(path, "config.json")).get("dataset") != run.dataset:
            write_json(path / "config.json", settings | {"dataset": run.dataset})


def read_comparison(folder: Path) -> Config:
    """The config of a comparison's folder."""
    data, path = read_json(folder, "config.json"), folder / "config.json"
    settings = config_from_json(data.pop("settings", None), decision_transformer.Config, path)
    settings = dataclasses.replace(settings, run_dir=str(folder))
    return dataclasses.replace(config_from_json(data, Config, path), settings=settings)


def runs_of(config: Config) -> dict[str, list[decision_transformer.Config]]:
    """By method, its runs' configs, which differ in the method and the seed alone."""
    for method in config.methods:
        require(method in METHODS, f"unknown method '{method}' (--methods): {nearest(method, METHODS)}")
    runs = {}
    for method in config.methods:
        recipe = METHODS[method]()
        settings = dataclasses.replace(
            config.settings,
            condition=recipe.condition,
            relabel=recipe.relabel,
            best_share=1.0 if recipe.best_share == 1 else config.settings.best_share,
            return_bins=config.settings.return_bins if recipe.condition == "return" else 1,
        )
        runs[method] = [
            dataclasses.replace(settings, seed=settings.seed + k, run_dir=f"{settings.run_dir}/{method}_s{k}")
            for k in range(config.num_seeds)
        ]
    return runs


def check(config: Config, dataset: EpisodeDataset) -> None:
    """Raise UserError for settings that make no sense, before anything is written."""
    require(len(set(config.methods)) == len(config.methods), "--methods names one twice: name each once")
    require(bool(config.methods), "--methods is empty: name at least one")
    check_seeds(config.settings.seed, config.num_seeds)
    for flag, number in (("--num-episodes", config.num_episodes), ("--target-episodes", config.target_episodes)):
        require(number >= 2, f"{flag} is {number}: an interval needs at least 2")
    default = filtered_bc()
    for name in ("condition", "relabel"):
        same = getattr(config.settings, name) == getattr(default, name)
        require(same, f"--{name} is what methods differ in: choose them with --methods")
    for run, *_ in runs_of(config).values():
        decision_transformer.check(run)
        decision_transformer.build(run, dataset.observation_space, dataset.action_space)
    if not config.play:
        held_out = config.settings.held_out > 0 and dataset.num_episodes > 1
        require(held_out, "nothing is played, and no episodes are held out (--held-out): nothing could be measured")
        return
    try:
        environment = make_environment(config.settings, 1)
    except UserError as error:
        raise UserError(f"{error}; or compare without it (--no-play)") from None
    with contextlib.closing(environment):
        for name, logged, played in (
            ("observation", dataset.observation_space, environment.single_observation_space),
            ("action", dataset.action_space, environment.single_action_space),
        ):
            wrong = difference(logged, played, name, ordered=name == "action")
            require(
                not wrong,
                f"the {name} space of {dataset.folder} is not that of {config.settings.env}: {wrong}; give the "
                "environment of the log (--env, --env-kwargs, --hide), or compare without (--no-play)",
            )


def measure(
    run: decision_transformer.Config, agent: ActingModule, *, num_episodes: int, per_target: int
) -> dict[str, Any]:
    """What is known of a trained agent: held-out metrics, promises of relabelled returns, and returns by playing.

    One that is asked for a return plays twice: asked for the best of its log, and for what `calibrate` recommends,
    which is found by other episodes.
    """
    assert isinstance(agent, DecisionAgent)
    dataset = EpisodeDataset.open(run.dataset, run.gamma)
    learnt_from, held_out = chosen_episodes(dataset, run)
    result: dict[str, Any] = {}
    if run.relabel == "values":
        raised, held_out = relabelled(learnt_from, held_out, run)
        result["seconds"] = seconds_of(Path(run.run_dir) / "return_to_go.npy")
        result["promise"] = promise(learnt_from, raised.return_to_go)
    result["held_out"] = held_out_metrics(agent, held_out, run, decision_transformer.loss)
    if not num_episodes:
        return result
    with contextlib.closing(make_environment(run, min(num_episodes, 50))) as environment:
        play = partial(evaluate, agent, environment, num_episodes, seed_of(run, EVALUATION_SEED))
        result["returns"] = play().returns.tolist()
        if agent.conditioned:
            targets = sorted({*target_grid(dataset, NUM_TARGETS), float(agent.target_return)})
            each = max(1, min(per_target, 200 // len(targets)))
            with contextlib.closing(make_environment(run, each * len(targets))) as many:
                found = calibrate(agent, many, dataset, targets, per_target, seed_of(run, CALIBRATION_SEED))
            agent.target_return = found.recommended
            result |= {"calibration": found.as_dict(), "calibrated": play().returns.tolist()}
    return result


def promise(dataset: EpisodeDataset, return_to_go: np.ndarray) -> dict[str, float]:
    """What relabelled returns [R] promise at the beginnings of episodes, and the best that was logged from there.

    Both are means over episodes of the highest among those that begin with the same observation; where most begin with
    one of their own, all count as the same beginning. Of large logs, a sample.
    """
    rows = Rows(dataset, 500_000, 1 << 28, seed=0)
    first = rows.row[rows.begin]
    _, place, count = np.unique(rows.hashes[rows.begin], return_inverse=True, return_counts=True)
    if (count[place] > 1).mean() < 0.5:
        place = np.zeros_like(place)
    highest = {}
    for name, values in (("promised", return_to_go[first]), ("logged", dataset.return_to_go[first])):
        best = np.full(place.max() + 1, -np.inf)
        np.maximum.at(best, place, values)
        highest[name] = float(best[place].mean())
    return highest


def summarise(config: Config, dataset: EpisodeDataset) -> OfflineComparison:
    """The measured figures of all runs in the comparison's folder, and those of the log."""
    settings = config.settings
    rows = [_row(method, [Path(run.run_dir) for run in runs]) for method, runs in runs_of(config).items()]
    return OfflineComparison(
        dataset=settings.dataset,
        env=problem_name(vars(settings)) if config.play else "",
        num_steps=settings.num_steps,
        num_seeds=config.num_seeds,
        num_episodes=config.num_episodes,
        best_share=settings.best_share,
        data=about_log(dataset),
        differences=differences_of({row.method: row for row in rows}),
        rows=rows,
    )


def _row(method: str, folders: list[Path]) -> MethodRow:
    results = [read_json(folder, EVALUATION) for folder in folders]

    def score(*path: str) -> Score | None:
        """Over seeds, of what stands at `path` in each result; of lists, their means."""
        values: list[Any] = results
        for key in path:
            values = [value.get(key) for value in values if value is not None]
        known = [float(np.mean(value)) for value in values if value is not None]
        return Score.of(known) if len(known) == len(results) else None

    returns, calibrated = score("returns"), score("calibrated")
    main = returns or score("held_out", "log_likelihood") or score("held_out", "held_out_log_likelihood")
    assert main is not None, "a run that was not measured"
    best = np.max([s.seeds for s in (main, calibrated) if s is not None], axis=0)
    held_out = {name: score("held_out", name) for name in results[0]["held_out"]}
    promised = {name: score("promise", name) for name in results[0].get("promise", ())}
    return MethodRow(
        method=method,
        returns=returns,
        calibrated=calibrated,
        asked_for=score("calibration", "recommended"),
        held_out={name.removeprefix("held_out_"): value for name, value in held_out.items() if value is not None},
        promise={name: value for name, value in promised.items() if value is not None} or None,
        calibrations=[
            {name: result["calibration"][name] for name in ("targets", "achieved")}
            for result in results
            if "calibration" in result
        ],
        follows=score("calibration", "rank_correlation"),
        seconds=float(np.mean([result["seconds"] for result in results])),
        num_parameters=results[0]["num_parameters"],
        best_run=str(folders[int(np.argmax(best))]),
    )


def differences_of(rows: dict[str, MethodRow]) -> dict[str, Score]:
    """Seed by seed: what calibration, asking, stitching and filtering bring; of what was played."""
    found = {}
    for name, (one, other) in {
        "decision_transformer over filtered_bc": ("decision_transformer", "filtered_bc"),
        "qdt over decision_transformer": ("qdt", "decision_transformer"),
        "filtered_bc over behaviour_cloning": ("filtered_bc", "behaviour_cloning"),
    }.items():
        if one in rows and other in rows and rows[one].returns is not None:
            found[name] = rows[one].best - rows[other].best
    for name, row in rows.items():
        if row.calibrated is not None and row.returns is not None:
            found[f"{name}: calibrated over the log's best"] = row.calibrated - row.returns
    return found


def _size_and_returns(dataset: EpisodeDataset) -> dict[str, Any]:
    returns = dataset.returns
    return {
        "episodes": dataset.num_episodes,
        "decisions": len(dataset),
        "mean": float(returns.mean()),
        "lowest": float(returns.min()),
        "highest": float(returns.max()),
    }


def about_log(dataset: EpisodeDataset) -> dict[str, Any]:
    """Figures of the log: its returns, and what an audit says of chance and of coverage."""
    returns = dataset.returns
    low, high = float(returns.min()), float(returns.max())
    figures = audit(dataset).as_dict()["figures"]
    space, seen = dataset.action_space, None
    if isinstance(space, gym.spaces.Box) and np.isfinite(space.high - space.low).all():
        some = np.linspace(0, len(dataset.reward) - 1, 100_000).astype(np.int64)
        action = dataset.action[np.setdiff1d(some, dataset.starts[1:] - 1)]  # without final observations' rows
        seen = float((np.ptp(action, axis=0) / np.maximum(space.high - space.low, 1e-12)).min())
    return {
        **_size_and_returns(dataset),
        "near_best": int((returns >= high - 0.1 * (high - low)).sum()),
        "action_shares": figures.get("action_shares"),
        "action_range": seen,
        **{name: figures.get(name, 0.0) for name in ("seen_again", "followed_by_another", "truncated")},
    }
