"""Blocks that are computed again for the gradient: nothing but memory may change."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seqrl.errors import UserError
from seqrl.language.gpt2 import GPT2, GPT2Config
from seqrl.language.model import LanguageModel, MemoryModel
from seqrl.language_runs.config import LanguageConfig, make_model
from seqrl.memory import Transformer, make_memory
from seqrl.text import Tokenizer

SIZES = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def gpt2() -> LanguageModel:
    return GPT2(GPT2Config(vocabulary_size=36, hidden_size=16, num_layers=4, num_heads=2))


def transformer() -> LanguageModel:
    return MemoryModel(36, Transformer(16, 16, num_layers=4, num_heads=2, window=5))  # shorter than what is read


def hugging_face(kind: str, **config: object) -> LanguageModel:
    transformers = pytest.importorskip("transformers")
    from seqrl.language.hugging_face import HuggingFaceModel

    config = getattr(transformers, f"{kind}Config")(**SIZES, **TOKENS, **config)
    return HuggingFaceModel(getattr(transformers, f"{kind}ForCausalLM")(config))


def llama() -> LanguageModel:
    return hugging_face("Llama", num_key_value_heads=1, intermediate_size=32, attention_dropout=0.5)


def opt() -> LanguageModel:
    """Its layers have a dropout of their own."""
    return hugging_face("OPT", ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=32, dropout=0.5)


def learnt(model: LanguageModel, read: Callable[[LanguageModel], Tensor]) -> tuple[list[Tensor], int]:
    """Loss and gradients, and how many numbers were kept for them."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = model.logits(read(model)).log_softmax(-1)[..., 3].sum()
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)], kept


# Broken by `checkpointed` that computes with other inputs the second time, or that keeps all there is to keep; by
# dropout that begins with it (llama, opt).
@pytest.mark.parametrize("build", [gpt2, transformer, llama, opt])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_gradients_are_the_same_and_less_is_kept(build: Callable[[], LanguageModel], precision: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = build()
    again = copy.deepcopy(plain)
    again.enable_gradient_checkpointing()
    again = copy.deepcopy(again)  # as a reference and values are made of a policy
    tokens = torch.randint(36, (12, 4))

    def read(model: LanguageModel) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            return model(tokens).float()

    expected, before = learnt(plain, read)
    found, after = learnt(again, read)
    torch.testing.assert_close(found, expected)
    assert after < 0.7 * before


def test_what_a_group_begins_with_is_computed_again_too() -> None:
    torch.manual_seed(0)
    plain, tokens = gpt2(), torch.randint(36, (12, 4))
    tokens[:5] = tokens[:5, :1]
    again = copy.deepcopy(plain)
    again.enable_gradient_checkpointing()
    expected, before = learnt(plain, lambda model: model.forward_alike(tokens, 4))
    found, after = learnt(again, lambda model: model.forward_alike(tokens, 4))
    torch.testing.assert_close(found, expected)
    assert after < 0.7 * before


# Broken by layers that stay in training: they would throw the cache away, and read each token alone.
@pytest.mark.parametrize("build", [gpt2, transformer, llama])
def test_speaking_goes_on_as_before(build: Callable[[], LanguageModel]) -> None:
    torch.manual_seed(0)
    model = build()
    model.enable_gradient_checkpointing()
    model.train()
    tokens = torch.randint(36, (9, 3))
    model(tokens).sum().backward()
    count = torch.full((3,), 1)
    context = model.start(3)
    for t in range(9):
        y, context = model.read(tokens[t : t + 1], count, context)
    torch.testing.assert_close(y, model(tokens)[-1], atol=1e-4, rtol=1e-4)


def test_what_has_no_blocks_says_so() -> None:
    config = LanguageConfig(model="gru", hidden_size=8, gradient_checkpointing=True)
    with pytest.raises(UserError, match="--gradient-checkpointing with a GRU: only transformers have blocks"):
        make_model(config, Tokenizer(["a"]))
    with pytest.raises(UserError, match="only transformers have blocks"):
        MemoryModel(36, make_memory("linear", 8, 8)).enable_gradient_checkpointing()
