import importlib
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seqrl.errors import UserError
from seqrl.memory import sliding_window
from seqrl.testing import check_memory

transformers = pytest.importorskip("transformers")

from seqrl.memory.hugging_face import HuggingFace  # noqa: E402  (only where transformers is)

SIZES = {"vocab_size": 7, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def llama(**config: object) -> transformers.PreTrainedModel:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **TOKENS, num_key_value_heads=1, **config))


def gpt2(**config: object) -> transformers.PreTrainedModel:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=7, n_embd=16, n_layer=2, n_head=2, **TOKENS, **config)
    )


def opt() -> transformers.PreTrainedModel:
    # Embeddings and outputs of another size than the hidden one.
    sizes = {k: v for k, v in SIZES.items() if k != "intermediate_size"}
    return transformers.OPTForCausalLM(transformers.OPTConfig(**sizes, **TOKENS, ffn_dim=32, word_embed_proj_dim=8))


def qwen2() -> transformers.PreTrainedModel:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES, **TOKENS, num_key_value_heads=1))


def mistral() -> transformers.PreTrainedModel:
    config = transformers.MistralConfig(**SIZES, **TOKENS, num_key_value_heads=1, sliding_window=2)
    return transformers.MistralForCausalLM(config)


def gemma3() -> transformers.PreTrainedModel:
    # Two kinds of layers, with rotary positions of their own.
    layers = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3TextConfig(**SIZES, **TOKENS, num_key_value_heads=1, head_dim=8, layer_types=layers)
    return transformers.Gemma3ForCausalLM(config)


MODELS = [gpt2, opt, llama, qwen2, mistral, gemma3]
Build = Callable[..., transformers.PreTrainedModel]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks as short as the window, so that a dozen rows already make several."""
    monkeypatch.setattr(sliding_window, "MIN_BLOCK", 1)


def large(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """The model with weights so large that attention is far from even, and a wrong key shows."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def by_chunks(memory: HuggingFace, x: Tensor, is_first: Tensor, size: int) -> Tensor:
    state, outputs = memory.initial_state(x.shape[1]), []
    for x_chunk, is_first_chunk in zip(x.split(size), is_first.split(size), strict=True):
        y, state = memory.unroll(x_chunk, state, is_first_chunk)
        outputs.append(y)
    return torch.cat(outputs)


# Llama takes its norms and its rotary angles in float32 even when the rest is float64.
@pytest.mark.parametrize(("build", "tolerance"), [(gpt2, 1e-10), (llama, 1e-5)])
@pytest.mark.parametrize("window", [1, 4, 20])
def test_laws(build: Build, tolerance: float, window: int) -> None:
    check_memory(HuggingFace(large(build()), 3, window), num_steps=6, batch_size=2, tolerance=tolerance)


# Break: `position_ids` left out, `is_first` left out of `positions`, or `window - 1` to `window` in initial_state.
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("build", MODELS)
@pytest.mark.usefixtures("short_blocks")
def test_equals_the_model_without_cache(build: Build, attention: str) -> None:
    T, B, window = 23, 3, 5
    model = large(build()).eval()
    model.set_attn_implementation(attention)
    memory = HuggingFace(model, 3, window)
    x, is_first = torch.randn(T, B, 3), torch.zeros(T, B, dtype=torch.bool)
    starts = [0, 4, 17], [0, 11], [0]  # staggered, the last row never reset
    expected = torch.zeros(T, B, memory.output_size)
    with torch.no_grad():
        for b, row_starts in enumerate(starts):
            is_first[row_starts[1:], b] = True
            for start, stop in zip(row_starts, [*row_starts[1:], T], strict=True):
                time = torch.arange(stop - start)
                age = time[:, None] - time
                hidden = torch.where((age >= 0) & (age < window), 0, torch.finfo(torch.float32).min)[None, None]
                episode = memory.input(x[start:stop, b])[None]
                out = model.base_model(
                    inputs_embeds=episode, attention_mask=hidden, position_ids=time[None], use_cache=False
                )
                expected[start:stop, b] = out.last_hidden_state[0]
        for size in (1, 7, T):
            torch.testing.assert_close(by_chunks(memory, x, is_first, size), expected, atol=2e-5, rtol=0)


