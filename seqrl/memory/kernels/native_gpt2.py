"""A whole GPT-2 that reads and speaks, by the C++ kernels: all layers, and all tokens, in one call."""

import mmap
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqrl.memory.kernels.native_library import call, library, num_threads

HUGE = 2**21
"""Bytes of a large page."""
Kept = Sequence[Float[Tensor, "2 B num_heads C head_size"]]
"""Keys and values, a tensor a layer."""


class Spoken(NamedTuple):
    """What some columns have said, as the kernels keep it: `keep_said` brings it to where others find it."""

    memory: "Memory"
    sizes: tuple[int, int]
    """The most tokens that one of them had read before, and that it could have said."""
    weights: list[Tensor]
    columns: Int[Tensor, "M"]
    before: Int[Tensor, "B"]
    """Tokens that each column had read before."""
    said: Int[Tensor, "B"]


class Memory:
    """At least `count` numbers on large pages, which bring keys and values a quarter sooner.

    Fresh pages take longer than what is done with them, so the next to ask gets those that nobody needs any more.
    """

    spare: ClassVar[list[Tensor]] = []

    def __init__(self, count: int) -> None:
        try:
            self.numbers = self.spare.pop()
        except IndexError:
            self.numbers = torch.empty(0)
        if len(self.numbers) < count:
            self.numbers = _fresh(count)

    def __del__(self) -> None:
        if not self.spare:
            self.spare.append(self.numbers)


def _fresh(count: int) -> Float[Tensor, "N"]:
    pages = mmap.mmap(-1, 4 * count + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    numbers = torch.frombuffer(pages, dtype=torch.float32)  # keeps the pages alive
    return numbers[-numbers.data_ptr() % HUGE // 4 :]


def speak(
    weights: Sequence[Tensor],
    kept: Kept,
    length: Int[Tensor, "B"],
    logits: Float[Tensor, "B V"],
    uniform: Float[Tensor, "N B"],
    speaks: Bool[Tensor, "B"],
    allowed: Bool[Tensor, "V"],
    *,
    stop_id: int,
    temperature: float,
    epsilon: float,
) -> tuple[Int[Tensor, "N B"], Float[Tensor, "N B"], Spoken]:
    """Draw up to N tokens in each column that `speaks`, until it says `stop_id`, and read them: ids, the logarithms of
    their probabilities, and what was said, with how many of the ids count in each column.

    Column b's t-th token is the first whose probability, summed with those of all before it, exceeds `uniform[t, b]`.
    `weights` are the table of tokens and of positions, the last norm's weight and bias, the head [H, V], and then 12 a
    layer, in the order of its parts. Of `kept` the first `length[b]` slots of column b are read, and nothing is
    written. A column's result is the same to the last bit whatever stands beside it, and with any number of threads.
    No gradient.
    """
    (N, B), V = uniform.shape, len(allowed)
    _, _, num_heads, capacity, head_size = kept[0].shape
    columns = speaks.nonzero()[:, 0]
    read = int(length[columns].max())
    a_column = library().speaking_size(len(kept), num_heads, head_size, read, N)  # type: ignore[union-attr]
    memory = Memory(len(columns) * a_column)
    shared = _pointed_at(weights, kept)
    vector = library().vector_length()  # type: ignore[union-attr]
    excluded = F.pad(torch.zeros(V).masked_fill_(~allowed, -torch.inf), (0, -V % vector))
    ids, said, log_prob = torch.zeros(N, B, dtype=torch.int64), torch.zeros(B, dtype=torch.int64), torch.zeros(N, B)
    sizes = B, V, len(kept), num_heads, head_size, capacity, read, N, stop_id, len(columns), torch.get_num_threads()
    call(
        "speak", sizes, _pointers(shared), torch.tensor([epsilon, temperature]), length, columns, excluded,
        logits.contiguous(), uniform, memory.numbers, ids, said, log_prob,
    )  # fmt: skip
    return ids, log_prob, Spoken(memory, (read, N), list(weights), columns, length, said)


def keep_said(spoken: Spoken, kept: Kept) -> None:
    """Write what was said to `kept`, which has room for it: behind what each column had read.

    Where rows were kept, keys and values are made of them by the weights: these must be what they were."""
    _, B, num_heads, capacity, head_size = kept[0].shape
    count = len(spoken.columns)
    sizes = B, len(kept), num_heads, head_size, capacity, *spoken.sizes, count, num_threads(count)
    shared = _pointed_at(spoken.weights, kept)
    call("keep_said", sizes, _pointers(shared), spoken.memory.numbers, spoken.before, spoken.columns, spoken.said)


def read_beginnings(
    weights: Sequence[Tensor], kept: Kept, tokens: Int[Tensor, "T B"], count: Int[Tensor, "B"], epsilon: float
) -> Float[Tensor, "B H"]:
    """Read the first `count[b]` tokens of column b, which has read nothing before: the features after the last of them,
    where there is one. Keys and values go to `kept`, and zeros to its other slots, whatever these held. `weights` and
    bits are as in `speak`. No gradient."""
    _, B, num_heads, capacity, head_size = kept[0].shape
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < len(weights[0]), "tokens are of the model's vocabulary"
    assert 0 <= int(count.min()) <= int(count.max()) <= len(tokens), "what is counted is there"
    tokens, count = tokens.long(), count.long()  # what the kernels take them for
    shared = _pointed_at(weights, kept)
    y = torch.zeros(B, num_heads * head_size)
    sizes = B, len(weights[0]), len(kept), num_heads, head_size, capacity, int(count.max()), num_threads(B)
    call("read_beginnings", sizes, _pointers(shared), torch.tensor([epsilon]), tokens.contiguous(), count, y)
    return y


def _pointed_at(weights: Sequence[Tensor], kept: Kept) -> list[Tensor]:
    """All that the kernels read of a model, in their order: each layer's weights, and behind them what it keeps."""
    weights = [weight.detach().contiguous() for weight in weights]
    shared, layers = weights[:5], weights[5:]
    per_layer = len(layers) // len(kept)
    assert per_layer == 12, "a layer has twelve weights"
    for number, cache in enumerate(kept):
        shared += [*layers[number * per_layer : (number + 1) * per_layer], cache]
    assert all(each.is_contiguous() and each.dtype == torch.float32 for each in shared)
    return shared


def _pointers(tensors: Sequence[Tensor]) -> Int[Tensor, "N"]:
    return torch.tensor([each.data_ptr() for each in tensors])
