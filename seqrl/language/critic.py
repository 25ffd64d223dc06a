"""What whole utterances are worth: a critic that reads a dialogue turn by turn, and its targets."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqrl.language.utterances import Segments, exchanges
from seqrl.memory.make import make_memory
from seqrl.text import Tokenizer


class SegmentEncoder(nn.Module):
    """Texts as vectors: e = the last output of a memory that reads embedded tokens."""

    def __init__(self, vocabulary_size: int, memory: str, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, size)
        self.memory = make_memory(memory, size, size)

    def forward(self, segments: Int[Tensor, "L U"], length: Int[Tensor, "U"]) -> Float[Tensor, "U H"]:
        is_first = torch.zeros_like(segments, dtype=torch.bool)
        is_first[0] = True
        y, _ = self.memory.unroll(self.embedding(segments), self.memory.initial_state(segments.shape[1]), is_first)
        return y[length - 1, torch.arange(len(length), device=length.device)]


class UtteranceNetwork(nn.Module):
    """Two Q of an utterance in a dialogue, and V of the dialogue before it.

        e(x)  a text x as a vector                                          (`SegmentEncoder`)
        h_k   a memory over turns reads (e(heard_k), e(said_{k−1}))
        Q_i   a network of (h_k, e(said), f)          V   a network of h_k

    where f are features of the frozen language model after the utterance, centred and scaled by row; of size 0 they are
    left out. An utterance is encoded once, whatever dialogues it stands in: that is what makes many proposals cheap.
    """

    def __init__(self, vocabulary_size: int, memory: str, size: int, feature_size: int) -> None:
        super().__init__()
        self.feature_size = feature_size
        self.encoder = SegmentEncoder(vocabulary_size, memory, size)
        self.turns = make_memory(memory, 2 * size, size)
        self.norm = nn.LayerNorm(feature_size, elementwise_affine=False) if feature_size else nn.Identity()
        self.q = nn.ModuleList(_head(2 * size + feature_size, size) for _ in range(2))
        self.v = _head(size, size)

    def histories(self, heard: Float[Tensor, "K B H"], said: Float[Tensor, "K B H"]) -> Float[Tensor, "K B H"]:
        """h of every turn, from a dialogue's beginning."""
        before = torch.cat([torch.zeros_like(said[:1]), said[:-1]])
        is_first = torch.zeros(heard.shape[:2], dtype=torch.bool, device=heard.device)
        is_first[0] = True
        h, _ = self.turns.unroll(torch.cat([heard, before], -1), self.turns.initial_state(heard.shape[1]), is_first)
        return h

    def action_values(
        self, h: Float[Tensor, "*shape H"], said: Float[Tensor, "*shape H"], features: Float[Tensor, "*shape F"]
    ) -> tuple[Tensor, Tensor]:
        """Both Q, in the scale of `UtteranceCritic`."""
        x = torch.cat([h, said, *([self.norm(features)] if self.feature_size else [])], -1)
        first, second = (q(x)[..., 0] for q in self.q)
        return first, second


class UtteranceCritic(nn.Module):
    """Two Q and V of whole utterances, and a copy that follows them and is what speaks.

        Q_i(s, u) = μ + σ q_i(s, u),   V(s) = μ + σ v(s)

    μ and σ are what the log's returns are centred and scaled by (`describe`): rewards of any size are learnt alike. The
    target network is a copy of all weights, which follows by Polyak averaging (`follow`).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, vocabulary_size: int, memory: str, size: int, feature_size: int) -> None:
        super().__init__()
        self.network = UtteranceNetwork(vocabulary_size, memory, size, feature_size)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def describe(self, returns: Float[Tensor, "M"]) -> None:
        """Centre and scale by the log's returns-to-go."""
        self.mean.copy_(returns.mean())
        self.scale.copy_(returns.std(correction=0).clamp(min=1e-3))

    @torch.no_grad()
    def follow(self, rate: float) -> None:
        """The target's weights move by `rate` of the way to those that learn."""
        for target, weight in zip(self.target.parameters(), self.network.parameters(), strict=True):
            target.lerp_(weight, rate)

    @torch.no_grad()
    def appraise(
        self,
        conversations: Sequence[Sequence[int]],
        said: Sequence[Sequence[Sequence[int]]],
        features: Float[Tensor, "B P F"],
    ) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B"]]:
        """min_i Q̄_i of P utterances for each of B conversations, and V̄ before them.

        A conversation is its tokens, the last of them <agent>; an utterance ends with <end of utterance>, unless it was
        cut.
        """
        table = Segments()
        known = [exchanges(ids) for ids in conversations]
        size = max(len(turns) for turns in known)
        heard = torch.tensor(
            [[table.number(turn.heard) for turn in turns] + [0] * (size - len(turns)) for turns in known]
        )
        spoken = torch.tensor(
            [
                [table.number(turn.said or (Tokenizer.pad_id,)) for turn in turns] + [0] * (size - len(turns))
                for turns in known
            ]
        )
        proposed = torch.tensor([[table.number(tuple(ids) or (Tokenizer.pad_id,)) for ids in each] for each in said])
        device = self.mean.device
        segments, length = (leaf.to(device) for leaf in table.tensors())
        network = self.target
        e = network.encoder(segments, length)
        last = torch.tensor([len(turns) - 1 for turns in known])
        h = network.histories(e[heard.T], e[spoken.T])[last, torch.arange(len(known))]
        both = network.action_values(h[:, None].expand(-1, proposed.shape[1], -1), e[proposed], features)
        return self.mean + self.scale * torch.minimum(*both), self.mean + self.scale * network.v(h)[..., 0]


def _head(input_size: int, size: int) -> nn.Sequential:
    last = nn.Linear(2 * size, 1)
    nn.init.orthogonal_(last.weight, 0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Linear(input_size, 2 * size), nn.ReLU(), nn.Linear(2 * size, 2 * size), nn.ReLU(), last
    )  # fmt: skip
