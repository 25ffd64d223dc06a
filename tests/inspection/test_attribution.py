"""What an agent remembers: each weight against its definition, taken the slow way."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box, Discrete

from seqrl.agent import Agent
from seqrl.inspection.attribution import (
    AttentionRecorder,
    _reads,
    encoded,
    linear_attention_weights,
    log_odds,
    look_at,
    memory_of,
    occlusion,
    saliency,
    wanted_of,
)
from seqrl.memory import make_memory
from seqrl.memory.linear_attention import linear_attention
from seqrl.nets import Encoder, PolicyHead, ValueHead
from seqrl.trajectory import AgentInput

T, SIZE = 7, 8


def agent(memory: str) -> Agent:
    torch.manual_seed(0)
    space, actions = Box(-1, 1, (3,), np.float32), Discrete(4)
    heads = {"policy": PolicyHead(SIZE, actions), "value": ValueHead(SIZE)}
    made = Agent(space, actions, Encoder(space, SIZE), make_memory(memory, SIZE, SIZE), heads, use_previous_action=True)
    torch.nn.init.normal_(made.heads["policy"].linear.weight)
    return made.eval()


def episode(resets=()) -> AgentInput:
    generator = torch.Generator().manual_seed(1)
    first = torch.zeros(T, 1, dtype=torch.bool)
    first[[0, *resets]] = True
    action = torch.randint(4, (T, 1), generator=generator)
    return AgentInput(torch.randn(T, 1, 3, generator=generator), action, torch.zeros(T, 1), first)


ACTION = torch.tensor([[0], [3], [2], [1], [0], [2], [1]])


def z_of(made: Agent, x: torch.Tensor, first: torch.Tensor, name: str) -> torch.Tensor:
    """The definition: heads on the memory's output, from its inputs x [T, D] on."""
    y, _ = made.memory.unroll(x[:, None], made.memory.initial_state(1), first)
    said = {key: head(y, None) for key, head in made.heads.items()}
    return wanted_of(said, ACTION)[name](said)[:, 0]


# Break: `self._side_by_side` that adds to all columns alike; `size[: t + 1]` one longer; `repeat` by `expand` of x.
@pytest.mark.parametrize("memory", ["none", "frame_stack", "gru", "lstm", "linear", "transformer", "linear_attention"])
@pytest.mark.parametrize("name", ["the action taken", "value"])
def test_weights_are_what_they_are_defined_to_be(memory, name):
    made, inputs = agent(memory), episode()
    said, _ = made.unroll(inputs, made.initial_state(1))
    look = look_at(made, inputs, wanted_of(said, ACTION)[name])
    x = encoded(made.memory, look, T)
    jacobian = torch.autograd.functional.jacobian(lambda x: z_of(made, x, inputs.is_first, name), x)  # [T, T, D]
    slopes = saliency(made.memory, look, T, columns=3)
    average, plain = torch.full((SIZE,), 0.3), z_of(made, x, inputs.is_first, name).detach()
    moved = occlusion(made.memory, look, T, average, columns=3)
    for t in range(T):
        np.testing.assert_allclose(slopes[t], jacobian[t, : t + 1].norm(dim=-1), rtol=1e-3, atol=1e-5)
        for k in range(t + 1):
            other = x.clone()
            other[k] = average
            want = float((z_of(made, other, inputs.is_first, name).detach()[t] - plain[t]).abs())
            assert moved[t][k] == pytest.approx(want, abs=2e-5)
    if memory == "none":
        assert all(not row[:-1].any() for row in (*slopes, *moved))
    assert "unroll" not in vars(made.memory)  # the memory is left as it was


def test_nothing_is_remembered_across_a_reset():
    made, inputs = agent("gru"), episode(resets=[4])
    said, _ = made.unroll(inputs, made.initial_state(1))
    look = look_at(made, inputs, wanted_of(said, ACTION)["value"])
    assert not saliency(made.memory, look, T)[5][:4].any()
    assert saliency(made.memory, look, T)[5][4] > 0


# Break: the scale or the mask left out of `_last_weights`, or the first query taken for the last.
@pytest.mark.parametrize("mask", ["none", "bool", "float", "causal"])
def test_attention_is_recorded_as_it_is_computed(mask):
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, 5, 4, generator=generator) for _ in range(2))
    seen = torch.rand(1, 1, 5, 5, generator=generator) < 0.6
    seen[..., 0] = True
    options = {
        "none": {}, "bool": {"attn_mask": seen}, "causal": {"is_causal": True},
        "float": {"attn_mask": torch.zeros(1, 1, 5, 5).masked_fill(~seen, -1e9)},
    }[mask]  # fmt: skip
    values = torch.eye(5).expand(1, 2, 5, 5)  # what is read are the weights themselves
    with AttentionRecorder() as recorder:
        read = F.scaled_dot_product_attention(q, k, values, **options)
    torch.testing.assert_close(recorder.weights[0], read[0, :, -1].mean(0))
    assert recorder.by_row(1, 3)[0].shape == (3,)


def test_keys_of_fewer_heads_are_shared():
    q, k = torch.randn(1, 4, 3, 4), torch.randn(1, 2, 3, 4)
    values = torch.eye(3).expand(1, 2, 3, 3)
    with AttentionRecorder() as recorder:
        read = F.scaled_dot_product_attention(q, k, values, enable_gqa=True)
    torch.testing.assert_close(recorder.weights[0], read[0, :, -1].mean(0))


def test_a_transformer_attends_to_its_window_while_it_acts():
    made = agent("transformer")
    made.memory.window = 4
    state, inputs = made.initial_state(1), episode()
    for t in range(T):
        with AttentionRecorder() as recorder, torch.no_grad():
            _, state = made.step(AgentInput(*(leaf[t] for leaf in inputs)), state)
        layers = recorder.by_row(1, t + 1)
        assert len(layers) == 2
        for row in layers:
            assert len(row) == min(t + 1, 4)
            assert row.sum() == pytest.approx(1, abs=1e-5)


# Break: the decay's sign, or a denominator without the prior's 1.
def test_linear_attention_says_where_its_reads_were_written():
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.rand(1, 1, T, 5, generator=generator) for _ in range(2))
    forget, first = -torch.rand(1, 1, T, generator=generator), torch.zeros(1, T, dtype=torch.bool)
    first[0, [0, 3]] = True
    values = torch.cat([torch.eye(T), torch.ones(T, 1)], -1).expand(1, 1, T, T + 1)
    read, _ = linear_attention(q, k, values, forget, first, torch.zeros(1, 1, 5, T + 1))
    total, count = read[0, 0].split([T, 1], -1)
    for t, row in enumerate(_reads(q[0], k[0], forget[0], first[0])):
        np.testing.assert_allclose(row, (total / (1 + count))[t, : t + 1], rtol=1e-4, atol=1e-6)


def test_linear_attention_of_an_agent():
    made = agent("linear_attention")
    before = linear_attention_weights(made, episode())
    assert [len(layer) for layer in before] == [T]
    assert all(0 < row.sum() < 1 for row in before[0])


def test_log_odds_keep_their_slope_where_the_choice_is_certain():
    """Breaks if the log-probability is looked at: its slope is 0 in float32 here."""
    logits = torch.tensor([[[0.0, 60.0, 1.0]]], requires_grad=True)
    log_odds(logits.log_softmax(-1), torch.tensor([[1]])).sum().backward()
    assert float(logits.grad[0, 0, 1]) == pytest.approx(1, abs=1e-4)


def test_the_memory_is_found_behind_another_agent():
    class Around(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.agent = agent("gru")

    around = Around()
    assert memory_of(around) is around.agent.memory
