"""A whole GPT-2 that speaks, by the C++ kernels: tokens are drawn and read again in one call."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqrl.memory.kernels.native_library import call


def speak(
    weights: Sequence[Tensor],
    kept: Sequence[Float[Tensor, "2 B num_heads C head_size"]],
    length: Int[Tensor, "B"],
    logits: Float[Tensor, "B V"],
    uniform: Float[Tensor, "N B"],
    speaks: Bool[Tensor, "B"],
    allowed: Bool[Tensor, "V"],
    *,
    stop_id: int,
    temperature: float,
    epsilon: float,
) -> tuple[Int[Tensor, "N B"], Int[Tensor, "B"], Float[Tensor, "N B"]]:
    """Draw up to N tokens in each column that `speaks`, until it says `stop_id`, and read them: ids, how many of them
    count in each column, and the logarithms of their probabilities.

    Column b's t-th token is the first whose probability, summed with those of all before it, exceeds `uniform[t, b]`.
    `weights` are the table of tokens and of positions, the last norm's weight and bias, the head [H, V], and then 12 a
    layer, in the order of its parts. `kept` are keys and values, a tensor a layer: `length[b]` slots of column b are
    read, and what is said is written behind them. A column's result is the same to the last bit whatever stands beside
    it, and with any number of threads. No gradient.
    """
    (N, B), V = uniform.shape, len(allowed)
    _, _, num_heads, capacity, head_size = kept[0].shape
    weights = [weight.detach().contiguous() for weight in weights]
    shared, layers = weights[:5], weights[5:]
    per_layer = len(layers) // len(kept)
    assert per_layer == 12, "a layer has twelve weights"
    for number, cache in enumerate(kept):
        shared += [*layers[number * per_layer : (number + 1) * per_layer], cache]
    assert all(each.is_contiguous() and each.dtype == torch.float32 for each in shared)
    pointers = torch.tensor([each.data_ptr() for each in shared])
    excluded = torch.zeros(V).masked_fill_(~allowed, -torch.inf)
    ids, said, log_prob = torch.zeros(N, B, dtype=torch.int64), torch.zeros(B, dtype=torch.int64), torch.zeros(N, B)
    sizes = B, V, len(kept), num_heads, head_size, capacity, N, stop_id, torch.get_num_threads()
    numbers = torch.tensor([epsilon, temperature])
    call("speak", sizes, pointers, numbers, length, speaks, excluded, logits.contiguous(), uniform, ids, said, log_prob)
    return ids, said, log_prob
