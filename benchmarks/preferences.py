"""What labels are worth: reward models against the Bayes rate, fine-tuning by them, and the cost of preferences.

    python -m benchmarks.preferences sentiment --seeds 0 1 2 --output benchmarks/results/preference_cost.json
    python -m benchmarks.preferences negotiation --seeds 0 1 2 --output benchmarks/results/preference_loop.json

A small language model is cloned, and answers twice each of N times; a simulated labeller chooses by a reward that is
hidden (Bradley–Terry, temperature τ); from so many choices a reward model learns, and by its scores PPO fine-tunes the
clone. What is measured is the hidden reward: before, after, and after fine-tuning by the hidden reward itself.

    sentiment     single turns in negotiations with all counterparts; hidden: VADER of the turn, −1 … 1
    negotiation   whole negotiations with the fair counterpart; hidden: the points of the deal, 5 without one

What is cloned is the talk of scripted negotiators, good and bad ones; for sentiment rude ones too.

A reward model is judged by other questions than it learnt from, by the expected share of choices that it foretells: the
labeller's probabilities are known, so its luck does not count. The Bayes rate is that of the hidden reward itself.
Settings were chosen on another seed (100) than those reported.
"""

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from seqrl.algorithms import bc, reward_model, rlhf, train
from seqrl.checkpoint import write_atomically
from seqrl.data.dialogues import read_dialogues, write_dialogues
from seqrl.data.preferences import Preference, write_preferences
from seqrl.language.agent import LanguageAgent
from seqrl.language.labellers import HIDDEN, SimulatedLabeller, bayes_rate
from seqrl.language.play import play
from seqrl.language.preferences import PreferenceDataset
from seqrl.language.prompted import Prompted, prompts_of
from seqrl.language.reward_model import RewardAgent
from seqrl.language.reward_report import answers, reward_report
from seqrl.language.scoring import of_reward
from seqrl.language.scripted import scripted_dialogues
from seqrl.people.labelling import Question, question_of
from seqrl.statistics import mean_and_half_width
from seqrl.text import TextTask, make_task

matplotlib.use("Agg")

Answer = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
CLONE: Answer = {"hidden_size": 64, "num_steps": 400, "learning_rate": 6e-3, "batch_size": 16, "warmup": 20}
TUNE: Answer = {
    "num_conversations": 64, "batch_size": 32, "num_epochs": 2, "learning_rate": 5e-3, "kl_weight": 0.2,
}  # fmt: skip
MAX_TOKENS, NUM_PLAYED = 24, 400
HELD_OUT = 600
"""Questions that reward models are judged by."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is said, what is hidden, and how each part learns."""

    speakers: tuple[str, ...]
    """Scripted negotiators, whose talk is cloned."""
    kwargs: Answer
    """Of the task."""
    prompted: bool
    """Whether single turns are answered, or else whole negotiations compared."""
    hidden: str
    temperature: float
    """τ of the labeller, in units of the hidden reward."""
    reward: str
    """The same reward, as fine-tuning names it."""
    pairs: tuple[int, ...]
    """How many are labelled; each number's pairs are the first of the next one's."""
    judge: Answer
    tune: Answer


SENTIMENT = Problem(
    speakers=("good", "mediocre", "bad", "rude"),
    kwargs={"counterpart": "mixed", "max_turns": 3},
    prompted=True,
    hidden="sentiment",
    temperature=0.25,
    reward="own_sentiment",
    pairs=(30, 300, 1_000, 3_000),
    judge={"batch_size": 32, "learning_rate": 8e-3, "weight_decay": 5.0, "warmup": 10, "num_steps": 300},
    tune=TUNE | {"num_steps": 20},
)
NEGOTIATION = Problem(
    speakers=("good", "mediocre", "bad"),
    kwargs={"max_turns": 3},
    prompted=False,
    hidden="points",
    temperature=3.0,
    reward="task",
    pairs=(3_000,),
    judge={"batch_size": 32, "learning_rate": 3e-3, "warmup": 10, "num_steps": 400},
    tune=TUNE | {"num_steps": 25, "kl_weight": 0.05},
)
PROBLEMS = {"sentiment": SENTIMENT, "negotiation": NEGOTIATION}


