"""How many tokens a second whole steps of GRPO take in, beside TRL's trainer.

    python -m benchmarks.peers.install trl       # once
    python -m benchmarks.grpo_speed --threads 1 2 --output benchmarks/results/grpo_speed.json

A step: answers of a GPT-2 made from a config (8 to each of 8 prompts of 32 tokens, up to 64 tokens), their rewards,
what the frozen reference says of them, one update by all of them with k3 in the loss. Both libraries have the same
sizes and settings, stop where they draw the end (one token of 256 at first), and are asked in turn, each in a process
of its own, `--rounds` times; the quickest step of all counts, with the tokens that were said in it. Seconds are the
clock's and the process's own, summed over threads: where other programs run, the clock counts them too.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from benchmarks.peers import ask
from seqrl.algorithms import rlhf
from seqrl.language.monitor import Monitor
from seqrl.language.play import Played
from seqrl.language.prompted import Prompted
from seqrl.language.scoring import Weighted
from seqrl.language_runs.kl_control import KlControl
from seqrl.language_runs.rlhf import Tuning
from seqrl.learner import Learner
from seqrl.malloc import keep_freed_memory
from seqrl.text import Tokenizer
from seqrl.text.tokenizer import SPECIALS

V, WIDTH, LAYERS, HEADS = 256, 128, 4, 4
BATCH, GROUP, PROMPT, NEW, BETA, LEARNING_RATE = 64, 8, 32, 64, 0.05, 3e-4
LETTERS = [chr(0x100 + i) for i in range(V - len(SPECIALS))]


def letters_used(played: list[Played]) -> list[list[float]]:
    """The reward: how many different letters there are."""
    return [[float(len(set(each.dialogue.texts[1])))] for each in played]


def make_tuning() -> Tuning:
    """What `seqrl train grpo` makes of a run of bc, without one."""
    config = rlhf.Config(
        method="grpo", model="gpt2", hidden_size=WIDTH, num_layers=LAYERS, num_heads=HEADS,
        context_length=PROMPT + NEW + 2, max_tokens=NEW, num_conversations=BATCH, batch_size=BATCH, group_size=GROUP,
        num_epochs=1, kl="k3", kl_in="loss", kl_weight=BETA, learning_rate=LEARNING_RATE, warmup=0, num_steps=10_000,
        unfinished_penalty=0.0, monitor="off",
    )  # fmt: skip
    tokenizer = Tokenizer(LETTERS)
    agent = rlhf.build(config, tokenizer)
    agent.begin()
    random = torch.Generator().manual_seed(1)
    length = PROMPT - 3  # <begin>, <end of reply> and <agent> stand around it
    drawn = torch.randint(len(LETTERS), (64, length), generator=random).tolist()
    task = Prompted([((False, "".join(LETTERS[i] for i in row)),) for row in drawn], tokenizer)
    learners = {"policy_learner": Learner(agent.policy, LEARNING_RATE, config.max_grad_norm)}
    control = KlControl("fixed", BETA, 1.0, 1.0, 0.0)
    return Tuning(config, agent, task, Weighted([(letters_used, 1.0)]), None, learners, control, None, Monitor())


def grpo(steps: int) -> dict[str, Any]:
    """Seconds and tokens of each step."""
    keep_freed_memory()  # as `seqrl train` does
    tuning, taken = make_tuning(), []
    for step in range(steps):
        clock, process = time.perf_counter(), time.process_time()
        metrics = rlhf.update(tuning, step)
        took = {"clock": time.perf_counter() - clock, "process": time.process_time() - process}
        taken.append({**took, "tokens": BATCH * metrics["tokens"]})
    return {"steps": taken, "versions": {"torch": torch.__version__}}


def ask_ourselves(threads: int, steps: int) -> dict[str, Any]:
    """`grpo` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.grpo_speed", "--alone", "--threads", threads, "--steps", steps]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [str(word) for word in command], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(threads: int, steps: int, rounds: int) -> dict[str, Any]:
    """Both, in turn."""
    result: dict[str, Any] = {"threads": threads, "load_before": os.getloadavg()}
    said: dict[str, list[dict[str, float]]] = {"trl": [], "seqrl": []}
    for _ in range(rounds):
        theirs, ours = ask("trl", "grpo", "--steps", steps, threads=threads), ask_ourselves(threads, steps)
        said["trl"] += theirs["steps"][1:]  # the first step of each also makes what the others use
        said["seqrl"] += ours["steps"][1:]
        result["versions"] = theirs["versions"]
    result |= {"load_after": os.getloadavg(), "steps": said}
    for kind in ("clock", "process"):
        speed = {name: max(step["tokens"] / step[kind] for step in taken) for name, taken in said.items()}
        result[kind] = {"tokens_per_second": speed, "times": speed["seqrl"] / speed["trl"]}
    return result


def show(results: list[dict[str, Any]]) -> None:
    table = Table("threads", "seconds of", "TRL, tokens/s", "seqrl, tokens/s", "×")
    for result in results:
        for kind in ("clock", "process"):
            speed = result[kind]["tokens_per_second"]
            row = f"{speed['trl']:,.0f}", f"{speed['seqrl']:,.0f}", f"{result[kind]['times']:.2f}"
            table.add_row(str(result["threads"]), kind, *row)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=6, help="of each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--alone", action="store_true", help="our own steps, as a line of JSON")
    arguments = parser.parse_args()
    if arguments.alone:
        torch.set_num_threads(arguments.threads[0])
        print(json.dumps(grpo(arguments.steps)))
        return
    results = [measure(threads, arguments.steps, arguments.rounds) for threads in arguments.threads]
    show(results)
    if arguments.output:
        about = {"machine": machine(), "batch": BATCH, "group": GROUP, "prompt": PROMPT, "new": NEW, "beta": BETA}
        arguments.output.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
