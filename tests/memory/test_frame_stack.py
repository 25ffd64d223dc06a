"""The frame stack against what it should hold, row by row."""

import torch

from seqrl.memory import FrameStack


def seen(memory, x, is_first, state):
    """The stacks that reach the linear layer, [T, B, num_frames, input_size], and the state after them."""
    stacks = []
    handle = memory.linear.register_forward_pre_hook(lambda _, inputs: stacks.append(inputs[0]))
    _, state = memory.unroll(x, state, is_first)
    handle.remove()
    return stacks[0].unflatten(2, (memory.num_frames, memory.input_size)), state


# Must break: `episode[k - 1 :]` one row earlier; the state's `1:` left out; the two transposes exchanged.
def test_frames_stand_oldest_first_and_zeros_stand_before_the_episode():
    memory = FrameStack(2, 5, num_frames=3)
    x = torch.arange(1.0, 7.0)[:, None, None] * torch.tensor([1.0, 10.0])
    is_first = torch.tensor([[True], [False], [False], [False], [True], [False]])
    stacks, state = seen(memory, x, is_first, 100 + memory.initial_state(1))
    expected = [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [0, 0, 5], [0, 5, 6]]
    assert stacks[:, 0, :, 0].tolist() == expected
    assert stacks[:, 0, :, 1].tolist() == [[10 * frame for frame in row] for row in expected]
    assert state.tolist() == [[[5, 50], [6, 60]]]


def test_equals_a_loop_under_random_resets():
    torch.manual_seed(0)
    T, B, D, k = 40, 5, 3, 4
    memory = FrameStack(D, 6, num_frames=k)
    x, is_first = torch.randn(T, B, D), torch.rand(T, B) < 0.2
    stacks, _ = seen(memory, x, is_first, memory.initial_state(B))
    for b in range(B):
        frames = [torch.zeros(D)] * k
        for t in range(T):
            if is_first[t, b]:
                frames = [torch.zeros(D)] * k
            frames = [*frames[1:], x[t, b]]
            torch.testing.assert_close(stacks[t, b], torch.stack(frames), rtol=0, atol=0)


def test_what_was_reset_may_have_been_nan():
    memory = FrameStack(2, 5)
    state = memory.initial_state(1) * torch.nan
    y, state = memory.unroll(torch.randn(3, 1, 2), state, torch.tensor([[True], [False], [False]]))
    assert y.isfinite().all()
    assert state.isfinite().all()


def test_the_state_holds_no_more_than_its_frames():
    memory = FrameStack(2, 5)
    _, state = memory.unroll(torch.randn(50, 3, 2), memory.initial_state(3), torch.zeros(50, 3, dtype=torch.bool))
    assert state.untyped_storage().nbytes() == state.numel() * state.element_size()
