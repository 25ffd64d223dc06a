"""Friendlier answers: a small language model of negotiations, fine-tuned by the sentiment of what it says itself.

    python -m benchmarks.rlhf --seeds 0 1 2 --output benchmarks/results/rlhf.json

CaSiNo's negotiations (../shared/data/casino) are cut into exchanges: what one says, and the other's answer. Of half of
the negotiations a policy is cloned, from scratch; of the other half a judge, by which fluency is measured: the
perplexity of answers under a model that has seen none of what the policy learnt from. The policy then answers what was
said in its half, and is paid by VADER's sentiment of its answer, −1 … 1: by PPO, RLOO and GRPO with a budget of KL,
and by PPO without any KL. Judged are answers to what is said in negotiations that nobody has learnt from (the
validation split): reward, exact KL from the clone, the judge's perplexity, and what the monitor says of the run.
Settings were chosen on other seeds (from 100) than those reported.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from seqrl.algorithms import bc, load_speaker, rlhf, train
from seqrl.data.dialogue_importers import from_casino
from seqrl.data.dialogues import Dialogue, Turn, read_dialogues, write_dialogues
from seqrl.language.agent import LanguageAgent
from seqrl.language.play import Played, play
from seqrl.language.prompted import Prompted, prompts_of
from seqrl.language.rows import batch_of, rows_of
from seqrl.language.tuned import TunedAgent
from seqrl.language.tuning import observe
from seqrl.language_runs.rlhf import make_scorer
from seqrl.run_folder import CHECKPOINT, read_metrics
from seqrl.statistics import mean_and_half_width
from seqrl.text import TASKS, TextTask, Tokenizer

Answer = dict[str, Any]
CASINO = Path(__file__).parents[1].parent / "shared" / "data" / "casino"
TRAIN, VALID = "casino_train.json", "casino_valid.json"
MAX_TOKENS = 40
"""Of an answer; longer ones of people are not learnt from."""
MIN_COUNT = 25
"""How often a word is said that is a token; others are letters."""
CLONE: Answer = {"num_steps": 800, "learning_rate": 5e-3, "batch_size": 32, "hidden_size": 64, "held_out": 0.05}
JUDGE_STEPS = 500
BUDGET = 3.0
"""Nats an answer."""
SHARED: Answer = {
    "reward": ("own_sentiment",), "num_conversations": 64, "batch_size": 64, "num_steps": 40, "learning_rate": 2e-3,
    "warmup": 5, "unfinished_penalty": 1.0, "kl_weight": 0.05, "kl_budget": BUDGET, "max_tokens": MAX_TOKENS,
    "checkpoint_every": 10**6,
}  # fmt: skip
METHODS: dict[str, Answer] = {
    "ppo": {"method": "ppo", "num_epochs": 2},
    "rloo": {"method": "rloo", "num_epochs": 2},
    "grpo": {"method": "grpo", "num_epochs": 2, "kl": "k3", "kl_in": "loss"},
    "ppo without KL": {"method": "ppo", "num_epochs": 3, "kl_weight": 0.0, "kl_budget": 0.0},
}
NUM_JUDGED = 512


def exchanges(path: Path, part: slice) -> list[Dialogue]:
    """What was said and answered, in each negotiation of a part."""
    found = []
    for dialogue in list(from_casino(path))[part]:
        for heard, answer in zip(dialogue.turns, dialogue.turns[1:], strict=False):
            if answer.speaker == dialogue.agent != heard.speaker and max(len(heard.text), len(answer.text)) < 120:
                turns = (Turn(speaker=heard.speaker, text=heard.text), Turn(speaker=answer.speaker, text=answer.text))
                found.append(Dialogue(id=f"{len(found)}", agent=dialogue.agent, turns=turns))
    return found


class Vocabulary(TextTask[Any]):
    """Nothing but people's words: what is cloned takes its vocabulary from here."""

    max_turns = 1
    start = _reply = None  # type: ignore[assignment]

    def __init__(self) -> None:
        texts = [turn.text for each in exchanges(CASINO / TRAIN, slice(None)) for turn in each.turns]
        self.tokenizer = Tokenizer.of_words(texts, min_count=MIN_COUNT, byte_fallback=True)


TASKS["people's words"] = Vocabulary


@torch.no_grad()
def perplexity(agent: LanguageAgent, played: list[Played]) -> float:
    """exp of the mean over the agent's tokens of −log π(token | all before)."""
    batch = batch_of([rows_of(each.turns, agent.tokenizer) for each in played])
    log_prob = agent.policy.logits(agent.policy(batch.tokens[:-1])).log_softmax(-1)
    said = log_prob.gather(-1, batch.tokens[1:, :, None])[..., 0]
    return math.exp(-float(said[batch.mask].mean()))


def judged(agent: LanguageAgent, clone: LanguageAgent, judge: LanguageAgent, prompts: Prompted, seed: int) -> Answer:
    """Answers to prompts that nobody has learnt from."""
    played = play(
        prompts, agent.voice(), NUM_JUDGED, tokenizer=agent.tokenizer, seed=10_000 + seed, max_tokens=MAX_TOKENS
    )
    rewards = [sum(each) for each in make_scorer(("own_sentiment",), agent.tokenizer)(played)]
    pair = TunedAgent(agent.tokenizer, agent.policy)
    pair.reference.load_state_dict(clone.policy.state_dict())
    kl = observe(pair, [rows_of(each.turns, agent.tokenizer) for each in played]).kl.sum(0).tolist()
    reward, reward_half = mean_and_half_width(rewards)
    mean_kl, kl_half = mean_and_half_width(kl)
    return {
        "reward": reward, "reward_half_width": reward_half, "kl": mean_kl, "kl_half_width": kl_half,
        "perplexity": perplexity(judge, played),
        "tokens": sum(len(turn.ids) for each in played for turn in each.turns if turn.agent) / NUM_JUDGED,
        "answers": [each.dialogue.utterances[0] for each in played[:8]],
    }  # fmt: skip


