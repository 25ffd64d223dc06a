"""`check_language_model`: does a model speak by what it was trained as?"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from seqrl.language.model import LanguageModel
from seqrl.language.rows import decisions
from seqrl.testing.comparison import gradients, require_equal


def check_language_model(
    model: LanguageModel,
    *,
    num_tokens: int = 12,
    batch_size: int = 3,
    seed: int = 0,
    tolerance: float | None = None,
) -> None:
    """Prove, on random tokens, that a language model keeps its contract and its three laws.

    *Contract*: shapes are what `LanguageModel` says, and the same call gives the same result.
    *Causality*: other tokens from t on leave y_{<t} as it was, and the gradient of y_{<t} by each parameter.
    *Independence*: each column equals that column alone, in `forward`, its gradients, and `read`.
    *Chunking*: `read` in pieces equals `forward`, in features and in the logarithms of probabilities: all at once, one
    by one, by lengths that differ by column, columns that wait while others read; whatever stands behind the tokens
    that count, and after other conversations were read.
    *Asking*: `forward_at` equals `forward` at the rows that are asked for, in features and gradients.
    *Taking*: columns that were copied out of a context read on as those they were copied from, also after the context
    itself has read on.

    The proof runs on a copy in evaluation mode, in float64 if the model can, else in the type of its parameters.
    `tolerance` is relative to one plus the largest entry: 1e-8 in float64 and 1e-4 otherwise, if not given.
    Raises AssertionError, with the law, the indices and the two values, at the first difference.
    """
    devices = [device for device in {p.device for p in model.parameters()} if device.type == "cuda"]
    with torch.random.fork_rng(devices=devices), torch.backends.cudnn.flags(enabled=False), torch.enable_grad():
        bench = _Bench.build(model, num_tokens, batch_size, seed, tolerance)
        _check_contract(bench)
        # In this order, so that a model that breaks one law is not accused of breaking another.
        for law in (_check_causality, _check_independence, _check_asking, _check_chunking, _check_taking):
            law(bench)


@dataclass
class _Bench:
    """The copy under test, what it reads, what it makes of that, and the weights that make a number of it."""

    model: LanguageModel
    generator: torch.Generator
    tokens: Tensor
    y: Tensor
    y_weight: Tensor
    tolerance: float

    @classmethod
    def build(
        cls, model: LanguageModel, num_tokens: int, batch_size: int, seed: int, tolerance: float | None
    ) -> "_Bench":
        generator = torch.Generator().manual_seed(seed)
        num_tokens = min(num_tokens, model.context_length or num_tokens)
        tokens = torch.randint(model.vocabulary_size, (num_tokens, batch_size), generator=generator).to(model.device)
        try:
            tried = copy.deepcopy(model).eval().double()
            y = tried(tokens)
        except (RuntimeError, TypeError):
            tried = copy.deepcopy(model).eval()
            y = tried(tokens)
        weight = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
        return cls(tried, generator, tokens, y, weight, tolerance or (1e-8 if y.dtype == torch.float64 else 1e-4))

    def other_tokens(self) -> Tensor:
        """Tokens of which none is what `tokens` has in its place."""
        shift = torch.randint(1, self.model.vocabulary_size, self.tokens.shape, generator=self.generator)
        return (self.tokens + shift.to(self.tokens.device)) % self.model.vocabulary_size

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """The gradient by each parameter."""
        return gradients(loss, dict(self.model.named_parameters()))

    def equal(self, law: str, name: str, actual: Tensor, expected: Tensor, why: str) -> None:
        require_equal(law, name, actual, expected, self.tolerance, why)


def _check_contract(bench: _Bench) -> None:
    model, tokens = bench.model, bench.tokens
    expected = [*tokens.shape, model.output_size]
    assert list(bench.y.shape) == expected, (
        f"contract: y is {list(bench.y.shape)}, but not [T, B, output_size] = {expected}"
    )
    logits = model.logits(bench.y)
    expected = [*tokens.shape, model.vocabulary_size]
    assert list(logits.shape) == expected, (
        f"contract: logits are {list(logits.shape)}, but not [T, B, vocabulary_size] = {expected}"
    )
    bench.equal("contract", "y", model(tokens), bench.y, "from the same call before")
    count = torch.full_like(tokens[0], len(tokens))
    y, _ = model.read(tokens, count, model.start(tokens.shape[1]))
    assert y.shape == bench.y[0].shape, f"contract: read gives {list(y.shape)}, but not [B, output_size]"


def _check_causality(bench: _Bench) -> None:
    other = bench.other_tokens()
    for t in range(1, len(bench.tokens)):
        y = bench.model(torch.cat([bench.tokens[:t], other[t:]]))
        bench.equal("causality", "y", y[:t], bench.y[:t], f"before tokens changed from t = {t} on")
        expected = bench.gradients((bench.y_weight * bench.y)[:t].sum())
        for name, gradient in bench.gradients((bench.y_weight * y)[:t].sum()).items():
            bench.equal("causality", f"dy[:{t}]/d{name}", gradient, expected[name], "before later tokens changed")


def _check_independence(bench: _Bench) -> None:
    for b in range(bench.tokens.shape[1]):
        column, why = slice(b, b + 1), f"when column {b} is alone"
        alone = bench.model(bench.tokens[:, column])
        bench.equal("independence", f"y[:, {b}]", bench.y[:, column], alone, why)
        expected = bench.gradients((bench.y_weight[:, column] * alone).sum())
        for name, gradient in bench.gradients((bench.y_weight * bench.y)[:, column].sum()).items():
            bench.equal("independence", f"dy[:, {b}]/d{name}", gradient, expected[name], why)


def _check_asking(bench: _Bench) -> None:
    mask = torch.rand(bench.tokens.shape, generator=bench.generator) < 0.4
    mask[-2:] = False  # what stands behind need not be read
    chosen = decisions(mask.to(bench.tokens.device))
    weight = chosen.of(bench.y_weight) * chosen.valid[..., None]
    y, expected = (weight * each for each in (bench.model.forward_at(bench.tokens, chosen), chosen.of(bench.y)))
    bench.equal("asking", "y", y, expected, "at these rows of forward")
    gradients = bench.gradients(expected.sum())
    for name, gradient in bench.gradients(y.sum()).items():
        bench.equal("asking", f"dy/d{name}", gradient, gradients[name], "from forward")


def _schedules(bench: _Bench) -> Iterator[tuple[str, list[Tensor]]]:
    """Ways to read all tokens: how many each column reads at a time."""
    T, B = bench.tokens.shape
    columns = torch.arange(B)
    yield "all at once", [torch.full((B,), T)]
    yield "one by one", [torch.ones(B, dtype=torch.int64)] * T
    yield "in halves", [torch.full((B,), T // 2), torch.full((B,), T - T // 2)]
    yield "column after column", [torch.where(columns == b, T, 0) for b in range(B)]
    yield "one by one, in turn", [(columns == b).long() for _ in range(T) for b in range(B)]
    for number in range(3):
        left, counts = torch.full((B,), T), []
        while left.any():
            count = torch.minimum(torch.randint(4, (B,), generator=bench.generator), left)
            if count.any():
                counts.append(count)
            left = left - count
        yield f"by random lengths {number}", counts


@torch.no_grad()
def _check_chunking(bench: _Bench) -> None:
    B = bench.tokens.shape[1]
    for how, counts in _schedules(bench):
        _check_reading(bench, counts, list(range(B)), f"in forward (read {how})")
        for b in range(B):
            alone = [count[b : b + 1] for count in counts if count[b]]
            _check_reading(bench, alone, [b], f"in forward (column {b} alone, read {how})")


def _check_reading(bench: _Bench, counts: list[Tensor], columns: list[int], why: str) -> None:
    """Read by `counts`, with other tokens behind them, and compare with `forward` after each read."""
    model, tokens = bench.model, bench.tokens[:, columns]
    junk = bench.other_tokens()
    context, read = model.start(len(columns)), [0] * len(columns)
    for count in counts:
        length = int(count.max()) + 1 if len(columns) > 1 else int(count.max())
        piece = junk.repeat(2, 1)[:length, columns]
        for k, n in enumerate(count.tolist()):
            piece[:n, k] = tokens[read[k] : read[k] + n, k]
            read[k] += n
        y, context = model.read(piece, count.to(tokens.device), context)
        reads = [k for k, n in enumerate(count.tolist()) if n]
        expected = torch.stack([bench.y[read[k] - 1, columns[k]] for k in reads])
        bench.equal("chunking", "y after columns", y[reads], expected, why)
        log_prob, expected_log_prob = (model.logits(each).log_softmax(-1) for each in (y[reads], expected))
        bench.equal("chunking", "log-probabilities", log_prob, expected_log_prob, why)


@torch.no_grad()
def _check_taking(bench: _Bench) -> None:
    T, B = bench.tokens.shape
    model, device = bench.model, bench.tokens.device
    index = torch.arange(B - 1, -1, -1).repeat(2)[: B + 1]  # in another order, and some twice
    first = torch.arange(B) % (T - 1) + 1  # columns of different lengths
    _, context = model.read(bench.tokens, first.to(device), model.start(B))
    taken = model.take(context, index.to(device))
    model.read(bench.other_tokens()[:1], torch.ones_like(first).to(device), context)
    following = bench.tokens[first, torch.arange(B)][index]
    y, _ = model.read(following[None], torch.ones_like(index).to(device), taken)
    bench.equal("taking", "y", y, bench.y[first[index], index], f"in forward (columns {index.tolist()} of a context)")
