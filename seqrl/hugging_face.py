"""What seqrl takes from `transformers`, and which of its models a mask of ours reaches."""

from typing import Any

from seqrl.errors import UserError

try:
    from tokenizers import Tokenizer as FastTokenizer
    from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel
    from transformers.cache_utils import DynamicLayer
except ImportError:
    raise UserError("Hugging Face models need transformers: pip install 'seqrl[language]'") from None

__all__ = [
    "AutoModelForCausalLM",
    "DynamicCache",
    "FastTokenizer",
    "PreTrainedModel",
    "check_model",
    "rope",
]


def check_model(model: PreTrainedModel) -> None:
    """Raise UserError for a model that a mask and positions of ours would not reach, or would break."""
    name, config = type(model).__name__, model.config
    if config.is_encoder_decoder:
        raise UserError(f"{name} is an encoder-decoder in HuggingFace: give a model that only decodes, such as Llama")
    if not all(isinstance(layer, DynamicLayer) for layer in DynamicCache(config=config).layers):
        raise UserError(f"{name} has layers without keys and values in HuggingFace: give a pure transformer")
    if config._attn_implementation not in ("eager", "sdpa"):
        raise UserError(
            f"attention '{config._attn_implementation}' of {name} takes no mask of ours in HuggingFace: "
            "build the model with attn_implementation='sdpa'"
        )
    rotary = rope(model)
    # Gemma 3 keeps one set of rotary parameters per kind of layer.
    rope_types = {rotary.get("rope_type")} | {
        kind.get("rope_type") for kind in rotary.values() if isinstance(kind, dict)
    }
    if changing := rope_types & {"dynamic", "longrope"}:
        raise UserError(
            f"rotary positions '{changing.pop()}' of {name} change with the longest row of a batch in HuggingFace: "
            "give a model whose rope_type is 'default'"
        )
    if not rotary and not hasattr(config, "max_position_embeddings"):
        raise UserError(
            f"{name} has neither rotary nor learned positions in HuggingFace: give a model with either, such as Llama"
        )


def rope(model: PreTrainedModel) -> dict[str, Any]:
    """What the config says of rotary positions: empty when the model has others."""
    return getattr(model.config, "rope_parameters", None) or {}