def one_seed(seed: int, methods: list[str], folder: Path, changes: Answer) -> Answer:
    half = len(list(from_casino(CASINO / TRAIN))) // 2
    logs = {name: folder / f"{name}.jsonl" for name in ("own", "other", "valid")}
    write_dialogues(logs["own"], exchanges(CASINO / TRAIN, slice(half)))
    write_dialogues(logs["other"], exchanges(CASINO / TRAIN, slice(half, None)))
    write_dialogues(logs["valid"], exchanges(CASINO / VALID, slice(None)))
    shared = CLONE | {"task": "people's words", "seed": seed, "max_tokens": MAX_TOKENS, "checkpoint_every": 10**6}
    seconds: Answer = {}
    agents: dict[str, Any] = {}
    configs: Answer = {
        "clone": bc.Config(**shared | {"dialogues": str(logs["own"]), "run_dir": str(folder / "clone")}),
        "judge": bc.Config(
            **shared | {"dialogues": str(logs["other"]), "run_dir": str(folder / "judge"), "num_steps": JUDGE_STEPS}
        ),
    }
    for name in methods:
        settings = SHARED | METHODS[name] | changes
        configs[name] = rlhf.Config(
            **settings, policy=str(folder / "clone"), prompts=str(logs["own"]), seed=seed, run_dir=str(folder / name)
        )
    metrics: Answer = {}
    for name, config in configs.items():
        start = time.monotonic()
        trained = (Path(config.run_dir) / CHECKPOINT).exists()
        agents[name] = load_speaker(config.run_dir) if trained else train(config)
        seconds[name] = None if trained else time.monotonic() - start
        metrics[name] = list(read_metrics(Path(config.run_dir)))
        assert metrics[name][-1]["step"] == config.num_steps, f"{config.run_dir} is of other settings: remove it"
        print(f"  seed {seed}: {name} in {seconds[name]} s {metrics[name][-1]}", file=sys.stderr, flush=True)
    clone, judge = agents["clone"], agents.pop("judge")
    prompts = Prompted(prompts_of(read_dialogues(logs["valid"])), clone.tokenizer)
    result: Answer = {"seconds": seconds, "speakers": {}, "held_out_loss": metrics["clone"][-1]["held_out_loss"]}
    for name, agent in agents.items():
        row = judged(agent, clone, judge, prompts, seed)
        if name in METHODS:
            lines = metrics[name]
            row["worst_verdict"] = ("ok", "warn", "stop")[int(max(line["monitor"] for line in lines))]
            row["last_verdict"] = ("ok", "warn", "stop")[int(lines[-1]["monitor"])]
            row["largest_logged_kl"] = max(line["kl"] for line in lines)
            row["taken_back"] = sum(line.get("taken_back", 0.0) for line in lines)
        result["speakers"][name] = row
        shown = {key: value for key, value in row.items() if key != "answers"}
        print(f"  seed {seed}: {name}: {shown}\n    {row['answers'][:5]}", file=sys.stderr, flush=True)
    return result


def show(answers: dict[str, Answer]) -> None:
    table = Table(title="sentiment of own answers · KL in nats an answer · perplexity by the judge: one column a seed")
    for column in ("", "reward", "KL", "largest KL logged", "perplexity", "tokens", "monitor"):
        table.add_column(column, justify="right" if column else "left")
    for name in next(iter(answers.values()))["speakers"]:
        rows = [answer["speakers"][name] for answer in answers.values()]
        cells = [
            " ".join(format(row[key], ".2f") if key in row else "–" for row in rows)
            for key in ("reward", "kl", "largest_logged_kl", "perplexity", "tokens")
        ]
        table.add_row(name, *cells, " ".join(row.get("worst_verdict", "–") for row in rows))
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--changes", type=json.loads, default={}, help="settings in place of the benchmark's, as JSON")
    parser.add_argument("--folder", type=Path, help="keep the runs here; what is there is not trained again")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file, after every seed")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not (CASINO / TRAIN).is_file():
        sys.exit(f"CaSiNo is not here: put {TRAIN} and {VALID} into ../shared/data/casino")
    answers = earlier(args)
    for seed in args.seeds:
        folder = args.folder / str(seed) if args.folder else Path(tempfile.mkdtemp(prefix="rlhf-"))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            answers[str(seed)] = one_seed(seed, args.methods, folder, args.changes)
        finally:
            if not args.folder:
                shutil.rmtree(folder, ignore_errors=True)
        show(answers)
        if args.output:
            write(args, answers)


def settings(args: argparse.Namespace) -> Answer:
    told = {
        "clone": CLONE, "judge_steps": JUDGE_STEPS, "shared": SHARED | args.changes, "methods": METHODS,
        "min_count": MIN_COUNT, "judged": NUM_JUDGED, "threads": args.threads,
    }  # fmt: skip
    return json.loads(json.dumps(told))


def earlier(args: argparse.Namespace) -> dict[str, Answer]:
    """The seeds that the output has already, if they were run with the same settings."""
    if not (args.output and args.output.exists()):
        return {}
    content = json.loads(args.output.read_text())
    if content["settings"] != settings(args):
        sys.exit(f"{args.output} was made with other settings: remove it")
    return {seed: answer for seed, answer in content["seeds"].items() if int(seed) not in args.seeds}


def write(args: argparse.Namespace, answers: dict[str, Answer]) -> None:
    content = {"settings": settings(args), "machine": machine(), "seeds": dict(sorted(answers.items()))}
    args.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
