"""What an agent remembers, as weights over the rows of the episode that came before: attention, and saliency.

*Attention* is what an attention memory reads from: at row t, in each layer, how much of what is read comes from row k.
*Saliency* asks any memory: how fast does what is said at row t move with what was encoded at row k? With z_t what is
looked at (a value, the log-odds of the action taken) and x_k the memory's input at row k,

    s_{t,k} = ‖∂ z_t / ∂ x_k‖₂,   k ≤ t.

Directions that no observation ever takes count too, and the last rows, by which a recurrent state is moved most, come
out large whatever they show. *Occlusion* asks what was really seen: how far would z_t have moved, had row k shown what
rows show on average, x̄, in place of x_k?

    d_{t,k} = |z_t(x_0 … x_t) − z_t(x_0 … x̄ … x_t)|

This is exact, not to first order, and a row that is like all others gets 0: it is shown first. x_k is what the encoder
made of row k, with the previous action and reward where the agent reads them, so that rows of any space compare.

Sources: saliency, Simonyan et al. 2014 (arXiv 1312.6034); occlusion, Zeiler & Fergus 2014 (arXiv 1311.2901), who grey
out patches of one image where we put an average row. Neither says that a row helped.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from seqrl.acting import ActingModule
from seqrl.actor_critic import ActorCritic
from seqrl.memory import linear_attention as linear
from seqrl.memory.base import Memory
from seqrl.memory.linear_attention import LinearAttention
from seqrl.memory.reencoded import Reencoded
from seqrl.nets.distributions import Categorical, EpsilonGreedy
from seqrl.trajectory import AgentInput, tree_map

Weights = list[np.ndarray]
"""For each row t, [t + 1] or the last few of them: a weight for each row up to t, oldest first."""

Wanted = Callable[[dict[str, Any]], Tensor]
"""What is looked at: from what an agent's heads say of rows [T, B, …] to one number each, [T, B]."""

Look = Callable[[int], Tensor]
"""Reads the first T rows of an episode, one column, and gives z [T, 1]. It is called while the memory it reads with
reads B changed copies, and then gives [T, B]."""


def memory_of(agent: ActingModule, head: str = "policy") -> Memory:
    """The memory that an agent's head reads, also where another agent stands around it."""
    if isinstance(agent, ActorCritic):
        agent = agent.critic if head in agent.critic.heads else agent.actor
    return agent.memory if hasattr(agent, "memory") else agent.agent.memory  # type: ignore[union-attr, return-value]


class AttentionRecorder(TorchFunctionMode):
    """Within it, every attention of PyTorch's also leaves its weights: the last query's, mean over heads, [keys].

    So any memory whose layers call `scaled_dot_product_attention` can be looked at while it acts, and none need know.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.weights.append(_last_weights(*args[:2], *args[3:4], **kwargs))
        return func(*args, **kwargs)

    def by_row(self, tokens_per_row: int, num_rows: int) -> list[np.ndarray]:
        """A layer each: the last `num_rows` rows' weights, or of fewer, where fewer can be seen."""
        rows = [weights.view(-1, tokens_per_row).sum(-1)[-num_rows:] for weights in self.weights]
        return [row.cpu().numpy() for row in rows]


