"""A GPT-2 that says whole utterances in C++ says what it would have said one token after the other."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from seqrl.language.generation import DRAWN, Plain, Sampling, Utterances, generate
from seqrl.language.gpt2 import GPT2, GPT2Config
from seqrl.memory.kernels import native_library

pytestmark = pytest.mark.skipif(native_library.library() is None, reason="no C++ compiler")

V, STOP = 23, 3
ALLOWED = torch.arange(V) != 1
COUNT = torch.tensor([9, 1, 7, 2, 5, 8])
SPEAKS = torch.tensor([True, True, False, True, True, True])


def model(num_heads: int = 2, vectors: int = 1, **sizes: Any) -> GPT2:
    torch.manual_seed(num_heads + vectors)
    width = num_heads * vectors * native_library.library().vector_length()
    gpt2 = GPT2(GPT2Config(vocabulary_size=V, hidden_size=width, num_layers=2, num_heads=num_heads, **sizes))
    for name, parameter in gpt2.named_parameters():
        std = 0.5 / width**0.5 if name.endswith("weight") and parameter.ndim == 2 else 0.2
        torch.nn.init.normal_(parameter, std=std)
    with torch.no_grad():
        gpt2.embedding.weight *= 4
    return gpt2


def spoken(
    gpt2: GPT2, columns: slice = slice(None), sampling: Sampling = DRAWN, max_tokens: int = 20
) -> tuple[Utterances, Tensor, Tensor]:
    """What is said after a prompt, what comes next when more is read, and the generator's state."""
    voice, generator = Plain(gpt2), torch.Generator().manual_seed(5)
    prompt = torch.randint(V, (9, 6), generator=generator)[:, columns]
    context = voice.start(prompt.shape[1])
    logits, context = voice.read(prompt, COUNT[columns], context)
    said, context = generate(
        voice, logits, context, stop_id=STOP, max_tokens=max_tokens, speaks=SPEAKS[columns], allowed=ALLOWED,
        sampling=sampling, generator=generator,
    )  # fmt: skip
    more = torch.tensor([[4], [7]]).expand(-1, prompt.shape[1])
    logits, _ = voice.read(more, torch.full((prompt.shape[1],), 2), context)
    return said, logits, generator.get_state()


# Must break, each by itself: `place[left] = place[row]` left out; `whole` without the new key; `row[i] +=
# speech.excluded[i]` left out; `read` left out of `keep_said`; `1 / speech.temperature` replaced by 1. Of
# rows in place of keys and values (1, 2 and 4 heads): `+ shift`, `mass[column * step] * load(…)` or `LANES < left` left
# out in gpt2_rows.h; `i ^ STEP` replaced by i; `bias(bias + H)` by `bias(bias)`; `said + 1` by `said` in rows.add_up.
@pytest.mark.parametrize("sizes", [(1, 1), (2, 2), (3, 2), (2, 3), (1, 8), (4, 2), (8, 1)])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_as_one_after_the_other(sizes: tuple[int, int], temperature: float) -> None:
    gpt2, sampling = model(*sizes), Sampling(temperature=temperature)
    said, after, state = spoken(gpt2, sampling=sampling)
    with mock.patch.object(GPT2, "say", return_value=None) as asked:
        expected, expected_after, expected_state = spoken(gpt2, sampling=sampling)
    assert asked.called
    assert said.length.tolist() == expected.length.tolist()
    assert said.ended.tolist() == expected.ended.tolist()
    assert (said.ids == expected.ids)[said.counts].all()
    torch.testing.assert_close(said.log_prob[said.counts], expected.log_prob[said.counts], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after, expected_after, atol=1e-4, rtol=1e-4)
    assert (state == expected_state).all()
    assert temperature == 0 or said.ended.any()  # else nothing is seen of columns that close up
    assert not (said.ids[said.counts] == 1).any()


