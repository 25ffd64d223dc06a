"""CHAI against what proposes to it: negotiations with scripted counterparts, learnt from scripted and human dialogues.

    python -m benchmarks.negotiation --seeds 1 2 3 --output benchmarks/results/negotiation.json

The log of a seed mixes negotiations of good, mediocre and bad scripted speakers with all six counterparts, and CaSiNo's
(../shared/data/casino, each as both participants, with the briefing in front). Cloned from it: a language model, one of
the best fifth alone, and from a log of other dialogues one more, by which fluency is measured: the perplexity of what
a speaker said. CHAI's critics, one of each form, and a discriminator are learnt from the same log. Each
speaker then talks to each counterpart in the same negotiations: the same priorities of both sides, by which differences
from the language model are paired. Settings were chosen on another seed (100) than those reported.
"""

import argparse
import dataclasses
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from seqrl.algorithms import bc, chai, train
from seqrl.data.dialogue_importers import from_casino
from seqrl.data.dialogues import Dialogue, Turn, write_dialogues
from seqrl.language.agent import LanguageAgent
from seqrl.language.generation import Voice
from seqrl.language.play import play
from seqrl.language.rows import TokenRows, batch_of, rows_of, token_turns
from seqrl.language.scripted import AGENT, OTHER, scripted_dialogues
from seqrl.statistics import mean_and_half_width
from seqrl.text import TASKS, Tokenizer
from seqrl.text.negotiation import Negotiation
from seqrl.text.negotiation_counterparts import COUNTERPARTS
from seqrl.text.negotiation_optimum import NegotiationOptimum
from seqrl.text.negotiation_parsing import ITEMS
from seqrl.text.negotiation_words import briefing

Answer = dict[str, Any]
CASINO = Path(__file__).parents[1].parent / "shared" / "data" / "casino"
TRAIN, VALID = "casino_train.json", "casino_valid.json"
SPEAKERS = ("good", "mediocre", "bad")
LANGUAGE_MODEL: Answer = {"num_steps": 900, "learning_rate": 4e-3, "batch_size": 16, "hidden_size": 64}
FILTERED_STEPS, JUDGE_STEPS = 300, 400
CRITIC: Answer = {"num_steps": 700, "learning_rate": 2e-3, "batch_size": 16, "hidden_size": 64, "gamma": 0.9}
FORMS: dict[str, Answer] = {
    "chai proposals": {"critic": "proposals"},
    "chai cql": {"critic": "cql", "alpha": 0.3},
    "chai brac": {"critic": "brac", "alpha": 0.1, "discriminator": True, "gate": 0.3},
}
"""One of them with a discriminator: it speaks without its gate and with it."""
NUM_SCRIPTED, NUM_PLAYED = 1_600, 60
MAX_TOKENS = 48
MOST_CHARACTERS = 800
"""Of one of CaSiNo's dialogues, those that are learnt from."""


def people(path: Path) -> Iterator[Dialogue]:
    """CaSiNo's negotiations as the task's: what the agent is told at first is in front."""
    levels = {"high": 5, "medium": 4, "low": 3}
    for number, dialogue in enumerate(from_casino(path)):
        points = {dialogue.meta[level]: value for level, value in levels.items()}
        told = briefing([points[item.capitalize()] for item in ITEMS])
        turns = [
            dataclasses.replace(turn, speaker=AGENT if turn.speaker == dialogue.agent else OTHER)
            for turn in dialogue.turns
        ]
        if turns[0].speaker == OTHER:
            turns[0] = dataclasses.replace(turns[0], text=f"{told} {turns[0].text}")
        else:
            turns.insert(0, Turn(speaker=OTHER, text=told))
        yield dataclasses.replace(dialogue, id=f"people {number}", agent=AGENT, turns=tuple(turns))


def make_task(counterpart: str = "mixed") -> Negotiation:
    """The task, with a vocabulary that has people's words too: those that were said 50 times; others are letters."""
    task = Negotiation(counterpart)
    said = {name: [turn.text for each in people(CASINO / name) for turn in each.turns] for name in (TRAIN, VALID)}
    common = Tokenizer.of_words(said[TRAIN], min_count=50).pieces
    letters = {letter for texts in said.values() for text in texts for letter in text}
    task.tokenizer = Tokenizer(sorted({*task.tokenizer.pieces, *common, *letters}))
    return task


TASKS["negotiation_of_people"] = make_task


