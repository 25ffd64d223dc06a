"""Low-rank adapters of Hugging Face models. The only file that needs `peft`."""

import warnings

from torch import nn

from seqrl.errors import UserError
from seqrl.language.hugging_face import HuggingFaceModel

try:
    from peft import LoraConfig, inject_adapter_in_model
except ImportError:
    raise UserError("low-rank adapters need peft: pip install 'seqrl[language]'") from None


def add_lora(model: HuggingFaceModel, rank: int = 8, alpha: int = 16) -> HuggingFaceModel:
    """Freeze `model` but for its special tokens, and give each of its linear layers a low-rank sum that is trained.

        W x becomes W x + alpha / rank · B A x,   A [rank, in] drawn, B [out, rank] zero

    So it computes what it did until it is trained, and what is trained is what has `requires_grad`. Changes `model`.
    Source: Hu et al. 2021 (arXiv 2106.09685), by `peft`. No dropout.
    """
    if rank < 1:
        raise UserError(f"rank is {rank} in add_lora: it must be at least 1")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=_linear_layers(model.body), lora_dropout=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GPT-2's layers multiply from the right: peft says that it has seen so
        inject_adapter_in_model(config, model.body)
    for parameter in (model.special_table, model.special_head):
        parameter.requires_grad_(True)
    return model


def _linear_layers(body: nn.Module) -> list[str]:
    kinds = ("Linear", "Conv1D")
    return [name for name, module in body.named_modules() if type(module).__name__ in kinds]
