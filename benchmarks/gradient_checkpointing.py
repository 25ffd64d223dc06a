"""Peak memory and time of an update with and without gradient checkpointing.

    python -m benchmarks.gradient_checkpointing --output benchmarks/results/gradient_checkpointing.json

A GPT-2 of our own, 12 layers and 256 wide, reads 8 conversations of 512 tokens, and the gradient of their mean
log-probability is taken. Each figure is a process of its own: its largest resident memory, less what it had before
the first update; and the quickest of `--repeats` updates, on one thread, in seconds of the processor, since the clock
would count other programs too.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning import machine
from seqrl.language.gpt2 import GPT2, GPT2Config

V, WIDTH, LAYERS, HEADS, TOKENS, BATCH = 512, 256, 12, 8, 512, 8


def peak() -> float:
    """Largest resident memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def update(model: GPT2, tokens: torch.Tensor) -> float:
    """Seconds of the processor for one forward and backward pass."""
    start = time.process_time()
    log_p = model.logits(model(tokens[:-1])).log_softmax(-1)
    log_p.gather(-1, tokens[1:, :, None]).mean().backward()
    return time.process_time() - start


def alone(checkpointing: bool, repeats: int) -> dict[str, Any]:
    """One figure, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = GPT2Config(
        vocabulary_size=V, hidden_size=WIDTH, num_layers=LAYERS, num_heads=HEADS, context_length=TOKENS + 1
    )
    model = GPT2(sizes)
    if checkpointing:
        model.enable_gradient_checkpointing()
    tokens = torch.randint(V, (TOKENS + 1, BATCH))
    update(model, tokens[:4, :1])  # what is loaded on first use is none of the update's
    before = peak()
    seconds = [update(model, tokens) for _ in range(repeats)]
    return {"checkpointing": checkpointing, "peak_mib": peak() - before, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alone", choices=("on", "off"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(alone(options.alone == "on", options.repeats)))
        return
    results = []
    for which in ("off", "on"):
        command = [sys.executable, "-m", "benchmarks.gradient_checkpointing", "--alone", which]
        said = subprocess.run([*command, "--repeats", str(options.repeats)], capture_output=True, text=True, check=True)
        results.append(json.loads(said.stdout))
        print(f"{which:>3}: {results[-1]['peak_mib']:,.0f} MiB, {min(results[-1]['seconds']):.2f} s an update")
    if options.output:
        sizes = {"vocabulary": V, "width": WIDTH, "layers": LAYERS, "heads": HEADS, "tokens": TOKENS, "batch": BATCH}
        options.output.write_text(json.dumps({"machine": machine(), **sizes, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
