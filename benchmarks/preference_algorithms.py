"""DPO, IPO and KTO on what people say to each other, with labels from a hidden reward: reward × KL × perplexity.

    python -m benchmarks.preference_algorithms --seeds 0 1 2 --output benchmarks/results/preference_algorithms.json

A small language model is cloned from CaSiNo's dialogues (../shared/data/casino), and another, the judge, from others of
them. The first answers prompts (what was said before somebody's first two turns) twice each. The hidden reward is how
friendly the answer's words are (VADER, −1 … 1); a simulated labeller chooses between two answers by Bradley–Terry, and
gives each answer thumbs by its reward alone. From these labels DPO and KTO learn. Then each policy answers prompts of
dialogues that nobody learnt from: the hidden reward that it reaches, its exact KL from the cloned model in nats an
answer, and the judge's perplexity. Settings were chosen on another seed (100) than those reported.
"""

import argparse
import json
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
from benchmarks.negotiation import CASINO, TRAIN, VALID, perplexity
from seqrl.algorithms import bc, dpo, kto, train
from seqrl.data.dialogue_importers import from_casino
from seqrl.data.dialogues import Dialogue, Turn, write_dialogues
from seqrl.data.preferences import AGENT, USER, Preference, Thumb, write_preferences, write_thumbs
from seqrl.language.agent import LanguageAgent
from seqrl.language.generation import sayable
from seqrl.language.labellers import SimulatedLabeller, bayes_rate, uniform
from seqrl.language.likelihood import decided, log_probs
from seqrl.language.play import Played, play
from seqrl.language.prompted import Prompt, Prompted, prompts_of
from seqrl.language.rows import rows_of
from seqrl.language.sentiment import sentiment
from seqrl.objectives import kl_divergence
from seqrl.statistics import mean_and_half_width
from seqrl.text import TASKS, Tokenizer

Answer = dict[str, Any]
LANGUAGE_MODEL: Answer = {"hidden_size": 64, "num_steps": 300, "learning_rate": 5e-3, "batch_size": 16}
JUDGE_STEPS = 200
TEMPERATURE = 0.25
"""Of the labeller: how far apart rewards have to be to be told apart."""
TURNS = 4
"""With which a dialogue begins, and which are learnt from: prompts are that short."""
NUM_PROMPTS, NUM_PLAYED = 700, 240
MAX_TOKENS = 32
SHARED: Answer = {"num_steps": 150, "batch_size": 32, "learning_rate": 2e-3, "warmup": 10, "held_out": 0.1}
METHODS: dict[str, tuple[Any, Answer]] = {
    "dpo β 0.1": (dpo, {"beta": 0.1}),
    "dpo β 0.5": (dpo, {"beta": 0.5}),
    "ipo β 0.5": (dpo, {"beta": 0.5, "objective": "ipo"}),
    "kto β 0.1": (kto, {"beta": 0.1}),
}


def prompts_to_answer() -> Prompted:
    """Prompts of dialogues that nobody learns from, in a vocabulary of the words that the others have twenty times."""
    texts = (turn.text for dialogue in from_casino(CASINO / TRAIN) for turn in dialogue.turns)
    prompts = [prompt for each in from_casino(CASINO / VALID) for prompt in beginnings(each)]
    return Prompted(prompts, Tokenizer.of_words(texts, byte_fallback=True, min_count=20))


TASKS["casino_prompts"] = prompts_to_answer


def beginnings(dialogue: Dialogue, most: int = 2) -> list[Prompt]:
    """What was said before each of the agent's first turns."""
    return prompts_of([dialogue])[:most]


def spoken(prompt: Prompt) -> tuple[Turn, ...]:
    return tuple(Turn(speaker=AGENT if mine else USER, text=text) for mine, text in prompt)


def parts() -> tuple[list[Dialogue], list[Dialogue]]:
    """The dialogues that are cloned, and those of the judge."""
    everything = [replace(each, turns=each.turns[:TURNS]) for each in from_casino(CASINO / TRAIN)]
    judged = [each for each in everything if int(each.meta["dialogue"]) % 3 == 0]
    return [each for each in everything if int(each.meta["dialogue"]) % 3 != 0], judged


def label(answers: Sequence[Played], seed: int, folder: Path) -> Answer:
    """Write preferences and thumbs; answers come in pairs to one prompt each. Those that were cut are left out."""
    labeller = SimulatedLabeller(temperature=TEMPERATURE, seed=seed)
    middle = sum(sentiment(each.dialogue.texts[1]) for each in answers) / len(answers)
    pairs: list[Preference] = []
    thumbs: list[Thumb] = []
    sure: list[float] = []
    for k in range(0, len(answers), 2):
        two = answers[k : k + 2]
        if not all(each.turns[-2].ended for each in two):  # behind it is the other's turn, which says nothing
            continue
        prompt = spoken((*two[0].history, *([(False, two[0].dialogue.texts[0])] if two[0].dialogue.texts[0] else [])))
        said = [(Turn(speaker=AGENT, text=each.dialogue.texts[1]),) for each in two]
        worth = [sentiment(each.dialogue.texts[1]) for each in two]
        first = labeller.prefers_first(str(k), *worth)
        sure.append(labeller.probability(*worth))
        better, worse = said if first else said[::-1]
        pairs.append(Preference(id=str(k), prompt=prompt, chosen=better, rejected=worse))
        for number in range(2):
            up = uniform(seed, "thumb", k + number) < labeller.probability(worth[number], middle)
            thumbs.append(Thumb(id=str(k + number), prompt=prompt, completion=said[number], label=up))
    write_preferences(folder / "pairs.jsonl", pairs)
    write_thumbs(folder / "thumbs.jsonl", thumbs)
    return {"pairs": len(pairs), "bayes_rate": bayes_rate(sure), "up": sum(t.label for t in thumbs) / len(thumbs)}


