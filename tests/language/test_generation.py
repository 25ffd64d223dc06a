"""Tokens are drawn as they say they are."""

from typing import Any

import pytest
import torch
from torch import Tensor

from seqrl.errors import UserError
from seqrl.language.generation import DRAWN, Plain, Sampling, generate
from seqrl.language.gpt2 import GPT2, GPT2Config
from seqrl.language.model import MemoryModel
from seqrl.memory import GRU

STOP = 3


class Counting:
    """Says token 7 `times[b]` times in column b, and then stops. Its context is what each column has read."""

    def __init__(self, times: list[int]) -> None:
        self.times = torch.tensor(times)

    def start(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size, dtype=torch.int64)

    def read(self, tokens: Tensor, count: Tensor, context: Any) -> tuple[Tensor, Any]:
        assert len(tokens) == 1
        context = context + count
        token = torch.where(context < self.times, 7, STOP)
        return torch.nn.functional.one_hot(token, 9) * 50.0, context


def begin(voice: Counting) -> tuple[Tensor, Tensor]:
    B = len(voice.times)
    return voice.read(torch.zeros(1, B, dtype=torch.int64), torch.zeros(B, dtype=torch.int64), voice.start(B))


# Broken by `going.long()` replaced by ones in `voice.read`, `length += 1`, or `ended |= token == stop_id`.
def test_each_column_stops_by_itself() -> None:
    voice = Counting([2, 0, 5, 0])
    speaks = torch.tensor([True, True, True, False])
    said, read = generate(voice, *begin(voice), stop_id=STOP, max_tokens=4, speaks=speaks)
    assert said.length.tolist() == [3, 1, 4, 0]
    assert said.ended.tolist() == [True, True, False, False]
    assert read.tolist() == [3, 1, 4, 0]
    assert said.ids[:3, 0].tolist() == [7, 7, STOP]
    assert said.ids[:4, 2].tolist() == [7, 7, 7, 7]


def test_nobody_speaks() -> None:
    voice = Counting([2, 2])
    said, _ = generate(voice, *begin(voice), stop_id=STOP, max_tokens=4, speaks=torch.zeros(2, dtype=torch.bool))
    assert said.ids.shape == said.log_prob.shape == (0, 2)
    assert said.length.tolist() == [0, 0]


