"""Hugging Face's models and tokenizers behind our special tokens."""

import copy
import json
from pathlib import Path

import pytest
import torch

from seqrl.errors import UserError
from seqrl.language.tokenizers import tokenizer_of
from seqrl.testing import check_language_model
from seqrl.text import Tokenizer

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from seqrl.language.gpt2 import GPT2  # noqa: E402  (only where transformers is)
from seqrl.language.hugging_face import (  # noqa: E402
    HuggingFaceModel,
    HuggingFaceTokenizer,
    load_hugging_face,
    save_hugging_face,
)

SIZES = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def large(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """The model with weights so large that attention is far from even, and a wrong key shows."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def llama(**config: object) -> transformers.PreTrainedModel:
    sizes = SIZES | TOKENS | {"num_key_value_heads": 1, "intermediate_size": 32} | config
    return large(transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)))


def gpt2() -> transformers.PreTrainedModel:
    config = transformers.GPT2Config(vocab_size=300, n_embd=16, n_layer=2, n_head=2, n_positions=32, **TOKENS)
    return large(transformers.GPT2LMHeadModel(config))


def mistral() -> transformers.PreTrainedModel:
    config = transformers.MistralConfig(
        **SIZES, **TOKENS, num_key_value_heads=1, intermediate_size=32, sliding_window=8
    )
    return large(transformers.MistralForCausalLM(config))


# Broken by `position_ids` left out of `read`, or `context.counts` replaced by ones.
@pytest.mark.parametrize("build", [gpt2, llama, mistral])
def test_laws(build) -> None:
    check_language_model(HuggingFaceModel(build()), num_tokens=6, batch_size=2, tolerance=1e-4)


# Broken by `NUM_SPECIALS` left out of `_embed`.
@pytest.mark.parametrize("build", [gpt2, llama])
def test_logits_are_the_models_own_behind_six(build) -> None:
    model = build()
    ours = HuggingFaceModel(copy.deepcopy(model)).train()
    tokens = torch.randint(300, (9, 3))
    with torch.no_grad():
        expected = model(input_ids=tokens.T).logits.transpose(0, 1)
        logits = ours.logits(ours(tokens + 6))
    torch.testing.assert_close(logits[..., 6:], expected, atol=1e-4, rtol=1e-4)
    assert logits.shape[-1] == ours.vocabulary_size == 306


def neox() -> transformers.PreTrainedModel:
    """Its head has a name of its own."""
    return large(transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SIZES, **TOKENS, intermediate_size=32)))


def gemma() -> transformers.PreTrainedModel:
    """Its table multiplies what it gives."""
    sizes = transformers.Gemma3TextConfig(**SIZES, **TOKENS, intermediate_size=32, num_key_value_heads=1, head_dim=8)
    return large(transformers.Gemma3ForCausalLM(sizes))


# Broken by special tokens put behind the model's own, by `embed_scale` or adapters left out.
@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("build", [gpt2, llama, neox, gemma, lambda: llama(tie_word_embeddings=True)])
def test_saved_models_have_all_tokens_for_their_own(build, rank, tmp_path) -> None:
    ours = HuggingFaceModel(build())
    if rank:
        ours = pytest.importorskip("seqrl.language.adapters").add_lora(ours, rank)
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    save_hugging_face(ours, tmp_path)
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = torch.randint(306, (9, 3))
    with torch.no_grad():
        logits = saved(input_ids=tokens.T).logits.transpose(0, 1)
        torch.testing.assert_close(ours.logits(ours(tokens)), logits, atol=1e-3, rtol=1e-3)


def test_special_tokens_learn() -> None:
    ours = HuggingFaceModel(llama())
    tokens = torch.tensor([[1, 6], [2, 7], [8, 3]])
    ours.logits(ours(tokens)).log_softmax(-1)[..., 4].sum().backward()
    moved = ours.special_table.grad.abs().sum(1) > 0
    assert moved.tolist() == [False, True, True, True, False, False]
    assert (ours.special_head.grad.abs().sum(1) > 0).all()


# Broken by `take` that gives the cache itself: what one copy reads, the other would see.
def test_take_copies_columns() -> None:
    ours = HuggingFaceModel(llama())
    tokens = torch.randint(306, (5, 2))
    _, context = ours.read(tokens[:4], torch.tensor([4, 2]), ours.start(2))
    copied = ours.take(context, torch.tensor([1, 1, 0]))
    ours.read(tokens[:1], torch.ones(2, dtype=torch.int64), context)
    y, _ = ours.read(tokens[4, [0, 1, 0]][None], torch.ones(3, dtype=torch.int64), copied)
    whole = ours(torch.stack([torch.cat([tokens[:2, 1], tokens[4, k : k + 1]]) for k in (0, 1)], 1))[-1]
    torch.testing.assert_close(y[:2], whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(y[2], ours(tokens)[-1, 0], atol=1e-4, rtol=1e-4)


def fast_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Byte-level, as GPT-2's, with a few merges."""
    fast = tokenizers.Tokenizer(tokenizers.models.BPE())
    fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    fast.train_from_iterator(["I need the water, you need the food."] * 5, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<|endoftext|>")


# Broken by `encode_special_tokens` left out: what a text says would end it.
def test_tokenizer_goes_round_and_text_is_no_special_token() -> None:
    tokenizer = HuggingFaceTokenizer(fast_tokenizer().backend_tokenizer, 300)
    for text in ("I need water 🙂\n", "", "<|endoftext|><pad>"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert min(ids, default=7) > 6  # 6 is its own <|endoftext|>
    assert tokenizer.decode([Tokenizer.begin_id, *tokenizer.encode("a"), 6, 305]) == "<begin>a"
    assert "�" in tokenizer.decode(tokenizer.encode("🙂")[:1])
    assert len(tokenizer) == 306
    with pytest.raises(UserError, match="there is no token 306"):
        tokenizer.decode([306])
    again = tokenizer_of(json.loads(json.dumps(tokenizer.to_json())), "vocabulary.json")
    assert again.encode("I need food") == tokenizer.encode("I need food")
    assert len(again) == 306
    with pytest.raises(UserError, match=r"vocabulary\.json is damaged"):
        tokenizer_of({"kind": "hugging face", "size": 300, "tokenizer": {}}, "vocabulary.json")


@pytest.mark.parametrize(("build", "kind"), [(gpt2, GPT2), (llama, HuggingFaceModel)])
def test_folders(build, kind, tmp_path: Path) -> None:
    plain = build()
    fast_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot read a language model"):
        load_hugging_face(tmp_path)
    plain.save_pretrained(tmp_path)
    model, tokenizer = load_hugging_face(tmp_path)
    assert type(model) is kind
    assert len(tokenizer) == model.vocabulary_size
    ids = torch.tensor(tokenizer.encode("you need"))
    with torch.no_grad():
        logits = model.logits(model(ids[:, None]))[:, 0, 6:]
        torch.testing.assert_close(logits, plain(input_ids=ids[None] - 6).logits[0], atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="there is no folder"):
        load_hugging_face(tmp_path / "none")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"there is no tokenizer\.json"):
        load_hugging_face(tmp_path)


def test_models_that_are_refused() -> None:
    with pytest.raises(UserError, match="LlamaModel says no tokens"):
        HuggingFaceModel(llama().model)
    config = transformers.Gemma2Config(
        **SIZES, **TOKENS, num_key_value_heads=1, head_dim=8, intermediate_size=32, final_logit_softcapping=0.1
    )
    with pytest.raises(UserError, match="bends its logits"):
        HuggingFaceModel(large(transformers.Gemma2ForCausalLM(config)))
    ours = HuggingFaceModel(llama(max_position_embeddings=4))
    with pytest.raises(UserError, match="has 5 tokens, but LlamaModel reads 4"):
        ours(torch.zeros(5, 1, dtype=torch.int64))


# Broken by `requires_grad_(False)` left out: the whole model would be trained.
@pytest.mark.parametrize("build", [gpt2, llama])
def test_adapters_change_nothing_until_they_are_trained(build) -> None:
    pytest.importorskip("peft")
    from seqrl.language.adapters import add_lora

    model = HuggingFaceModel(build())
    tokens = torch.randint(306, (5, 2))
    before, frozen = model(tokens), copy.deepcopy(dict(model.body.named_parameters()))
    add_lora(model, rank=2)
    assert (model(tokens) == before).all()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[-3] for name in trained if "lora" in name} == {"lora_A", "lora_B"}
    assert len([name for name in trained if "lora" not in name]) == 2  # the special tokens
    optimiser = torch.optim.SGD(trained.values(), lr=0.1)
    model.logits(model(tokens)).log_softmax(-1)[..., 3].sum().backward()
    optimiser.step()
    assert not torch.allclose(model(tokens), before)
    for name, parameter in model.body.named_parameters():
        if "lora" not in name:
            assert (parameter == frozen[name.replace(".base_layer", "")]).all()
    check_language_model(model, num_tokens=5, batch_size=2, tolerance=1e-4)
