"""What vLLM says for a model is what the model says. Needs vLLM, in an environment of its own (docs/rlhf.md)."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("vllm")


from seqrl.algorithms import load_speaker, rlhf, train
from seqrl.errors import UserError
from seqrl.language.generation import Plain, Sampling, generate
from seqrl.language.gpt2 import GPT2, GPT2Config
from seqrl.language.hugging_face import HuggingFaceModel
from seqrl.language.vllm_voice import VllmVoice
from seqrl.run_folder import read_metrics
from tests.language.test_hugging_face_models import large, llama
from tests.rated import WORDLE, cloned

STOP = 4


def our_gpt2():
    torch.manual_seed(0)
    sizes = {"vocabulary_size": 306, "hidden_size": 64, "num_layers": 2, "num_heads": 2, "context_length": 512}
    return large(GPT2(GPT2Config(**sizes)))


def with_adapters():
    add_lora = pytest.importorskip("seqrl.language.adapters").add_lora
    model = add_lora(HuggingFaceModel(llama(hidden_size=64)), 2)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def answers(voice, prompts, sampling, seed=0, max_tokens=8):
    """What a voice says after each of the prompts, of which the last is silent."""
    count = torch.tensor([len(ids) for ids in prompts])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in prompts])
    logits, context = voice.read(tokens, count, voice.start(len(prompts)))
    speak = getattr(voice, "speak", None) or (lambda *leaves, **options: generate(voice, *leaves, **options))
    allowed = torch.ones(306, dtype=torch.bool)
    allowed[7:20] = False
    speaks = torch.arange(len(prompts)) < len(prompts) - 1
    said, context = speak(
        logits, context, stop_id=STOP, max_tokens=max_tokens, speaks=speaks, allowed=allowed, sampling=sampling,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return said, context


PROMPTS = [[1, 30, 31, 2], [1, 2], [1, *range(20, 300), 2], [1, 7, 2]]  # the third fills blocks of keys and values


# Broken by weights that are not taken up again, keys and values of those before, or `processed_logprobs` left out.
@pytest.mark.parametrize("build", [our_gpt2, lambda: HuggingFaceModel(llama(hidden_size=64)), with_adapters])
def test_it_says_what_the_model_says(build):
    model, voice = build(), VllmVoice()
    for _ in range(2):
        theirs, after = answers(voice.speaking_for(model), PROMPTS, Sampling(temperature=0))
        ours, _ = answers(Plain(model), PROMPTS, Sampling(temperature=0))
        assert torch.equal(theirs.length, ours.length)
        assert torch.equal(theirs.ended, ours.ended)
        assert torch.equal(theirs.ids.where(theirs.counts, 0), ours.ids.where(ours.counts, 0))
        drawn, after = answers(voice, PROMPTS, Sampling())
        assert drawn.length[-1] == 0
        for column, prompt in enumerate(PROMPTS[:-1]):
            ids = drawn.ids[: drawn.length[column], column].tolist()
            assert after[column] == prompt + ids
            assert not set(ids) & set(range(7, 20))
            with torch.no_grad():
                tokens = torch.tensor(prompt + ids)[:, None]
                logits = model.logits(model(tokens))[len(prompt) - 1 : -1, 0]
            logits[:, 7:20] = -torch.inf
            expected = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
            torch.testing.assert_close(drawn.log_prob[: len(ids), column], expected, atol=1e-3, rtol=1e-3)
        again, _ = answers(voice, PROMPTS, Sampling())
        assert torch.equal(again.ids, drawn.ids)
        with torch.no_grad():  # new weights
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)


def test_a_conversation_that_outgrows_the_model():
    voice = VllmVoice().speaking_for(our_gpt2())
    with pytest.raises(UserError, match="more than the 512 tokens"):
        answers(voice, [[1] * 512, [1]], Sampling())
    with pytest.raises(UserError, match="more than the 512 tokens"):
        answers(voice, [[1] * 508, [1]], Sampling(), max_tokens=9)


def test_a_policy_learns_from_what_vllm_says(tmp_path):
    cloned(tmp_path, 10, model="gpt2", hidden_size=64, num_heads=2)
    config = rlhf.Config(
        policy=str(tmp_path / "bc"), num_conversations=32, batch_size=16, num_steps=12, warmup=0, num_epochs=2,
        group_size=2, learning_rate=1e-2, reward=("length=-0.1",), generator="vllm", method="rloo", kl_weight=0.0,
        run_dir=str(tmp_path / "run"), **WORDLE,
    )  # fmt: skip
    train(config)
    lines = list(read_metrics(tmp_path / "run"))
    assert lines[0]["kl"] == 0.0
    assert lines[-1]["episode_return"] > lines[0]["episode_return"] + 0.4
    assert load_speaker(tmp_path / "run").generator is None  # what was learnt speaks without vLLM
    # Once more, by an actor that takes turns: it says the same, of weights that it is sent.
    train(replace(config, run_dir=str(tmp_path / "actor"), num_actors=1))
    acted = list(read_metrics(tmp_path / "actor"))
    assert [line["episode_return"] for line in acted] == [line["episode_return"] for line in lines]


def test_models_that_vllm_does_not_know(tmp_path):
    sizes = GPT2Config(vocabulary_size=306, hidden_size=8, num_layers=1, num_heads=2, context_length=16)
    with pytest.raises(UserError, match=r"vLLM does not speak for this model .*head_dim=4"):
        answers(VllmVoice().speaking_for(GPT2(sizes)), [[1], [1]], Sampling())
    cloned(tmp_path, 2)
    with pytest.raises(UserError, match="--generator vllm with --model gru"):
        train(rlhf.Config(policy=str(tmp_path / "bc"), generator="vllm", run_dir=str(tmp_path / "run"), **WORDLE))
    assert not (tmp_path / "run").exists()
