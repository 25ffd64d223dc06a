"""The lecture's table, measured: which approach remembers, learns soon, is stable, stitches, and what labels cost.

    make table                                   # everything, from where it was interrupted
    python -m benchmarks.table corridors         # some parts
    python -m benchmarks.table --no-run          # docs/table.md again, from benchmarks/results/table.json

Every part is a `seqrl compare` in a folder of its own under runs/table: on a problem, or on a log that is made for a
purpose. Runs that are done are not done again, so what was interrupted goes on; `docs/table.md` is written after each
part, and says of what was not measured that it was not. On two cores that do nothing else it takes ten minutes.

    corridors   a log whose best needs the first half of one episode and the second half of another: who joins them?
    gamble      a log whose highest returns are luck: who is fooled by it?
    cartpole    CartPole without velocities, where four frames tell the velocities: what does learning cost?
    tmaze       a cue at the start, a junction `length` steps later: how far back does each look? And what do methods
                make of what the others played?

What preferences cost is read from benchmarks/results/preference_cost.json, if it is there; how far back memories look,
and how stale R2D2's start states are, from other benchmarks' results where the table has not measured it.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from benchmarks.adjectives_page import document
from benchmarks.learning import RESULTS, machine
from benchmarks.offline.controllers import Part, crossing_log, write_log
from seqrl.checkpoint import write_atomically
from seqrl.comparison import offline as compare_offline
from seqrl.comparison import online as compare
from seqrl.config import require
from seqrl.data import EpisodeDataset
from seqrl.data.episode_files import INDEX
from seqrl.offline.config import problem_of

DOCUMENT = Path(__file__).parent.parent / "docs" / "table.md"
TABLE = "table.json"
OTHERS = {
    "preferences": "preference_cost.json",
    "recall": "memory_length_recall.json",
    "staleness": "staleness.json",
}
"""Further benchmarks' results that docs/table.md reads, if they are there."""
MEMORIES = ("none", "frame_stack", "gru", "lstm", "linear")
ACTING = (*(f"ppo:{memory}" for memory in MEMORIES), "impala:gru", "r2d2:gru", "ppo:transformer")
LEARNERS = ("bc", "best_bc", "decision_transformer", "qdt")


def tmaze(folder: Path) -> compare.Config:
    """Rollouts of 128 rows, so that gradients reach back from the junction; R2D2 and IMPALA as in their recipes."""
    settings = dataclasses.replace(
        compare.default_settings("seqrl/TMaze-v0"), env_kwargs=("length=10",), num_steps=80_000, num_envs=32,
        rollout_length=128, run_dir=str(folder),
    )  # fmt: skip
    return compare.Config(
        approaches=(*ACTING, *LEARNERS),
        override=(
            "r2d2.num_steps=60000", "r2d2.replay_ratio=8.0", "impala.num_steps=300000", "offline.num_steps=600",
            "offline.batch_size=32", "offline.hidden_size=64", "offline.num_layers=2", "offline.warmup=50",
            "offline.value_updates=600", "offline.log_every=50",
        ),
        horizon_sweep="length=10,30,100",
        horizon_seeds=1,
        horizon_steps=2.0,
        settings=settings,
    )  # fmt: skip


def cartpole(folder: Path) -> compare.Config:
    settings = compare.default_settings("seqrl/MaskedCartPole-v0")
    settings = dataclasses.replace(settings, num_steps=100_000, run_dir=str(folder))
    approaches = ("ppo:none", "ppo:frame_stack", "ppo:gru", "ppo:lstm", "impala:gru")
    return compare.Config(approaches=approaches, override=("impala.num_steps=200000",), settings=settings)


def corridors(folder: Path) -> compare_offline.Config:
    """A third of the episodes are the best, and are what filtered_bc learns from.

    The cell says all, so methods see one row: those who came through A went on to B in the log, and a longer context
    tells QDT which way it came (docs/log.md).
    """
    log = folder.parent / "corridors_log"
    if not (log / INDEX).is_file():
        write_log(log, "seqrl/CrossingCorridors-v0", crossing_log(3), seed=0, env_kwargs={"length": 3})
    return on_log(log, folder, num_steps=400, context_length=1, value_updates=1000, best_share=1 / 3)


