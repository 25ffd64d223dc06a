"""Our GPT-2 is GPT-2."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seqrl.errors import UserError
from seqrl.language.gpt2 import GPT2, GPT2Config
from seqrl.language.gpt2_folder import load_gpt2, save_gpt2

SIZES = {"vocab_size": 11, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16}


def saved(folder: Path, **config: Any) -> Any:
    """A Hugging Face GPT-2 with weights so large that attention is far from even, and its folder."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(**SIZES | config, bos_token_id=1, eos_token_id=1)
    model = transformers.GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


# Broken by `weight.mT` left out, GELU without `approximate="tanh"`, or the norm's epsilon at another value.
def test_logits_are_those_of_hugging_face(tmp_path: Path) -> None:
    model = saved(tmp_path, layer_norm_epsilon=1e-3)
    tokens = torch.randint(11, (16, 3))
    ours = load_gpt2(tmp_path)
    with torch.no_grad():
        expected = model(tokens.T).logits.transpose(0, 1)
        torch.testing.assert_close(ours.logits(ours(tokens)), expected, atol=1e-5, rtol=1e-5)


# Broken by `torch.cat([weight, new])`: ids of the folder's tokenizer would be ours of the special tokens.
def test_new_tokens_stand_before_the_old(tmp_path: Path) -> None:
    model = saved(tmp_path)
    tokens = torch.randint(11, (9, 2))
    ours = load_gpt2(tmp_path, new_tokens=6)
    assert ours.vocabulary_size == 17
    with torch.no_grad():
        logits = ours.logits(ours(tokens + 6))
        expected = model(tokens.T).logits.transpose(0, 1)
    torch.testing.assert_close(logits[..., 6:], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[..., :6], expected.mean(-1, keepdim=True).expand(-1, -1, 6))


# Broken by a `save_gpt2` that transposes what is multiplied from the right, or leaves the epsilon out.
@pytest.mark.parametrize("tied", [True, False])
def test_saved_is_what_was_loaded(tmp_path: Path, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = GPT2Config(vocabulary_size=30, hidden_size=16, num_layers=2, num_heads=2, context_length=9, epsilon=0.1)
    ours = GPT2(sizes)
    save_gpt2(ours, tmp_path, tied=tied)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    tokens = torch.randint(30, (9, 3))
    with torch.no_grad():
        logits = theirs(tokens.T).logits.transpose(0, 1)
        torch.testing.assert_close(ours.logits(ours(tokens)), logits, atol=1e-5, rtol=1e-4)
    assert (theirs.lm_head.weight is theirs.transformer.wte.weight) is tied
    if not tied:
        return
    again = load_gpt2(tmp_path)
    assert again.config == sizes
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in ours.state_dict().items())


def test_a_conversation_that_outgrows_the_context() -> None:
    model = GPT2(GPT2Config(vocabulary_size=5, hidden_size=8, num_layers=1, num_heads=2, context_length=8))
    with pytest.raises(UserError, match="has 9 tokens, but this GPT-2 reads 8"):
        model(torch.zeros(9, 2, dtype=torch.int64))
    tokens, context = torch.zeros(1, 2, dtype=torch.int64), model.start(2)
    for _ in range(8):  # column 1 reads half as much
        _, context = model.read(tokens, torch.tensor([1, 0]), context)
    for _ in range(8):
        _, context = model.read(tokens, torch.tensor([0, 1]), context)
    assert context.length.tolist() == [8, 8]
    with pytest.raises(UserError, match="has 9 tokens"):
        model.read(tokens, torch.tensor([1, 0]), context)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "llama"}, "type llama, not gpt2"),
        ({"activation_function": "relu"}, "activation_function = relu"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"n_layer": 3}, "does not fit its config.json: h.2.ln_1.weight"),
        ({"n_positions": 17}, "does not fit its config.json"),
        (None, "is damaged"),
    ],
)
def test_folders_that_hold_no_gpt2(tmp_path: Path, change: dict[str, Any] | None, words: str) -> None:
    saved(tmp_path)
    path = tmp_path / "config.json"
    path.write_text("{" if change is None else json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=words) as raised:
        load_gpt2(tmp_path)
    assert "\n" not in str(raised.value)


def test_errors_name_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read a GPT-2 from"):
        load_gpt2(tmp_path)
    with pytest.raises(UserError, match="hidden_size 10 does not split into 4 heads"):
        GPT2Config(vocabulary_size=5, hidden_size=10)
    with pytest.raises(UserError, match="num_layers is 0"):
        GPT2Config(vocabulary_size=5, num_layers=0)


# Broken by `tril(P)` one off, positions that begin at 0 again behind what is shared, or groups that are interleaved.
@pytest.mark.parametrize("common", [(5, 7), (0, 3), (11, 12), (12, 12)])
def test_what_a_group_begins_with_is_read_once(common: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocabulary_size=11, hidden_size=16, num_layers=2, num_heads=2, context_length=12))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens, weight = torch.randint(11, (12, 6)), torch.randn(12, 6, 16)
    for group, length in enumerate(common):
        tokens[:length, 3 * group : 3 * group + 3] = tokens[:length, 3 * group : 3 * group + 1]
    found = []
    for y in (model(tokens), model.forward_alike(tokens, 3), model.forward_alike(tokens, 4)):
        found.append((y, torch.autograd.grad((y * weight).sum(), list(model.parameters()))))
    for y, gradients in found[1:]:
        torch.testing.assert_close(y, found[0][0], atol=1e-5, rtol=1e-5)
        for mine, expected in zip(gradients, found[0][1], strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)
