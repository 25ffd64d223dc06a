"""DPO, IPO and KTO on what people say to each other, with labels from a hidden reward: reward × KL × perplexity.

    python -m benchmarks.preference_algorithms --seeds 0 1 2 --output benchmarks/results/preference_algorithms.json

The clone, the judge of fluency, the prompts and what is measured are those of `benchmarks.rlhf`, so that both tables
can be read together. The clone answers prompts of its own half twice each. The hidden reward is how friendly the
answer's words are (VADER, −1 … 1); a simulated labeller chooses between two answers by Bradley–Terry, and gives each
answer thumbs by its reward alone, against the mean. From these labels, once, the methods learn; the reward itself they
never see. Then each answers prompts of negotiations that nobody has learnt from. Settings were chosen on another seed
(100) than those reported.
"""

import argparse
import json
import math
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from benchmarks.rlhf import CASINO, CLONE, JUDGE_STEPS, MAX_TOKENS, TRAIN, VALID, exchanges, judged
from seqrl.algorithms import bc, dpo, kto, load_speaker, train
from seqrl.data.dialogue_importers import from_casino
from seqrl.data.dialogues import Turn, read_dialogues, write_dialogues
from seqrl.data.preferences import AGENT, USER, Preference, Thumb, write_preferences, write_thumbs
from seqrl.language.agent import LanguageAgent
from seqrl.language.labellers import SimulatedLabeller, bayes_rate, uniform
from seqrl.language.play import Played, play
from seqrl.language.prompted import Prompted, prompts_of
from seqrl.language.sentiment import sentiment
from seqrl.run_folder import CHECKPOINT, read_metrics
from seqrl.statistics import mean_and_half_width

Answer = dict[str, Any]
TEMPERATURE = 0.25
"""Of the labeller: how far apart rewards have to be to be told apart."""
NUM_PROMPTS = 4_000
SHARED: Answer = {
    "num_steps": 200, "batch_size": 32, "learning_rate": 2e-3, "warmup": 10, "held_out": 0.1, "max_tokens": MAX_TOKENS,
    "checkpoint_every": 10**6,
}  # fmt: skip
METHODS: dict[str, tuple[Any, Answer]] = {
    "dpo β 0.2": (dpo, {"beta": 0.2}),
    "dpo β 0.5": (dpo, {"beta": 0.5}),
    "dpo β 1": (dpo, {"beta": 1.0}),
    "dpo β 0.5, ε 0.2": (dpo, {"beta": 0.5, "label_smoothing": 0.2}),
    "ipo β 0.5": (dpo, {"beta": 0.5, "objective": "ipo"}),
    "kto β 0.1": (kto, {"beta": 0.1}),
    "kto β 0.3": (kto, {"beta": 0.3}),
    "kto β 1": (kto, {"beta": 1.0}),
}


def label(said: Sequence[Played], seed: int, folder: Path) -> Answer:
    """Write preferences and thumbs; answers come in pairs to one prompt each. Those that were cut are left out."""
    labeller = SimulatedLabeller(temperature=TEMPERATURE, seed=seed)
    middle = sum(sentiment(each.dialogue.utterances[0]) for each in said) / len(said)
    pairs: list[Preference] = []
    thumbs: list[Thumb] = []
    sure: list[float] = []
    for k in range(0, len(said), 2):
        two = said[k : k + 2]
        if not all(turn.ended for each in two for turn in each.turns):
            continue
        prompt = (Turn(speaker=USER, text=two[0].dialogue.texts[0]),)
        answers = [(Turn(speaker=AGENT, text=each.dialogue.utterances[0]),) for each in two]
        worth = [sentiment(each.dialogue.utterances[0]) for each in two]
        sure.append(labeller.probability(*worth))
        better, worse = answers if labeller.prefers_first(str(k), *worth) else answers[::-1]
        pairs.append(Preference(id=str(k), prompt=prompt, chosen=better, rejected=worse))
        for number in range(2):
            up = uniform(seed, "thumb", k + number) < labeller.probability(worth[number], middle)
            thumbs.append(Thumb(id=str(k + number), prompt=prompt, completion=answers[number], label=up))
    write_preferences(folder / "pairs.jsonl", pairs)
    write_thumbs(folder / "thumbs.jsonl", thumbs)
    return {"pairs": len(pairs), "bayes_rate": bayes_rate(sure), "up": sum(t.label for t in thumbs) / len(thumbs)}