# Broken by sums whose order depends on the number of rows, or by threads that share what they write.
def test_whoever_stands_beside() -> None:
    gpt2, sampling, say = model(2, 2), Sampling(temperature=0), GPT2.say
    whole, after, _ = spoken(gpt2, sampling=sampling)
    threads, calls = torch.get_num_threads(), []

    def say_with_three(*args: Any, **kwargs: Any) -> Any:
        """The prompt is read by torch, whose products' sums may depend on its threads: on some processors they do."""
        torch.set_num_threads(3)
        try:
            calls.append(say(*args, **kwargs))
        finally:
            torch.set_num_threads(threads)
        return calls[-1]

    with mock.patch.object(GPT2, "say", say_with_three):
        shared, _, _ = spoken(gpt2, sampling=sampling)
    assert calls
    assert calls[-1] is not None
    counts = whole.counts
    assert (shared.ids == whole.ids)[counts].all()
    assert (shared.log_prob == whole.log_prob)[counts].all()
    alone, alone_after, _ = spoken(gpt2, slice(4, 5), sampling)
    n = int(whole.length[4])
    assert alone.length.tolist() == [n]
    torch.testing.assert_close(alone.log_prob[:n, 0], whole.log_prob[:n, 4], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(alone_after[0], after[4], atol=1e-5, rtol=1e-5)


# Must break: `s < kept.common` by one vector more, `owner[row - 1]` replaced by 0, or a comparison of lengths alone.
def test_columns_that_begin_alike_say_what_they_say_alone() -> None:
    gpt2, voice = model(2, 1), Plain(model(2, 1))
    first = torch.randint(V, (40, 3))
    prompt = first.repeat_interleave(torch.tensor([3, 2, 2]), 1)
    prompt[5, 4] = (prompt[5, 4] + 1) % V  # differs from its neighbour, and may not share
    count = torch.tensor([40, 40, 40, 37, 37, 33, 33])
    uniform = torch.rand(9, 7, dtype=torch.float64)

    def said(columns: list[int]) -> Tensor:
        logits, context = voice.read(prompt[:, columns], count[columns], voice.start(len(columns)))
        speaks = torch.ones(len(columns), dtype=torch.bool)
        found = gpt2.say(logits, context, uniform[:, columns], speaks, torch.ones(V, dtype=torch.bool), -1, 1.0)
        assert found is not None
        return found[0].log_prob

    whole = said(list(range(7)))
    for column in range(7):
        torch.testing.assert_close(whole[:, [column]], said([column]), atol=1e-5, rtol=1e-5)


# Must break: `context.settle()` left out of `take`.
def test_columns_that_are_taken_go_on_from_what_was_said() -> None:
    gpt2, index, more = model(2, 1), torch.tensor([4, 0, 4]), torch.tensor([[4], [7]])
    contexts = []
    for _ in range(2):
        y, context = gpt2.read(torch.arange(54).view(9, 6) % V, COUNT, gpt2.start(6))
        uniform = torch.linspace(0, 0.9, 48, dtype=torch.float64).view(8, 6)
        found = gpt2.say(gpt2.logits(y), context, uniform, SPEAKS, ALLOWED, -1, 1.0)
        assert found is not None
        contexts.append(found[1])
    whole, _ = gpt2.read(more.expand(-1, 6), torch.full((6,), 2), contexts[0])
    taken, _ = gpt2.read(more.expand(-1, 3), torch.full((3,), 2), gpt2.take(contexts[1], index))
    torch.testing.assert_close(taken, whole[index], atol=1e-5, rtol=1e-5)


# Must break, each by itself: `last += count[b]` behind the copies in take_last; `rows` for `columns[row]` in read;
# `model.kept(l, 1, …)` written from the keys.
@pytest.mark.parametrize("sizes", [(2, 2), (1, 4)])
def test_beginnings_are_read_as_in_training(sizes: tuple[int, int]) -> None:
    gpt2, B = model(*sizes), 40
    prompt, count = torch.randint(V, (30, B)), torch.randint(31, (B,))
    count[7] = 0
    y, context = gpt2.read(prompt, count, gpt2.start(B))
    expected = gpt2(prompt)[(count - 1).clamp(min=0), torch.arange(B)]
    torch.testing.assert_close(y[count > 0], expected[count > 0], atol=1e-5, rtol=1e-5)
    with mock.patch("seqrl.language.gpt2.native_attends_whole", return_value=False):
        _, plain = gpt2.read(prompt, count, gpt2.start(B))
    reads = torch.arange(context.capacity) < count[:, None]
    for kept, other in zip(context.layers, plain.layers, strict=True):
        hidden = ~reads[None, :, None, :, None]
        torch.testing.assert_close(kept.masked_fill(hidden, 0), other.masked_fill(hidden, 0), atol=1e-5, rtol=1e-5)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert (gpt2.read(prompt, count, gpt2.start(B))[0] == y).all()
    finally:
        torch.set_num_threads(threads)
    alone, _ = gpt2.read(prompt[:, 3:4], count[3:4], gpt2.start(1))
    assert (alone[0] == y[3]).all()


# Broken by the check of `context_length` left out of `say`: positions would be read beyond their table.
def test_near_the_end_of_the_context_tokens_are_said_one_by_one() -> None:
    gpt2 = model(context_length=16)
    prompt = torch.randint(V, (9, 6))
    y, context = gpt2.read(prompt, COUNT, gpt2.start(6))
    for steps, at_once in ((8, False), (7, True)):
        uniform = torch.rand(steps, 6, dtype=torch.float64)
        found = gpt2.say(gpt2.logits(y), context, uniform, SPEAKS, ALLOWED, STOP, 1.0)
        assert (found is not None) == at_once


def test_logits_that_are_no_numbers_do_no_harm() -> None:
    gpt2 = model()
    with torch.no_grad():
        gpt2.embedding.weight[5] = torch.nan
    said, _, _ = spoken(gpt2)
    assert ((said.ids >= 0) & (said.ids < V)).all()


# Must break: `.long()` left out, which takes ids of four bytes for half as many of eight; or the assertion on what is
# counted, behind which memory of others is read.
def test_beginnings_are_read_within_their_bounds() -> None:
    voice, tokens, count = Plain(model()), torch.randint(V, (6, 3)), torch.tensor([6, 2, 4])
    expected, _ = voice.read(tokens, count, voice.start(3))
    assert torch.equal(voice.read(tokens.int(), count.int(), voice.start(3))[0], expected)
    for wrong in (torch.tensor([6, 7, 4]), torch.tensor([6, -1, 4])):
        with pytest.raises(AssertionError, match="what is counted is there"):
            voice.read(tokens, wrong, voice.start(3))
