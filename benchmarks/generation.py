"""How many tokens a second our GPT-2 speaks, beside Hugging Face's `generate` with the same weights.

    python -m benchmarks.generation --threads 1 --output benchmarks/results/generation.json

Both take turns in one process, sampling with a key/value cache, nobody stopping early; the quickest of `--repeats`
turns counts. Seconds are the clock's and the process's own (summed over threads): where other programs run, the clock
counts them too. `bound` are the products of the same steps and nothing else. With `native off` our model runs on
PyTorch's operations.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from seqrl.language.generation import Plain, generate
from seqrl.language.gpt2 import GPT2
from seqrl.language.gpt2_folder import load_gpt2

V, H, LAYERS, HEADS, B, PROMPT, NEW = 256, 128, 4, 4, 64, 32, 128


def models() -> tuple[Any, GPT2]:
    """Theirs and ours, with the same weights."""
    torch.manual_seed(0)
    sizes = {"vocab_size": V, "n_embd": H, "n_layer": LAYERS, "n_head": HEADS, "n_positions": PROMPT + NEW}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=None)).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return theirs, load_gpt2(folder)


def speaking(theirs: Any, ours: GPT2) -> dict[str, Callable[[], None]]:
    """A turn of each: B columns read PROMPT tokens and say NEW."""
    prompt = torch.randint(1, V, (PROMPT, B))

    def hugging_face() -> None:
        with torch.no_grad():
            said = theirs.generate(
                prompt.T, attention_mask=torch.ones_like(prompt.T), do_sample=True, top_k=0, use_cache=True,
                max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0,
            )  # fmt: skip
        assert said.shape == (B, PROMPT + NEW)

    def seqrl() -> None:
        voice = Plain(ours)
        logits, context = voice.read(prompt, torch.full((B,), PROMPT), voice.start(B))
        everybody = torch.ones(B, dtype=torch.bool)
        said, _ = generate(voice, logits, context, stop_id=-1, max_tokens=NEW, speaks=everybody)
        assert said.ids.shape == (NEW, B)

    def without_native() -> None:
        with mock.patch("seqrl.language.gpt2.native_attends", return_value=False):
            seqrl()

    return {"hugging_face": hugging_face, "seqrl": seqrl, "native off": without_native}


def bound() -> Callable[[], None]:
    """The products of NEW steps and nothing else."""
    x, inner = torch.randn(B, H), torch.randn(B, 4 * H)
    weights = [
        [torch.randn(H, 3 * H), torch.randn(H, H), torch.randn(H, 4 * H), torch.randn(4 * H, H)] for _ in range(LAYERS)
    ]
    head = torch.randn(H, V)

    def products() -> None:
        for _ in range(NEW):
            for query_key_value, out, up, down in weights:
                x @ query_key_value, x @ out, x @ up, inner @ down
            x @ head

    return products


def measure(threads: int, repeats: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    calls = {**speaking(*models()), "bound": bound()}
    clock: dict[str, list[float]] = {name: [] for name in calls}
    process: dict[str, list[float]] = {name: [] for name in calls}
    load = os.getloadavg()
    for turn in range(-1, repeats):
        for name, call in calls.items():
            start, start_process = time.perf_counter(), time.process_time()
            call()
            if turn >= 0:
                clock[name].append(time.perf_counter() - start)
                process[name].append(time.process_time() - start_process)
    result: dict[str, Any] = {
        "threads": threads,
        "repeats": repeats,
        "load_before": load,
        "load_after": os.getloadavg(),
    }
    for kind, seconds in (("clock", clock), ("process", process)):
        least = {name: min(values) for name, values in seconds.items()}
        result[kind] = {
            "seconds": seconds,
            "tokens_per_second": {name: B * NEW / value for name, value in least.items()},
            "speed_over_hugging_face": {name: least["hugging_face"] / value for name, value in least.items()},
        }
    return result


def show(results: list[dict[str, Any]]) -> None:
    table = Table("threads", "seconds of", "Hugging Face, tokens/s", "ours", "×", "native off, ×", "bound, tokens/s")
    for result in results:
        for kind in ("clock", "process"):
            speed, ratio = result[kind]["tokens_per_second"], result[kind]["speed_over_hugging_face"]
            table.add_row(
                str(result["threads"]), kind, f"{speed['hugging_face']:,.0f}", f"{speed['seqrl']:,.0f}",
                f"{ratio['seqrl']:.2f}", f"{ratio['native off']:.2f}", f"{speed['bound']:,.0f}",
            )  # fmt: skip
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    results = [measure(threads, arguments.repeats) for threads in arguments.threads]
    show(results)
    if arguments.output:
        sizes = {
            "vocabulary": V,
            "width": H,
            "layers": LAYERS,
            "heads": HEADS,
            "batch": B,
            "prompt": PROMPT,
            "new": NEW,
        }
        about = {"machine": machine(), "transformers": transformers.__version__, "sizes": sizes}
        arguments.output.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
