"""IMPALA while one of its actors is killed every few seconds: does the learner go on, and what is lost?

    python -m benchmarks.faults --output benchmarks/results/faults.json     # two minutes for each engine

`seqrl train masked_cartpole_impala` as a process of its own; `kill -9` goes to the actors in turn, to the oldest.
The run's log has a line for
each update, with the rate of steps since the start, so the moments of all updates are known, and with them the longest
time that the learner was without anything to learn from. What an actor was collecting is lost with it: the engine
counts that, and how often it began an actor anew. Afterwards the run is resumed for a while. Rows
are added to those of the file.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from seqrl.run_folder import read_metrics

COMMAND = [sys.executable, "-m", "seqrl", "train"]


def processes_of(session: int) -> dict[int, bytes]:
    """Process ids and command lines of all that is left of a session."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            if not folder.name.isdigit() or os.getsid(int(folder.name)) != session:
                continue
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            if (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found[int(folder.name)] = words
        except OSError:  # gone in the meantime
            continue
    return found


def actors(session: int) -> list[int]:
    """Process ids of the actors of a training run, the oldest first; its processes are those of its session."""
    found = processes_of(session)
    return sorted(pid for pid, words in found.items() if b"spawn_main" in words or b"_RemoteActor" in words)


def kill_actors(folder: Path, engine: str, minutes: float, every: float, num_actors: int = 2) -> dict[str, Any]:
    """Train in `folder` for `minutes` from the first update on, a kill `every` seconds; then end it as Ctrl-C does.

    Raises RuntimeError, with what the run wrote, if it ends by itself.
    """
    log = folder.with_suffix(".log")
    flags = ["masked_cartpole_impala", "--engine", engine, "--num-actors", str(num_actors)]
    flags += ["--num-steps", "1000000000", "--run-dir", str(folder)]
    with log.open("w") as file:
        run = subprocess.Popen([*COMMAND, *flags], stdout=file, stderr=file, start_new_session=True)

    def wait(seconds: float) -> None:
        time.sleep(seconds)
        if run.poll() is not None:
            raise RuntimeError(log.read_text())

    try:
        metrics = folder / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            wait(0.1)
        killed, sizes, end = 0, [], time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            wait(every)
            sizes.append(metrics.stat().st_size)
            alive = actors(run.pid)
            if alive:
                os.kill(alive[0], signal.SIGKILL)
                killed += 1
        wait(2 * every)  # so that the last one is begun anew
        lines = list(read_metrics(folder))
    finally:
        run.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            run.wait(60)
        for pid in processes_of(run.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    learnt_in = sum(after > before for before, after in pairwise([0, *sizes]))
    return {"killed": killed, "intervals": len(sizes), "learnt_in": learnt_in, **told(lines)}


def told(lines: list[dict[str, float]]) -> dict[str, Any]:
    """What the log of a run says, from its first line on: losses, and the moments of its updates."""
    moments = [line["step"] / line["steps_per_second"] for line in lines]
    pauses = [after - before for before, after in pairwise(moments)]
    return {
        "actors_restarted": round(lines[-1]["actors_restarted"]),
        "trajectories_lost": round(lines[-1]["trajectories_lost"]),
        "updates": len(lines),
        "seconds": moments[-1] - moments[0],
        "longest_pause": max(pauses),
        "median_pause": median(pauses),
        "learner_utilisation": mean(line["learner_utilisation"] for line in lines),
        "last_step": round(lines[-1]["step"]),
        "episode_return": mean([line["episode_return"] for line in lines if "episode_return" in line][-100:]),
    }


def resume(folder: Path, num_steps: int) -> str:
    """Let a run go on until step `num_steps`. Returns what it wrote to stderr if it failed, else nothing."""
    arguments = ["--resume", str(folder), "--num-steps", str(num_steps)]
    resumed = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False)
    return resumed.stderr if resumed.returncode else ""


def show(rows: list[dict[str, Any]]) -> None:
    names = (
        "engine",
        "num_actors",
        "every",
        "killed",
        "actors_restarted",
        "trajectories_lost",
        "intervals",
        "learnt_in",
        "updates",
    )
    table = Table(*names, "longest pause, s", "median", "return at the end")
    for row in rows:
        if "ended" in row:
            table.add_row(*(str(row[name]) for name in names[:3]), row["ended"])
            continue
        pauses = f"{row['longest_pause']:.2f}", f"{row['median_pause']:.3f}"
        table.add_row(*(str(row[name]) for name in names), *pauses, f"{row['episode_return']:.0f}")
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=["async", "ray"], default=["async", "ray"])
    parser.add_argument("--num-actors", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between kills")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()

    rows = []
    for engine in args.engines:
        what = {"engine": engine, "num_actors": args.num_actors, "every": args.every, **machine()}
        with tempfile.TemporaryDirectory() as place:
            try:
                row = kill_actors(Path(place) / "run", engine, args.minutes, args.every, args.num_actors)
            except RuntimeError as error:
                ended = str(error).strip().splitlines()[-1]
                rows.append({**what, "ended": ended})
                continue
            failed = resume(Path(place) / "run", row["last_step"] + 20_000)
        rows.append({**what, **row, "resumed": not failed})
    if args.output and args.output.exists():
        rows = json.loads(args.output.read_text())["rows"] + rows
    show(rows)
    if args.output:
        result = {"command": "python -m benchmarks.faults", **machine(), "minutes": args.minutes, "rows": rows}
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