def gamble(folder: Path) -> compare_offline.Config:
    """Four rounds of 1 for sure or 3 with a chance of 0.2, at random: more than 4 was luck."""
    log = folder.parent / "gamble_log"
    if not (log / INDEX).is_file():
        write_log(log, "seqrl/Gamble-v0", [Part("random", 2000)], seed=0, num_envs=200)
    config = on_log(log, folder, num_steps=500, context_length=4)
    return dataclasses.replace(config, methods=("behaviour_cloning", "filtered_bc", "decision_transformer"))


def on_log(log: Path, folder: Path, **settings: Any) -> compare_offline.Config:
    default = compare_offline.Config()
    common = {"hidden_size": 64, "num_layers": 2, "warmup": 50, "log_every": 50, "batch_size": 32}
    changed = dataclasses.replace(default.settings, dataset=str(log), run_dir=str(folder), **(common | settings))
    return dataclasses.replace(default, settings=changed)


PARTS: dict[str, Callable[[Path], compare.Config | compare_offline.Config]] = {
    part.__name__: part for part in (corridors, cartpole, tmaze, gamble)
}
"""In the order in which they are measured."""


def run(part: str, folder: Path, workers: int) -> None:
    """Measure a part of the table, or what is left of it. Raises UserError where its folder has other settings."""
    path = folder / part
    config = dataclasses.replace(PARTS[part](path), workers=workers)
    resumed = (path / "config.json").is_file()
    if isinstance(config, compare_offline.Config):
        dataset = EpisodeDataset.open(config.settings.dataset)
        config = dataclasses.replace(config, settings=problem_of(config.settings, dataset))
        _check_same(config, compare_offline.read_comparison(path) if resumed else config)
        compare_offline.compare(config, resumed)
    else:
        _check_same(config, compare.read_comparison(path) if resumed else config)
        compare.compare(config, resumed)


def _check_same(config: Any, before: Any) -> None:
    folder = config.settings.run_dir
    same = dataclasses.replace(before, workers=config.workers) == config
    require(same, f"{folder} was begun with other settings than {Path(__file__).name} has now: remove it")


def gather(folder: Path) -> dict[str, Any]:
    """What is known of each part: its `results.json` without the curves, and its `table.md`; null where nothing is."""
    parts: dict[str, Any] = {}
    for part in PARTS:
        path = folder / part
        known = (path / "results.json").is_file()
        parts[part] = _without_curves(json.loads((path / "results.json").read_text())) if known else None
        if known:
            parts[part]["table"] = (path / "table.md").read_text()
    return {"command": "make table", **machine(), "parts": parts}


def _without_curves(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_curves(child) for key, child in value.items() if key != "curves"}
    return [_without_curves(child) for child in value] if isinstance(value, list) else value


def write(found: dict[str, Any]) -> None:
    """benchmarks/results/table.json, and docs/table.md made of it."""
    write_atomically(RESULTS / TABLE, (json.dumps(found, indent=1) + "\n").encode())
    write_document(found)


def write_document(found: dict[str, Any]) -> None:
    paths = {name: RESULTS / file for name, file in OTHERS.items()}
    others = {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}
    write_atomically(DOCUMENT, document(found, others).encode())


def main(
    parts: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(PARTS),
    /,
    folder: Path = Path("runs/table"),
    workers: int = 0,
    measure: Annotated[bool, tyro.conf.arg(name="run")] = True,
) -> int:
    """Measure `parts`, or what is left of them, under `folder`, with `workers` processes (0: one on each core)."""
    if not measure:
        write_document(json.loads((RESULTS / TABLE).read_text()))
        return 0
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        print(f"{part} …", flush=True)
        try:
            run(part, folder, workers)
        except KeyboardInterrupt:
            write(gather(folder))
            print("interrupted; continue with: make table", file=sys.stderr)
            return 130
        write(gather(folder))
    print(f"-> {DOCUMENT.name}")
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