# Break: give the model `attention_mask=None`.
@pytest.mark.parametrize("build", [gpt2, llama])
def test_equals_the_plain_model_while_the_window_is_not_full(build: Build) -> None:
    model = large(build()).eval()
    memory = HuggingFace(model, 3, window=30)
    x = torch.randn(20, 2, 3)
    with torch.no_grad():
        plain = model.base_model(inputs_embeds=memory.input(x).transpose(0, 1)).last_hidden_state.transpose(0, 1)
        y = by_chunks(memory, x, torch.zeros(20, 2, dtype=torch.bool), 6)
    torch.testing.assert_close(y, plain, atol=2e-5, rtol=0)


# Break: `self.model.eval()` left out of `train`: GPT-2 drops a tenth.
def test_training_mode_computes_the_same_function_and_trains_the_model() -> None:
    memory = HuggingFace(gpt2(), 3, window=4)
    x, is_first = torch.randn(6, 2, 3), torch.zeros(6, 2, dtype=torch.bool)
    acting = by_chunks(memory.eval(), x, is_first, 1)
    training = by_chunks(memory.train(), x, is_first, 6)
    torch.testing.assert_close(acting, training, atol=1e-5, rtol=0)
    training.square().sum().backward()
    unused = {name for name, parameter in memory.named_parameters() if parameter.grad is None}
    assert unused == {"model.wte.weight"}


def test_state_and_sizes() -> None:
    memory = HuggingFace(llama(head_dim=6), 3, window=5)
    state = memory.initial_state(7)
    assert not memory.stores_state
    assert memory.output_size == 16
    assert [leaf.shape for leaf in state.keys + state.values] == [(7, 1, 4, 6)] * 4


def test_learned_positions_run_out() -> None:
    memory = HuggingFace(gpt2(n_positions=8), 3, window=4)
    is_first = torch.zeros(9, 2, dtype=torch.bool)
    with pytest.raises(UserError, match="lasted 9 steps in HuggingFace, whose model has 8 positions"):
        by_chunks(memory, torch.randn(9, 2, 3), is_first, 1)
    is_first[4] = True
    by_chunks(memory, torch.randn(9, 2, 3), is_first, 1)


def test_rotary_positions_do_not() -> None:
    memory = HuggingFace(llama(max_position_embeddings=8), 3, window=4)
    y = by_chunks(memory, torch.randn(30, 1, 3), torch.zeros(30, 1, dtype=torch.bool), 30)
    assert y.isfinite().all()


def unmasked() -> transformers.PreTrainedModel:
    model = llama()
    model.config._attn_implementation = "flex_attention"
    return model


def dynamic() -> transformers.PreTrainedModel:
    return llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})


def mamba() -> transformers.PreTrainedModel:
    return transformers.MambaForCausalLM(transformers.MambaConfig(vocab_size=7, hidden_size=16, num_hidden_layers=1))


def bloom() -> transformers.PreTrainedModel:
    return transformers.BloomForCausalLM(transformers.BloomConfig(vocab_size=7, hidden_size=16, n_layer=1, n_head=2))


def t5() -> transformers.PreTrainedModel:
    config = transformers.T5Config(vocab_size=7, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    return transformers.T5ForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: torch.nn.Linear(3, 3), "model is a Linear in HuggingFace: give a transformers.PreTrainedModel"),
        (unmasked, "attention 'flex_attention' of LlamaForCausalLM takes no mask"),
        (dynamic, "rotary positions 'dynamic' of LlamaForCausalLM"),
        (mamba, "MambaForCausalLM has layers without keys and values"),
        (bloom, "BloomForCausalLM has neither rotary nor learned positions"),
        (t5, "T5ForConditionalGeneration is an encoder-decoder"),
    ],
)
def test_models_that_cannot_be_used(build: Build, message: str) -> None:
    with pytest.raises(UserError, match=message):
        HuggingFace(build(), 3)


def test_bad_window() -> None:
    with pytest.raises(UserError, match="window is 0 in HuggingFace"):
        HuggingFace(llama(), 3, window=0)


def test_without_transformers_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "seqrl.memory.hugging_face")
    monkeypatch.delitem(sys.modules, "seqrl.hugging_face")
    with pytest.raises(UserError, match=r"pip install 'seqrl\[language\]'"):
        importlib.import_module("seqrl.memory.hugging_face")
