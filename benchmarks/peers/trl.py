"""TRL's GRPO trainer: whole steps (generate, score, reference, update) of a GPT-2 made from a config.

    python -P trl.py grpo --threads 2 --steps 6

What costs it time and changes nothing here is off: gradient checkpointing, dropout, bf16, printed completions. A token
is a character, so that prompts have the length that is asked for.
"""

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

V, WIDTH, LAYERS, HEADS = 256, 128, 4, 4
BATCH, GROUP, PROMPT, NEW, BETA, LEARNING_RATE = 64, 8, 32, 64, 0.05, 3e-4
LETTERS = [chr(0x100 + i) for i in range(V - 2)]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A letter a token, behind <pad> and <end>."""
    words = Tokenizer(models.WordLevel({token: i for i, token in enumerate(["<pad>", "<end>", *LETTERS])}, "<pad>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>", padding_side="left")


def make_model() -> GPT2LMHeadModel:
    """Weights as seqrl begins with them, up to the draw."""
    rates = {f"{place}_pdrop": 0.0 for place in ("resid", "embd", "attn")}
    sizes = {"vocab_size": V, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": PROMPT + NEW}
    return GPT2LMHeadModel(GPT2Config(**sizes, **rates, bos_token_id=1, eos_token_id=1, pad_token_id=0))


def letters_used(completions: list[str], **_: Any) -> list[float]:
    """The reward: how many different letters there are."""
    return [float(len(set(text))) for text in completions]


class Moments(TrainerCallback):
    """When steps begin and end, by the clock and by the process's own time."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.clock, self.process = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        took = {"clock": time.perf_counter() - self.clock, "process": time.process_time() - self.process}
        self.steps.append(took)

    def on_log(self, *details: Any, logs: dict[str, float], **__: Any) -> None:
        if "completions/mean_length" in logs:
            self.steps[-1]["tokens"] = BATCH * logs["completions/mean_length"]


def grpo(steps: int) -> dict[str, Any]:
    """Seconds and completion tokens of each step."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(1)
    prompts = [
        "".join(LETTERS[i] for i in row) for row in torch.randint(V - 2, (64, PROMPT), generator=random).tolist()
    ]
    moments = Moments()
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=BATCH, num_generations=GROUP, steps_per_generation=1,
            max_completion_length=NEW, temperature=1.0, beta=BETA, num_iterations=1, loss_type="grpo",
            learning_rate=LEARNING_RATE, max_steps=steps, logging_steps=1, save_strategy="no", report_to="none",
            use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        path = f"{folder}/model"  # it reads the reference from where the policy was read
        make_model().save_pretrained(path)
        trainer = GRPOTrainer(
            path, letters_used, config, train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=make_tokenizer(), callbacks=[moments],
        )  # fmt: skip
        trainer.train()
    return {"steps": moments.steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["grpo"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    versions = {name: version(name) for name in ("trl", "transformers", "torch")}
    print(json.dumps({**grpo(arguments.steps), "versions": versions}))


if __name__ == "__main__":
    main()