def write_log(path: Path, task: Negotiation, num_scripted: int, seed: int, people_of: str) -> Answer:
    scripted = list(scripted_dialogues(task, SPEAKERS, num_scripted, seed))
    human = [each for each in people(CASINO / people_of) if sum(len(t.text) for t in each.turns) < MOST_CHARACTERS]
    write_dialogues(path, [*scripted, *human])
    points = [[sum(turn.reward or 0.0 for turn in each.turns) for each in part] for part in (scripted, human)]
    return {
        "scripted": len(scripted), "scripted_mean": sum(points[0]) / len(scripted),
        "people": len(human), "people_mean": sum(points[1]) / len(human),
    }  # fmt: skip


@torch.no_grad()
def perplexity(agent: LanguageAgent, rows: Sequence[TokenRows]) -> float:
    """exp of the mean over the agent's tokens of −log π(token | all before)."""
    total, count = 0.0, 0
    for first in range(0, len(rows), 64):
        batch = batch_of(rows[first : first + 64])
        log_prob = agent.policy.logits(agent.policy(batch.tokens[:-1])).log_softmax(-1)
        said = log_prob.gather(-1, batch.tokens[1:, :, None])[..., 0]
        total -= float(said[batch.mask].sum())
        count += int(batch.mask.sum())
    return math.exp(total / count)


def talk(voice: Voice, judge: LanguageAgent, tasks: dict[str, Negotiation], num: int, seed: int) -> Answer:
    """Points of every negotiation with each counterpart, how many were agreed, and how fluent it was."""
    result: Answer = {}
    for name, task in tasks.items():
        played = play(task, voice, num, seed=10_000 + seed, max_tokens=MAX_TOKENS, batch_size=100)
        result[name] = {
            "points": [each.total for each in played],
            "agreement": sum(bool(each.dialogue.outcome["agreement"]) for each in played) / num,
            "turns": sum(len(each.dialogue.rewards) for each in played) / num,
            "perplexity": perplexity(judge, [rows_of(each.turns, task.tokenizer) for each in played]),
        }
    return result