@torch.no_grad()
def _last_weights(query: Tensor, key: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    """Of the last query of one column. A causal one sees all keys, as does one without a mask."""
    mask = options.get("attn_mask", mask)
    query = query[..., -1:, :]
    if query.shape[-3] != key.shape[-3]:  # heads that share keys
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scale = options.get("scale") or query.shape[-1] ** -0.5
    scores = (query @ key.transpose(-1, -2)).float() * scale
    if mask is not None:
        last = mask[..., -1:, :]
        scores = scores.masked_fill(~last, -torch.inf) if last.dtype == torch.bool else scores + last
    return scores.softmax(-1).reshape(-1, *scores.shape[-3:])[-1, :, 0].mean(0)


def tokens_per_row(memory: Memory) -> int:
    """Tokens that a row has in the memory's attention."""
    inner = memory.memory if isinstance(memory, Reencoded) else memory
    return getattr(inner, "tokens_per_row", 1)


@torch.no_grad()
def linear_attention_weights(agent: ActingModule, inputs: AgentInput) -> list[Weights]:
    """Of a `LinearAttention`, a layer each: how much of what row t reads was written at row k, mean over heads.

    With the table's decay, a_{t,k} = f_{k+1} … f_t · q_t · w_k k_k over 1 + Σ_k of the same; the rest is the prior's.
    """
    layers: list[Weights] = []
    plain = linear.linear_attention

    def recorded(q: Tensor, k: Tensor, v: Tensor, log_forget: Tensor, first: Tensor, table: Tensor) -> Any:
        layers.append(_reads(q[0], k[0], log_forget[0], first[0]))
        return plain(q, k, v, log_forget, first, table)

    linear.linear_attention = recorded  # type: ignore[assignment]
    try:
        agent.unroll(inputs, agent.initial_state(1))
    finally:
        linear.linear_attention = plain
    return layers


def _reads(q: Tensor, k: Tensor, log_forget: Tensor, first: Tensor) -> Weights:
    """q, k [H, T, K], log_forget [H, T], first [T]: row by row, mean over heads."""
    kept = log_forget.double().cumsum(-1)
    episode = first.cumsum(0)
    scores = (q @ k.transpose(-1, -2)).double() * (kept[:, :, None] - kept[:, None, :]).clamp(max=0).exp()
    scores = scores.tril() * (episode[:, None] == episode[None, :])
    share = (scores / (1 + scores.sum(-1, keepdim=True))).mean(0)
    return [share[t, : t + 1].float().cpu().numpy() for t in range(len(share))]


def attends(memory: Memory) -> bool:
    """Whether weights can be read off while the memory works, and need no gradient."""
    return isinstance(memory, LinearAttention | Reencoded) or not memory.stores_state


def look_at(agent: ActingModule, inputs: AgentInput, wanted: Wanted) -> Look:
    """For `saliency` and `occlusion`: an agent reads an episode's rows, [T, 1, …], from its first on."""
    assert inputs.is_first.shape[1] == 1, "one episode"

    def look(stop: int) -> Tensor:
        rows = tree_map(lambda leaf: leaf[:stop], inputs)
        return wanted(agent.unroll(rows, agent.initial_state(1))[0])

    return look


def saliency(memory: Memory, look: Look, num_rows: int, columns: int = 64) -> Weights:
    """s_{t,k} of one episode of `num_rows` rows.

    All t are differentiated side by side: in a batch of copies of the episode, column t's z_t alone counts, and columns
    do not mix (the memory's third law). `columns` of them at a time bound the memory that it takes.
    """
    result: Weights = []
    for start in range(0, num_rows, columns):
        stop = min(start + columns, num_rows)
        targets = torch.arange(start, stop)
        leaves: list[Tensor] = []

        def differentiate(x: Tensor, leaves: list[Tensor] = leaves) -> Tensor:
            leaves.append(x.requires_grad_())
            return x

        with _side_by_side(memory, stop - start, differentiate), torch.enable_grad():
            z = look(stop)[targets, torch.arange(stop - start)].sum()
        slope = torch.autograd.grad(z, leaves[0])[0].float().norm(dim=-1)  # [rows, columns]
        result += [slope[: t + 1, t - start].cpu().numpy() for t in range(start, stop)]
    return result


@torch.no_grad()
def occlusion(memory: Memory, look: Look, num_rows: int, average: Tensor, columns: int = 64) -> Weights:
    """d_{t,k} of one episode of `num_rows` rows; `average` is x̄, [D].

    Each k has a copy of the episode in which its row alone is replaced, and is read once for all t ≥ k. A copy beside
    them stays as it is: all are rounded alike, so that what has no effect has none at all.
    """
    moved = np.zeros((num_rows, num_rows), np.float32)
    for start in range(0, num_rows, columns):
        rows = torch.arange(start, min(start + columns, num_rows))

        def occlude(x: Tensor, rows: Tensor = rows) -> Tensor:
            x = x.clone()
            x[rows, torch.arange(len(rows))] = average
            return x

        with _side_by_side(memory, len(rows) + 1, occlude):
            z = look(num_rows)
        moved[:, start : start + len(rows)] = (z[:, :-1] - z[:, -1:]).abs().float().cpu().numpy()
    return [moved[t, : t + 1] for t in range(num_rows)]


@torch.no_grad()
def encoded(memory: Memory, look: Look, num_rows: int) -> Tensor:
    """What the memory reads of one episode's rows, [T, D]."""
    seen: list[Tensor] = []

    def see(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    with _side_by_side(memory, 1, see):
        look(num_rows)
    return seen[0][:, 0]


@contextmanager
def _side_by_side(memory: Memory, count: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within it, `memory` reads `count` copies of the one column that it is given, [T, count, D], and `change` has
    changed them. The encoder before it runs once."""
    plain = memory.unroll

    def unroll(x: Tensor, state: Any, is_first: Tensor) -> Any:
        copies = change(x.detach().repeat(1, count, 1))
        y, _ = plain(copies, memory.initial_state(count), is_first.repeat(1, count))
        return y, state

    memory.unroll = unroll  # type: ignore[method-assign]
    try:
        yield
    finally:
        del memory.unroll


def wanted_of(outputs: dict[str, Any], action: Tensor) -> dict[str, Wanted]:
    """What can be looked at of an agent, by name: `outputs` is what its heads say at any row, `action` the raw actions
    taken, [T, 1, …]."""
    policy = outputs["policy"]
    found: dict[str, Wanted] = {}
    if isinstance(policy, EpsilonGreedy):
        found["value of the action taken"] = lambda said: _at(said["policy"].values, action)
    elif isinstance(policy, Categorical):
        found["the action taken"] = lambda said: log_odds(said["policy"].log_probs, action)
    else:
        found["the action taken"] = lambda said: _log_prob(said["policy"], action)
    if isinstance(outputs.get("value"), Tensor):
        found["value"] = lambda said: said["value"]
    return found


def _at(values: Tensor, action: Tensor) -> Tensor:
    """Of values [T, B, n], those of the actions [≥ T, 1]."""
    return values.gather(-1, action[: len(values)].expand(values.shape[:2]).unsqueeze(-1)).squeeze(-1)


def log_odds(log_probs: Tensor, action: Tensor) -> Tensor:
    """log p / (1 − p) of the actions [≥ T, 1], given log_probs [T, B, n]: its slope does not vanish as p nears 1."""
    index = action[: len(log_probs)].expand(log_probs.shape[:2]).unsqueeze(-1)
    others = log_probs.scatter(-1, index, torch.finfo(log_probs.dtype).min).logsumexp(-1)
    return log_probs.gather(-1, index).squeeze(-1) - others


def _log_prob(policy: Any, action: Tensor) -> Tensor:
    like = policy.mode()
    return policy.log_prob(action[: len(like)].expand(like.shape))
