"""Logs in which two utterances of five insult: what cloning, values and filters make of them.

    python -m benchmarks.toxic_logs --seeds 0 1 2 --output benchmarks/results/toxic_logs.json

Good, mediocre and bad speakers negotiate with a conceder, each insulting as often as the others, so a clone insults
too. ILQL learns from the same dialogues with rewards of points less a penalty for each utterance that insults. All are
played in the same negotiations, by drawn tokens: their points, and the share of their utterances that a list of words
flags. The last one is cloned and may not say those words. Settings were chosen on seed 100.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from seqrl.algorithms import bc, ilql, train
from seqrl.data.dialogues import write_dialogues
from seqrl.language.generation import Voice
from seqrl.language.play import play
from seqrl.language.scripted import logged
from seqrl.language.toxic_logs import MILD, flagged_share, toxic_logs
from seqrl.language.word_list import Filtered
from seqrl.statistics import mean_and_half_width
from seqrl.text.negotiation import Negotiation

Answer = dict[str, Any]
COUNTERPART, NUM_TURNS, PENALTY = "conceder", 4, 5.0
SHARED: Answer = {
    "task": "negotiation", "task_kwargs": (f"counterpart={COUNTERPART}", f"max_turns={NUM_TURNS}"), "hidden_size": 128,
    "batch_size": 32, "max_tokens": 48, "log_every": 100,
}  # fmt: skip
POLICY: Answer = {"num_steps": 1_500, "learning_rate": 3e-3}
VALUES: Answer = {
    "num_steps": 1_500, "learning_rate": 2e-3, "gamma": 0.99, "expectile": 0.7, "cql_weight": 0.03, "polyak": 0.05,
}  # fmt: skip
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0)
NUM_LOGGED, NUM_PLAYED = 3_000, 500


def measure(seed: int) -> Answer:
    """Points and flagged share of the log and of each speaker, and the seconds of training."""
    torch.set_num_threads(1)
    task = Negotiation(COUNTERPART, max_turns=NUM_TURNS)
    with tempfile.TemporaryDirectory() as name:
        folder, begin = Path(name), time.monotonic()
        log = list(toxic_logs(task, NUM_LOGGED, seed=seed))
        write_dialogues(folder / "points.jsonl", log)
        write_dialogues(folder / "clean.jsonl", toxic_logs(task, NUM_LOGGED, penalty=PENALTY, seed=seed))
        shared = SHARED | {"seed": seed}
        policy = bc.Config(**shared | POLICY, dialogues=str(folder / "points.jsonl"), run_dir=str(folder / "bc"))
        clone = train(policy)
        values = shared | VALUES | {"policy": str(folder / "bc"), "run_dir": str(folder / "ilql")}
        steered = train(ilql.Config(**values, dialogues=str(folder / "clean.jsonl")))
        seconds = time.monotonic() - begin
    speakers: dict[str, Voice] = {"bc": clone.voice()}
    speakers |= {f"ilql β={beta:g}": steered.voice(beta) for beta in BETAS}
    speakers["bc, words forbidden"] = Filtered(clone.voice(), task.tokenizer, MILD)
    rows = {"log": {"points": points(log), "flagged": flagged_share(log)}}
    for name, voice in speakers.items():
        rows[name] = talk(task, voice, seed)
        print(f"seed {seed} {name}: {rows[name]}", flush=True)
    return {"seed": seed, "rows": rows, "seconds": round(seconds, 1)}


def talk(task: Negotiation, voice: Voice, seed: int) -> Answer:
    played = play(task, voice, NUM_PLAYED, seed=10_000 + seed, max_tokens=SHARED["max_tokens"])
    said = [logged(each.dialogue, number) for number, each in enumerate(played)]
    return {"points": points(said), "flagged": flagged_share(said)}


def points(dialogues: list[Any]) -> float:
    return sum(turn.reward or 0.0 for each in dialogues for turn in each.turns) / len(dialogues)


def show(runs: list[Answer]) -> None:
    """Means over seeds; how many times fewer utterances are flagged than the clone's, by each seed."""
    table = Table("", "points (95 %)", "flagged", "times fewer than the clone's, by seed")
    for name in runs[0]["rows"]:
        mine = [run["rows"][name] for run in runs]
        mean, half_width = mean_and_half_width([row["points"] for row in mine])
        flagged = sum(row["flagged"] for row in mine) / len(mine)
        fewer = [_times(run["rows"]["bc"]["flagged"], run["rows"][name]["flagged"]) for run in runs]
        table.add_row(name, f"{mean:.2f} ± {half_width:.2f}", f"{flagged:.2%}", ", ".join(fewer))
    Console(width=100).print(table)


def _times(before: float, after: float) -> str:
    return f"{before / after:.3g}" if after else "none left" if before else f"{math.nan}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    runs = []
    for seed in args.seeds:
        runs.append(measure(seed))
        if args.output:
            about = {"command": f"python -m benchmarks.toxic_logs {' '.join(sys.argv[1:])}".strip(), **machine()}
            settings = {"shared": SHARED, "policy": POLICY, "values": VALUES, "penalty": PENALTY, "logged": NUM_LOGGED}
            content = {**about, "settings": settings, "runs": runs}
            args.output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    show(runs)


if __name__ == "__main__":
    main()