class Bench:
    """One seed's folder: what speaks, where, and what is measured."""

    def __init__(self, name: str, seed: int, folder: Path) -> None:
        self.problem, self.seed, self.folder = PROBLEMS[name], seed, folder
        self.seconds: dict[str, float] = {}
        log = folder / "log.jsonl"
        task = make_task("negotiation", **self.problem.kwargs)
        write_dialogues(log, scripted_dialogues(task, self.problem.speakers, 600, seed))
        self.shared: Answer = {
            "seed": seed, "max_tokens": MAX_TOKENS, "log_every": 20, "checkpoint_every": 10**6, "monitor": "off",
        }  # fmt: skip
        given: Answer = {
            "task": "negotiation", "task_kwargs": tuple(f"{key}={value}" for key, value in self.problem.kwargs.items())
        }  # fmt: skip
        clone = {key: value for key, value in self.shared.items() if key != "monitor"} | CLONE | given
        config = bc.Config(**clone | {"dialogues": str(log), "run_dir": str(folder / "bc")})
        self.clone = self.timed("clone", config)
        self.task: TextTask[Any] = task
        self.where = given
        if self.problem.prompted:
            self.task, self.where = Prompted(prompts_of(read_dialogues(log)), task.tokenizer), {"prompts": str(log)}

    def timed(self, name: str, config: Any) -> Any:
        start = time.monotonic()
        agent = train(config)
        self.seconds[name] = time.monotonic() - start
        line = json.loads((Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()[-1])
        told = {key: round(value, 3) for key, value in line.items()}
        print(f"  seed {self.seed}: {name} in {self.seconds[name]:.0f} s {told}", file=sys.stderr, flush=True)
        return agent

    def questions(self, count: int, seed: int) -> list[Question]:
        """`count` questions, less those whose answers are the same."""
        start = time.monotonic()
        played = play(
            self.task, self.clone.voice(), 2 * count, tokenizer=self.clone.tokenizer, seed=seed, group_size=2,
            max_tokens=MAX_TOKENS,
        )  # fmt: skip
        asked = (question_of(f"{seed}-{k}", played[2 * k : 2 * k + 2]) for k in range(count))
        self.seconds["answers"] = self.seconds.get("answers", 0.0) + time.monotonic() - start
        return [question for question in asked if question is not None]

    def label(self, questions: Sequence[Question]) -> tuple[list[Preference], list[float]]:
        """The labeller's choices, and with what probability it made each."""
        labeller = SimulatedLabeller(temperature=self.problem.temperature, seed=self.seed)
        hidden = HIDDEN[self.problem.hidden]
        preferences, chosen = [], []
        for question in questions:
            worth = question.worth(hidden)
            first = labeller.prefers_first(question.id, *worth)
            preferences.append(question.preference(0 if first else 1, labeller.name, {}))
            p = labeller.probability(*worth)
            chosen.append(p if first else 1 - p)
        return preferences, chosen

    def reward(self, agent: LanguageAgent) -> Answer:
        """The hidden reward of what a policy says, and how long that is."""
        played = play(
            self.task, agent.voice(), NUM_PLAYED, tokenizer=agent.tokenizer, seed=70_000 + self.seed,
            max_tokens=MAX_TOKENS,
        )  # fmt: skip
        returns = [sum(each) for each in of_reward(HIDDEN[self.problem.hidden])(played)]
        tokens = sum(len(turn.ids) for each in played for turn in each.turns if turn.agent and not turn.given)
        texts = {text for each in played for text in each.dialogue.utterances}
        said = sum(len(each.dialogue.utterances) for each in played)
        return {"reward": sum(returns) / len(returns), "tokens": tokens / said, "distinct": len(texts) / said}

    def tuned(self, name: str, reward: str) -> Answer:
        """The hidden reward after fine-tuning by `reward`, and the exact KL and the score at the end."""
        settings = self.shared | self.problem.tune | self.where | {"policy": str(self.folder / "bc")}
        run = self.folder / f"tuned by {name}"
        agent = self.timed(run.name, rlhf.Config(**settings | {"reward": (reward,), "run_dir": str(run)}))
        line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        told = self.reward(agent) | {key: line[key] for key in ("kl", "conversation_score") if key in line}
        print(f"  seed {self.seed}: {run.name}: {told}", file=sys.stderr, flush=True)
        return told


@torch.no_grad()
def judged(agent: RewardAgent, preferences: Sequence[Preference], chosen: Sequence[float]) -> Answer:
    """The share of such choices that a reward model foretells, and the Bayes rate: expected, given the pairs."""
    dataset = PreferenceDataset.of(preferences, agent.tokenizer)
    report = reward_report(agent, dataset).to_json()
    margins = []
    for first in range(0, len(dataset), 256):
        batch = answers(dataset.pairs(range(first, min(first + 256, len(dataset)))))
        one, other = agent.ensemble.returns(batch.tokens, batch.mask).mean(0).chunk(2)
        margins += (one - other).tolist()
    foretold = [p if margin > 0 else 1 - p for p, margin in zip(chosen, margins, strict=True)]
    rate, bayes = sum(foretold) / len(foretold), bayes_rate(chosen)
    return {"expected_accuracy": rate, "bayes_rate": bayes, "short_of_it": bayes - rate, "report": report}


def one_seed(name: str, seed: int, folder: Path) -> Answer:
    """Clone, label, judge and fine-tune."""
    bench = Bench(name, seed, folder)
    problem = bench.problem
    questions = bench.questions(max(problem.pairs), seed + 1)
    preferences, _ = bench.label(questions)
    fresh, chosen = bench.label(bench.questions(HELD_OUT, seed + 50_000))
    result: Answer = {"seconds": bench.seconds, "before": bench.reward(bench.clone), "pairs": {}, "after": {}}
    for count in problem.pairs:
        path = folder / f"{count}.jsonl"
        write_preferences(path, preferences[:count])
        run = folder / f"judge {count}"
        settings = bench.shared | problem.judge | {"policy": str(folder / "bc"), "held_out": 0.0}
        del settings["monitor"], settings["max_tokens"]
        agent = bench.timed(run.name, reward_model.Config(**settings | {"preferences": str(path), "run_dir": str(run)}))
        result["pairs"][str(count)] = judged(agent, fresh, chosen)
        shortened = {key: value for key, value in result["pairs"][str(count)].items() if key != "report"}
        print(f"  seed {seed}: {count} pairs: {shortened}", file=sys.stderr, flush=True)
        result["after"][str(count)] = bench.tuned(f"{count} pairs", str(run))
    worths = torch.tensor([question.worth(HIDDEN[problem.hidden]) for question in questions])
    weight = 1 / float(worths.std(correction=0))  # as scores of reward models are scaled: the KL counts the same
    result["after"]["hidden"] = bench.tuned("the hidden reward", f"{problem.reward}={weight:.6g}")
    return result


def summary(problem: Problem, seeds: dict[str, Answer]) -> Answer:
    """Means over seeds, with 95 % intervals where there are several."""

    def mean(values: Sequence[float]) -> Answer:
        middle, half_width = mean_and_half_width(list(values))
        return {"mean": middle, "half_width": half_width if len(values) > 1 else None, "seeds": list(values)}

    every = list(seeds.values())
    return {
        "before": mean([each["before"]["reward"] for each in every]),
        "after": {key: mean([each["after"][key]["reward"] for each in every]) for key in every[0]["after"]},
        "accuracy": {
            str(count): {
                key: mean([each["pairs"][str(count)][key] for each in every])
                for key in ("expected_accuracy", "bayes_rate", "short_of_it")
            }
            for count in problem.pairs
        },
    }


def spread(found: Answer) -> str:
    """A mean, and half of its 95 % interval where there are several seeds."""
    return f"{found['mean']:.3f}" + (f" ± {found['half_width']:.3f}" if found["half_width"] is not None else "")


def show(name: str, result: Answer) -> None:
    table = Table(title=f"{name}: hidden reward {result['before']['mean']:.3f} before")
    for column in ("pairs", "foretold", "Bayes rate", "short of it", "hidden reward after"):
        table.add_column(column, justify="right")
    for count, each in result["accuracy"].items():
        after = result["after"].get(count)
        told = "" if after is None else spread(after)
        rates = (f"{each[key]['mean']:.1%}" for key in ("expected_accuracy", "bayes_rate", "short_of_it"))
        table.add_row(count, *rates, told)
    hidden = result["after"]["hidden"]
    table.add_row("the hidden reward itself", "", "", "", spread(hidden))
    Console(width=110).print(table)


def plot(result: Answer, path: Path) -> None:
    """The hidden reward after fine-tuning against labelled pairs."""
    from matplotlib import pyplot

    counts = [int(count) for count in result["after"] if count != "hidden"]
    figure, axes = pyplot.subplots(figsize=(6, 4))
    means = [result["after"][str(count)]["mean"] for count in counts]
    widths = [result["after"][str(count)]["half_width"] or 0.0 for count in counts]
    axes.errorbar(counts, means, widths, marker="o", capsize=3)
    for place, count in enumerate(counts):
        values = result["after"][str(count)]["seeds"]
        axes.plot([count] * len(values), values, ".", color="grey", label="seeds" if place == 0 else None)
    axes.axhline(result["before"]["mean"], linestyle=":", color="black", label="cloned policy")
    axes.axhline(result["after"]["hidden"]["mean"], linestyle="--", color="green", label="by the hidden reward itself")
    axes.set(xscale="log", xlabel="labelled pairs", ylabel="hidden reward (mean sentiment)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    problem = PROBLEMS[args.problem]
    settings = json.loads(json.dumps({"clone": CLONE, "num_played": NUM_PLAYED, **dataclasses.asdict(problem)}))
    known = json.loads(args.output.read_text()) if args.output and args.output.exists() else {}
    seeds: dict[str, Answer] = known.get("by_seed", {}) if known.get("settings") == settings else {}
    for seed in args.seeds:
        if str(seed) in seeds:
            continue
        start, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="preferences-"))
        try:
            answer = one_seed(args.problem, seed, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        seeds[str(seed)] = json.loads(json.dumps({"minutes": (time.monotonic() - start) / 60, **answer}))
        if args.output:
            write(args.problem, settings, seeds, args.output)
    show(args.problem, summary(problem, seeds))


def write(name: str, settings: Answer, seeds: dict[str, Answer], path: Path) -> None:
    """All that is known so far: a run that was stopped goes on with the seeds that are left."""
    seeds = dict(sorted(seeds.items(), key=lambda item: int(item[0])))
    result = summary(PROBLEMS[name], seeds)
    command = (
        f"python -m benchmarks.preferences {name} --seeds {' '.join(seeds)} --output benchmarks/results/{path.name}"
    )
    content = {"command": command, **machine(), "settings": settings, **result, "by_seed": seeds}
    if len(PROBLEMS[name].pairs) > 1:
        curve = [{"pairs": int(n), "reward": result["after"][n]["mean"]} for n in result["after"] if n != "hidden"]
        content |= {"curve": curve, "before": result["before"]["mean"], "before_by_seed": result["before"]}
        plot(result, path.with_suffix(".png"))
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
