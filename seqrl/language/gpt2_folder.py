"""A GPT-2 is read from a Hugging Face folder, and written as one."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from seqrl.errors import UserError
from seqrl.language.gpt2 import GPT2, PARTS, GPT2Config


def load_gpt2(folder: str | Path, *, new_tokens: int = 0) -> GPT2:
    """The GPT-2 of a Hugging Face folder: config.json and model.safetensors, as `save_pretrained` writes them.

    `new_tokens` ids are put before those of the folder (our special tokens, which its tokenizer lacks): their vectors
    begin as the mean of all others. Raises UserError for what is missing, or is no GPT-2 that we can compute.
    """
    folder = Path(folder)
    try:
        stored = json.loads((folder / "config.json").read_text())
        config = _config(stored, new_tokens, folder)
        with safe_open(folder / "model.safetensors", "pt") as file:
            weights = {name.removeprefix("transformer."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"cannot read a GPT-2 from {folder} ({error}): give a folder of save_pretrained") from None
    except (json.JSONDecodeError, SafetensorError) as error:
        raise UserError(f"a file of {folder} is damaged ({error}): copy the folder again") from None
    model = GPT2(config)
    try:
        model.load_state_dict({ours: _weight(weights, theirs, new_tokens) for ours, theirs in _names(config)})
    except (KeyError, RuntimeError) as error:
        problem = str(error).strip("'\"").replace("\n", " ")
        raise UserError(f"model.safetensors of {folder} does not fit its config.json: {problem}") from None
    return model


def save_gpt2(model: GPT2, folder: str | Path, *, tied: bool = True) -> None:
    """Write config.json and model.safetensors, as Hugging Face's `GPT2LMHeadModel` reads them, into a folder that is
    there. Its vocabulary is the model's: all of our tokens, the special ones first. If not `tied`, the table by which
    it speaks is written a second time."""
    sizes, folder = model.config, Path(folder)
    stored = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": sizes.vocabulary_size,
        "n_embd": sizes.hidden_size,
        "n_layer": sizes.num_layers,
        "n_head": sizes.num_heads,
        "n_positions": sizes.context_length,
        "layer_norm_epsilon": sizes.epsilon,
        "activation_function": "gelu_new",
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    weights = dict(model.named_parameters())
    named = {f"transformer.{theirs}": weights[ours].detach().cpu().contiguous() for ours, theirs in _names(sizes)}
    if not tied:
        named["lm_head.weight"] = named["transformer.wte.weight"].clone()
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(stored))


def _config(stored: Any, new_tokens: int, folder: Path) -> GPT2Config:
    kind = stored.get("model_type") if isinstance(stored, dict) else None
    if kind != "gpt2":
        raise UserError(f"{folder} holds a model of type {kind}, not gpt2: see seqrl.language.hugging_face for others")
    hidden_size, activation = stored["n_embd"], stored.get("activation_function", "gelu_new")
    plain = {
        "activation_function": activation in ("gelu_new", "gelu_pytorch_tanh"),
        "n_inner": stored.get("n_inner") in (None, 4 * hidden_size),
        "scale_attn_weights": stored.get("scale_attn_weights", True),
        "scale_attn_by_inverse_layer_idx": not stored.get("scale_attn_by_inverse_layer_idx", False),
        "tie_word_embeddings": stored.get("tie_word_embeddings", True),
    }
    if unknown := [name for name, is_plain in plain.items() if not is_plain]:
        raise UserError(
            f"{unknown[0]} = {stored[unknown[0]]} in {folder} makes another model than GPT-2: "
            "see seqrl.language.hugging_face"
        )
    return GPT2Config(
        vocabulary_size=stored["vocab_size"] + new_tokens,
        hidden_size=hidden_size,
        num_layers=stored["n_layer"],
        num_heads=stored["n_head"],
        context_length=stored["n_positions"],
        epsilon=stored.get("layer_norm_epsilon", 1e-5),
    )


def _names(config: GPT2Config) -> list[tuple[str, str]]:
    """Pairs of a parameter's name here and there."""
    names = [("embedding.weight", "wte.weight"), ("position.weight", "wpe.weight")]
    parts = [(f"layers.{i}.{a}", f"h.{i}.{b}") for i in range(config.num_layers) for a, b in PARTS.items()]
    for ours, theirs in [*parts, ("norm", "ln_f")]:
        names += [(f"{ours}.{leaf}", f"{theirs}.{leaf}") for leaf in ("weight", "bias")]
    return names


def _weight(weights: dict[str, Tensor], name: str, new_tokens: int) -> Tensor:
    weight = weights[name].float()
    if name == "wte.weight":
        return torch.cat([weight.mean(0).expand(new_tokens, -1), weight])
    return weight