def one_seed(seed: int, forms: Sequence[str], folder: Path, num_scripted: int, num_played: int) -> Answer:
    """Log, train and talk."""
    task = make_task()
    tasks = {name: Negotiation(name) for name in COUNTERPARTS}
    for each in tasks.values():
        each.tokenizer = task.tokenizer
    seconds, start = {}, time.monotonic()
    log, other = folder / "log.jsonl", folder / "other.jsonl"
    about = write_log(log, task, num_scripted, seed, TRAIN)
    write_log(other, task, num_scripted // 3, seed + 50_000, VALID)
    seconds["logs"] = time.monotonic() - start
    shared: Answer = {
        "dialogues": str(log), "task": "negotiation_of_people", "seed": seed, "max_tokens": MAX_TOKENS,
        "held_out": 0.03, "log_every": 500, "checkpoint_every": 10**6,
    }  # fmt: skip
    lm = shared | LANGUAGE_MODEL
    configs: Answer = {
        "language model": bc.Config(**lm | {"run_dir": str(folder / "bc")}),
        "filtered": bc.Config(
            **lm | {"run_dir": str(folder / "filtered"), "best_share": 0.2, "num_steps": FILTERED_STEPS}
        ),
        "judge": bc.Config(
            **lm | {"run_dir": str(folder / "judge"), "dialogues": str(other), "num_steps": JUDGE_STEPS}
        ),
    }
    for form in forms:
        settings = shared | CRITIC | FORMS[form] | {"policy": str(folder / "bc"), "run_dir": str(folder / form)}
        if form != forms[0]:  # what is proposed is the same for all
            settings["proposals"] = str(folder / forms[0])
        configs[form] = chai.Config(**settings)
    agents: dict[str, Any] = {}
    metrics: Answer = {}
    for name, config in configs.items():
        start = time.monotonic()
        agents[name] = train(config)
        seconds[name] = time.monotonic() - start
        metrics[name] = json.loads((Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()[-1])
        print(f"  seed {seed}: {name} in {seconds[name]:.0f} s {metrics[name]}", file=sys.stderr, flush=True)
    valid = [rows_of(token_turns(each, task.tokenizer), task.tokenizer) for each in people(CASINO / VALID)]
    judge = agents.pop("judge")
    result: Answer = {"log": about, "metrics": metrics, "seconds": seconds, "speakers": {}}
    result["casino_valid_perplexity"] = perplexity(agents["language model"], valid)
    for name, agent in agents.items():
        start = time.monotonic()
        voices = {name: agent.voice()}
        if getattr(agent, "discriminator", None) is not None:
            voices = {name: agent.voice(gate=0.0), f"{name}, discriminator": agent.voice()}
        for each, voice in voices.items():
            result["speakers"][each] = talk(voice, judge, tasks, num_played, seed)
        seconds[f"talking: {name}"] = time.monotonic() - start
        shown = {
            c: f"{sum(x['points']) / num_played:.2f} {x['agreement']:.2f} {x['perplexity']:.2f} {x['turns']:.1f}"
            for c, x in result["speakers"][name].items()
        }
        print(f"  seed {seed}: {name}: {shown}", file=sys.stderr, flush=True)
    return result


def summary(seeds: dict[str, Answer]) -> Answer:
    """For each counterpart and speaker: mean points, and the mean of paired differences from the language model."""
    names = list(next(iter(seeds.values()))["speakers"])
    rows: Answer = {}
    for counterpart in [*COUNTERPARTS, "all"]:
        among = [counterpart] if counterpart in COUNTERPARTS else list(COUNTERPARTS)
        rows[counterpart] = {}
        for name in names:
            told = [answer["speakers"][name][c] for answer in seeds.values() for c in among]
            base = [answer["speakers"]["language model"][c] for answer in seeds.values() for c in among]
            more = [
                a - b for x, y in zip(told, base, strict=True) for a, b in zip(x["points"], y["points"], strict=True)
            ]
            difference, half_width = mean_and_half_width(more)
            rows[counterpart][name] = {
                "points": sum(sum(x["points"]) for x in told) / len(more),
                "difference": difference, "half_width": half_width,
                "agreement": sum(x["agreement"] for x in told) / len(told),
                "perplexity": math.exp(sum(math.log(x["perplexity"]) for x in told) / len(told)),
                "turns": sum(x["turns"] for x in told) / len(told),
            }  # fmt: skip
    return rows


def best_possible() -> Answer:
    """Of who knows which counterpart it talks to, but not its priorities."""
    return {name: NegotiationOptimum(Negotiation(name)).expected_points for name in COUNTERPARTS}


def show(rows: Answer, best: Answer) -> None:
    names = list(rows["all"])
    table = Table(title="points (difference from the language model, paired, 95 %) · agreement · perplexity")
    table.add_column("")
    for name in [*names, "best possible"]:
        table.add_column(name, justify="right")
    for counterpart, row in rows.items():
        cells = [
            f"{x['points']:.2f} ({x['difference']:+.2f} ± {x['half_width']:.2f}) · {x['agreement']:.0%} · "
            f"{x['perplexity']:.2f}"
            for x in row.values()
        ]
        table.add_row(counterpart, *cells, f"{best[counterpart]:.2f}" if counterpart in best else "")
    Console(width=220).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--num-scripted", type=int, default=NUM_SCRIPTED, help="scripted dialogues of a log")
    parser.add_argument("--num-played", type=int, default=NUM_PLAYED, help="negotiations with each counterpart")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file, after every seed")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not (CASINO / TRAIN).is_file():
        sys.exit(f"CaSiNo is not here: put {TRAIN} and {VALID} into ../shared/data/casino")
    best = best_possible()
    answers: dict[str, Answer] = {}
    for seed in args.seeds:
        folder = Path(tempfile.mkdtemp(prefix="negotiation-"))
        try:
            answers[str(seed)] = one_seed(seed, args.forms, folder, args.num_scripted, args.num_played)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        rows = summary(answers)
        show(rows, best)
        if args.output:
            write(args, answers, rows, best)


def write(args: argparse.Namespace, answers: dict[str, Answer], rows: Answer, best: Answer) -> None:
    settings = {
        "language_model": LANGUAGE_MODEL, "filtered_steps": FILTERED_STEPS, "judge_steps": JUDGE_STEPS,
        "critic": CRITIC, "forms": {form: FORMS[form] for form in args.forms}, "scripted": args.num_scripted,
        "played": args.num_played, "speakers": SPEAKERS,
    }  # fmt: skip
    per_seed = {
        seed: {
            **{key: answer[key] for key in ("log", "metrics", "seconds", "casino_valid_perplexity")},
            "points": {
                name: {c: sum(x["points"]) / len(x["points"]) for c, x in told.items()}
                for name, told in answer["speakers"].items()
            },
        }
        for seed, answer in answers.items()
    }
    command = f"python -m benchmarks.negotiation {' '.join(sys.argv[1:])}"
    content = {"command": command, **machine(), "threads": args.threads, "settings": settings, "best_possible": best}
    content |= {"counterparts": rows, "seeds": per_seed}
    args.output.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