class Fixed:
    """The same logits for ever."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def start(self, batch_size: int) -> None:
        return None

    def read(self, tokens: Tensor, count: Tensor, context: Any) -> tuple[Tensor, Any]:
        return self.logits.expand(tokens.shape[1], -1), None


def drawn(logits: list[float], n: int = 10_000, **options: Any) -> tuple[Tensor, Tensor]:
    voice = Fixed(torch.tensor(logits))
    everybody = torch.ones(n, dtype=torch.bool)
    start, _ = voice.read(torch.zeros(1, n), everybody, None)
    generator = torch.Generator().manual_seed(0)
    said, _ = generate(voice, start, None, stop_id=-1, max_tokens=1, speaks=everybody, generator=generator, **options)
    return said.ids[0], said.log_prob[0]


# Broken by `temperature` left out of the softmax, or `top_k` by one more.
@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (DRAWN, [0.0, 0.1, 0.2, 0.3, 0.4]),
        (Sampling(temperature=0.5), [0.0, 1 / 30, 4 / 30, 9 / 30, 16 / 30]),
        (Sampling(top_k=2), [0.0, 0.0, 0.0, 3 / 7, 4 / 7]),
        (Sampling(top_k=9), [0.0, 0.1, 0.2, 0.3, 0.4]),
        (Sampling(temperature=0), [0.0, 0.0, 0.0, 0.0, 1.0]),
    ],
)
def test_tokens_have_their_probabilities(sampling: Sampling, expected: list[float]) -> None:
    probability = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4])
    ids, log_prob = drawn(probability.log().tolist(), sampling=sampling)
    found = torch.bincount(ids, minlength=5) / len(ids)
    expected = torch.tensor(expected)
    error = (expected * (1 - expected) / len(ids)).sqrt()
    assert ((found - expected).abs() <= 4.5 * error).all()
    torch.testing.assert_close(log_prob.exp(), probability[ids])  # at temperature 1, whatever was left out


# Broken by `allowed` that masks after drawing, or a log-probability of the unmasked logits.
def test_what_is_not_allowed_is_never_drawn() -> None:
    allowed = torch.tensor([True, False, True, False])
    ids, log_prob = drawn([0.0, 20.0, 0.0, 3.0], n=2_000, allowed=allowed)
    assert set(ids.tolist()) == {0, 2}
    torch.testing.assert_close(log_prob, torch.full_like(log_prob, 0.5).log())


def test_ties_do_not_widen_top_k() -> None:
    # Broken by `logits < least` in place of the k tokens that `topk` names.
    ids, _ = drawn([1.0, 1.0, 1.0, 1.0], n=500, sampling=Sampling(top_k=1))
    assert len(set(ids.tolist())) == 1


def gpt2() -> GPT2:
    return GPT2(GPT2Config(vocabulary_size=12, hidden_size=64, num_layers=2, num_heads=2, context_length=64))


# The log-probability that a token was drawn with is that by which it is learnt. Broken by features of `read` before
# the column's last token, or `log_probs.append` behind `voice.read`.
@pytest.mark.parametrize("build", [gpt2, lambda: MemoryModel(12, GRU(8, 16))])
def test_drawn_log_probabilities_are_those_of_training(build: Any) -> None:
    torch.manual_seed(0)
    model = build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    prompt, count = torch.randint(12, (6, 5)), torch.tensor([6, 1, 3, 2, 4])
    voice = Plain(model)
    logits, context = voice.read(prompt, count, voice.start(5))
    everybody = torch.ones(5, dtype=torch.bool)
    said, _ = generate(voice, logits, context, stop_id=STOP, max_tokens=30, speaks=everybody)
    assert said.ended.any()
    assert said.length.min() < said.length.max()
    for b in range(5):
        n, m = int(said.length[b]), int(count[b])
        tokens = torch.cat([prompt[:m, b], said.ids[:n, b]])[:, None]
        expected = model.logits(model(tokens)).log_softmax(-1)[:-1, 0].gather(1, tokens[1:])[m - 1 :, 0]
        torch.testing.assert_close(said.log_prob[:n, b], expected, atol=1e-5, rtol=1e-5)


def test_the_generator_decides() -> None:
    voice = Plain(gpt2())
    logits, _ = voice.read(torch.zeros(1, 4, dtype=torch.int64), torch.ones(4, dtype=torch.int64), voice.start(4))

    def ids(seed: int) -> list[list[int]]:
        _, context = voice.read(torch.zeros(1, 4, dtype=torch.int64), torch.ones(4, dtype=torch.int64), voice.start(4))
        everybody, generator = torch.ones(4, dtype=torch.bool), torch.Generator().manual_seed(seed)
        said, _ = generate(voice, logits, context, stop_id=-1, max_tokens=8, speaks=everybody, generator=generator)
        return said.ids.tolist()

    assert ids(1) == ids(1) != ids(2)


def test_sampling_refuses_what_makes_no_sense() -> None:
    with pytest.raises(UserError, match=r"temperature is -1 in Sampling"):
        Sampling(temperature=-1)
    with pytest.raises(UserError, match=r"top_k is -2 in Sampling"):
        Sampling(top_k=-2)
    for beyond in (1e-39, float("inf")):  # a forbidden token's −∞ over it is no number, and the last of all was said
        with pytest.raises(UserError, match=r"temperature is .* in Sampling"):
            Sampling(temperature=beyond)


# Must break: `1e-30` replaced by `1e-40`, in float32 no number that 1 can be divided by.
@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1e30])
def test_no_temperature_lets_forbidden_tokens_be_said(temperature: float) -> None:
    sampling, allowed = Sampling(temperature=temperature), torch.tensor([True, True, False, False])
    ids, _ = drawn([0.0, 3.0, 20.0, 20.0], n=200, allowed=allowed, sampling=sampling)
    assert set(ids.tolist()) == ({1} if temperature < 1 else {0, 1})