@torch.no_grad()
def judged(agent: LanguageAgent, cloned: LanguageAgent, judge: LanguageAgent, task: Prompted, num: int) -> Answer:
    """What the answers to `num` prompts are worth, and how far they are from what was cloned."""
    played = play(task, agent.voice(), num, tokenizer=agent.tokenizer, seed=77, max_tokens=MAX_TOKENS)
    rows = [rows_of(each.turns, agent.tokenizer) for each in played]
    allowed, said = sayable(agent.tokenizer), decided(rows)
    kl = torch.cat([
        kl_divergence(*(log_probs(each.voice(), rows[k : k + 100], allowed) for each in (agent, cloned))).sum(0)
        for k in range(0, len(rows), 100)
    ])  # fmt: skip
    worth = [sentiment(each.dialogue.texts[1]) for each in played]
    return {
        "reward": sum(worth) / num,
        "kl": float(kl.mean()),
        "perplexity": perplexity(judge, rows),
        "tokens": float(said.valid.sum()) / num,
        "distinct": len({each.dialogue.texts[1] for each in played}) / num,
    }


def one_seed(seed: int, methods: Sequence[str], folder: Path) -> Answer:
    """Clone, label, learn and answer."""
    (cloned, others), task = parts(), prompts_to_answer()
    write_dialogues(folder / "cloned.jsonl", cloned)
    write_dialogues(folder / "others.jsonl", others)
    shared: Answer = {
        "seed": seed,
        "task": "casino_prompts",
        "max_tokens": MAX_TOKENS,
        "log_every": 50,
        "checkpoint_every": 10**6,
    }
    seconds: dict[str, float] = {}

    def timed(name: str, config: Any) -> LanguageAgent:
        start = time.monotonic()
        agent = train(config)
        seconds[name] = time.monotonic() - start
        line = (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()[-1]
        print(f"  seed {seed}: {name} in {seconds[name]:.0f} s {line}", file=sys.stderr, flush=True)
        return agent

    lm = shared | LANGUAGE_MODEL | {"dialogues": str(folder / "cloned.jsonl")}
    clone = timed("cloned", bc.Config(**lm | {"run_dir": str(folder / "bc")}))
    lm |= {"dialogues": str(folder / "others.jsonl"), "num_steps": JUDGE_STEPS, "run_dir": str(folder / "judge")}
    judge = timed("judge", bc.Config(**lm))
    asked = Prompted([prompt for each in cloned for prompt in beginnings(each)], clone.tokenizer)
    answers = play(
        asked, clone.voice(), 2 * NUM_PROMPTS, tokenizer=clone.tokenizer, seed=seed, max_tokens=MAX_TOKENS, group_size=2
    )
    result: Answer = {"labels": label(answers, seed, folder), "seconds": seconds, "policies": {}}
    result["policies"]["cloned"] = judged(clone, clone, judge, task, NUM_PLAYED)
    for name in methods:
        module, settings = METHODS[name]
        source = "thumbs" if module is kto else "preferences"
        file = folder / ("thumbs.jsonl" if module is kto else "pairs.jsonl")
        settings = shared | SHARED | settings | {"policy": str(folder / "bc"), source: str(file)}
        agent = timed(name, module.Config(**settings | {"run_dir": str(folder / name)}))
        result["policies"][name] = judged(agent, clone, judge, task, NUM_PLAYED)
        print(f"  seed {seed}: {name}: {result['policies'][name]}", file=sys.stderr, flush=True)
    return result


def summary(seeds: dict[str, Answer]) -> Answer:
    """Means over seeds with 95 % intervals, a policy each."""
    rows: Answer = {}
    for name in next(iter(seeds.values()))["policies"]:
        told = [answer["policies"][name] for answer in seeds.values()]
        rows[name] = {key: mean_and_half_width([each[key] for each in told]) for key in told[0]}
    return rows


def show(rows: Answer) -> None:
    table = Table(title="answers of policies: means over seeds, 95 % intervals")
    for column in ("", "hidden reward", "KL (nats an answer)", "perplexity", "tokens", "distinct"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in rows.items():
        table.add_row(name, *(f"{mean:.3f} ± {width:.3f}" for mean, width in row.values()))
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file, after every seed")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not (CASINO / TRAIN).is_file():
        sys.exit(f"CaSiNo is not here: put {TRAIN} and {VALID} into ../shared/data/casino")
    answers: dict[str, Answer] = {}
    for seed in args.seeds:
        folder = Path(tempfile.mkdtemp(prefix="preferences-"))
        try:
            answers[str(seed)] = one_seed(seed, args.methods, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        rows = summary(answers)
        show(rows)
        if args.output:
            command = f"python -m benchmarks.preference_algorithms {' '.join(sys.argv[1:])}"
            settings = {
                "language_model": LANGUAGE_MODEL, "judge_steps": JUDGE_STEPS, "temperature": TEMPERATURE,
                "prompts": NUM_PROMPTS, "played": NUM_PLAYED, "shared": SHARED,
                "methods": {name: METHODS[name][1] for name in args.methods},
            }  # fmt: skip
            content = {"command": command, **machine(), "threads": args.threads, "settings": settings}
            content |= {"policies": rows, "seeds": answers}
            args.output.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