def speakers(seed: int, folder: Path) -> tuple[LanguageAgent, LanguageAgent]:
    """The clone and the judge as `benchmarks.rlhf` trains them; those that are in `folder` already are taken."""
    half = len(list(from_casino(CASINO / TRAIN))) // 2
    parts = {"own": exchanges(CASINO / TRAIN, slice(half)), "other": exchanges(CASINO / TRAIN, slice(half, None))}
    for name, part in {**parts, "valid": exchanges(CASINO / VALID, slice(None))}.items():
        write_dialogues(folder / f"{name}.jsonl", part)
    shared = CLONE | {"task": "people's words", "seed": seed, "max_tokens": MAX_TOKENS, "checkpoint_every": 10**6}
    clone = bc.Config(**shared | {"dialogues": str(folder / "own.jsonl"), "run_dir": str(folder / "clone")})
    other = {"dialogues": str(folder / "other.jsonl"), "run_dir": str(folder / "judge"), "num_steps": JUDGE_STEPS}
    found = []
    for config in (clone, replace(clone, **other)):
        begun = (Path(config.run_dir) / CHECKPOINT).exists()
        found.append(load_speaker(config.run_dir) if begun else train(config))
    return found[0], found[1]


def one_seed(seed: int, methods: Sequence[str], folder: Path) -> Answer:
    """Clone, label, learn and answer."""
    start = time.monotonic()
    clone, judge = speakers(seed, folder)
    asked, prompts = (
        Prompted(prompts_of(read_dialogues(folder / name)), clone.tokenizer) for name in ("own.jsonl", "valid.jsonl")
    )
    said = play(
        asked, clone.voice(), 2 * NUM_PROMPTS, tokenizer=clone.tokenizer, seed=seed, max_tokens=MAX_TOKENS, group_size=2
    )
    seconds = {"speakers and labels": time.monotonic() - start}
    result: Answer = {"labels": label(said, seed, folder), "seconds": seconds, "speakers": {}}
    result["speakers"]["clone"] = judged(clone, clone, judge, prompts, seed)
    for name in methods:
        module, settings = METHODS[name]
        source = {
            "thumbs" if module is kto else "preferences": str(
                folder / ("thumbs.jsonl" if module is kto else "pairs.jsonl")
            )
        }
        config = module.Config(
            **SHARED | settings | source, policy=str(folder / "clone"), seed=seed, run_dir=str(folder / name)
        )
        start = time.monotonic()
        agent = train(config)
        seconds[name] = time.monotonic() - start
        row = result["speakers"][name] = judged(agent, clone, judge, prompts, seed)
        row["metrics"] = list(read_metrics(folder / name))[-1]
        print(f"  seed {seed}: {name} in {seconds[name]:.0f} s: {row}", file=sys.stderr, flush=True)
    return result


SHOWN = ("reward", "kl", "perplexity", "tokens")


def summary(answers: dict[str, Answer]) -> Answer:
    """Means over seeds with 95 % intervals, a speaker each."""
    names = next(iter(answers.values()))["speakers"]
    told = {name: [answer["speakers"][name] for answer in answers.values()] for name in names}
    return {
        name: {key: mean_and_half_width([row[key] for row in rows]) for key in SHOWN} for name, rows in told.items()
    }


def show(rows: Answer) -> None:
    table = Table(title="answers: means over seeds, 95 % intervals; KL in nats an answer, perplexity by the judge")
    for column in ("", *SHOWN):
        table.add_column(column, justify="right" if column else "left")
    for name, row in rows.items():
        table.add_row(name, *(f"{mean:.3f} ± {width:.3f}" for mean, width in row.values()))
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--folder", type=Path, help="keep the runs here, a folder a seed; a clone that is there is taken"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file, after every seed")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not (CASINO / TRAIN).is_file():
        sys.exit(f"CaSiNo is not here: put {TRAIN} and {VALID} into ../shared/data/casino")
    answers: dict[str, Answer] = {}
    for seed in args.seeds:
        folder = args.folder / str(seed) if args.folder else Path(tempfile.mkdtemp(prefix="preferences-"))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            answers[str(seed)] = one_seed(seed, args.methods, folder)
        finally:
            if not args.folder:
                shutil.rmtree(folder, ignore_errors=True)
        rows = summary(answers)
        show(rows)
        if args.output:
            write(args, answers, rows)


def write(args: argparse.Namespace, answers: dict[str, Answer], rows: Answer) -> None:
    settings = {
        "clone": CLONE, "judge_steps": JUDGE_STEPS, "temperature": TEMPERATURE, "prompts": NUM_PROMPTS,
        "shared": SHARED, "methods": {name: METHODS[name][1] for name in args.methods},
    }  # fmt: skip
    command = f"python -m benchmarks.preference_algorithms --seeds {' '.join(map(str, args.seeds))}"
    if args.methods != list(METHODS):
        command += f" --methods {' '.join(map(shlex.quote, args.methods))}"
    content = {"command": command, **machine(), "threads": args.threads, "settings": settings}
    # Of one seed there is no interval, and JSON has no NaN.
    told = {
        name: {key: [mean, None if math.isnan(width) else width] for key, (mean, width) in row.items()}
        for name, row in rows.items()
    }
    content |= {"speakers": told, "seeds": answers}
    args.output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
