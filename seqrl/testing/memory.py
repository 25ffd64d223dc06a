"""A proof of the four laws of memory, for any memory."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from seqrl.memory.base import Memory, State
from seqrl.testing.comparison import gradients, require_equal
from seqrl.trajectory import Tree, tree_cat, tree_flatten, tree_leaves, tree_map


def check_memory(
    memory: Memory,
    *,
    num_steps: int = 12,
    batch_size: int = 3,
    seed: int = 0,
    tolerance: float | None = None,
    quick: bool = False,
) -> None:
    """Prove, on random inputs, that a memory keeps its contract and the four laws, in values and in gradients.

    *State*: a tree of tensors, batch first, on the device of the parameters, whose shapes and types never change;
    `unroll` gives the same result twice and writes into none of its arguments.
    *Causality*: new values of x_{≥t} leave y_{<t} as it was, and no gradient flows from y_{<t} to x_{≥t}.
    *Independence*: each batch row equals that row alone, and so do its gradients.
    *Reset*: from each `is_first` on, outputs equal those of a fresh start, whatever numbers the state held; no
    gradient flows to what came before.
    *Chunking*: two chunks, cut anywhere, and T chunks of one step equal the whole, in outputs, states and gradients.

    Each law is tried under resets that come never, at the start, periodically, at random, in a row and at every step,
    from a state with a history. The proof runs on a copy in evaluation mode, in float64 if the memory can, else in the
    type of its parameters: the memory itself, its gradients and the global random state stay as they were.

    `tolerance` is relative to one plus the largest entry: 1e-8 in float64 and 1e-4 otherwise, if not given. A `quick`
    proof is of values alone, under periodic resets alone and in the type of the parameters.
    Raises AssertionError, with the law, the indices and the two values, at the first difference.
    """
    devices = {p.device for p in memory.parameters()}
    # cuDNN refuses to differentiate its recurrent networks in evaluation mode.
    with (
        torch.random.fork_rng(devices=[d for d in devices if d.type == "cuda"]),
        torch.backends.cudnn.flags(enabled=False),
        torch.set_grad_enabled(not quick),
    ):
        bench = _Bench.build(memory, num_steps, batch_size, seed, tolerance, quick)
        _check_state(bench)
        # In this order, so that a memory that breaks one law is not accused of breaking another.
        for law in (_check_causality, _check_independence, _check_reset, _check_chunking):
            for resets, is_first in _reset_patterns(bench):
                law(bench, is_first.to(bench.x.device), f" with resets {resets}")


@dataclass
class _Bench:
    """The copy under test, what it is fed, and the weights that make a number of what it returns."""

    memory: Memory
    generator: torch.Generator
    x: Tensor
    state: State
    y_weight: Tensor
    tolerance: float
    quick: bool

    @classmethod
    def build(
        cls, memory: Memory, num_steps: int, batch_size: int, seed: int, tolerance: float | None, quick: bool
    ) -> "_Bench":
        generator = torch.Generator().manual_seed(seed)
        for name in ("input_size", "output_size"):
            size = getattr(memory, name, None)
            assert isinstance(size, int), f"state: {name} of {type(memory).__name__} is {size}, but not a whole number"
        like = next(memory.parameters(), torch.zeros(()))
        x = _normal(like.new_empty(num_steps, batch_size, memory.input_size, dtype=torch.float64), generator)
        is_first = torch.zeros(num_steps, batch_size, dtype=torch.bool, device=x.device)
        is_first[num_steps // 2, 0] = True  # so that the histories differ in length

        def unroll_history(model: Memory, dtype: torch.dtype) -> tuple[Tensor, State]:
            with torch.no_grad():
                return model.unroll(x.to(dtype), model.initial_state(batch_size), is_first)

        model, dtype = copy.deepcopy(memory).eval(), like.dtype
        try:
            if not quick:
                model, dtype = model.double(), torch.float64
            y, state = unroll_history(model, dtype)
        except (RuntimeError, TypeError):
            model, dtype = copy.deepcopy(memory).eval(), like.dtype
            y, state = unroll_history(model, dtype)
        return cls(
            memory=model,
            generator=generator,
            x=_normal(x, generator).to(dtype).requires_grad_(),
            state=tree_map(lambda leaf: leaf.clone().requires_grad_(leaf.is_floating_point()), state),
            y_weight=_normal(y, generator),
            tolerance=tolerance or (1e-8 if y.dtype == torch.float64 else 1e-4),
            quick=quick,
        )

    def unroll(self, x: Tensor, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        return self.memory.unroll(x, state, is_first)

    def loss(self, y: Tensor, rows: slice | Tensor = slice(None), start: int = 0, stop: int | None = None) -> Tensor:
        """A weighted sum of y[start:stop, rows], where `y` holds the steps start … stop − 1 of all batch rows."""
        return (self.y_weight[start:stop] * y)[:, rows].sum()

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """The gradient by x, by each leaf of the starting state and by each parameter; none of a quick proof."""
        if self.quick:
            return {}
        inputs = {"x": self.x}
        inputs |= {f"state{'.' + k if k else ''}": leaf for k, leaf in tree_flatten(self.state).items()}
        inputs |= dict(self.memory.named_parameters())
        return gradients(loss, inputs)

    def equal(self, law: str, name: str, actual: Tensor, expected: Tensor, why: str) -> None:
        require_equal(law, name, actual, expected, self.tolerance, why)

    def equal_trees(self, law: str, name: str, actual: Tree, expected: Tree, why: str) -> None:
        found = tree_flatten(actual)
        for path, leaf in tree_flatten(expected).items():
            self.equal(law, f"{name} {path}" if path else name, found[path], leaf, why)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """A normal draw, shaped as `like`: zero where numbers have no fractions."""
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return (drawn if like.is_floating_point() else torch.zeros_like(drawn)).to(like)


def _reset_patterns(bench: _Bench) -> Iterator[tuple[str, Tensor]]:
    T, B = bench.x.shape[:2]
    t, b = torch.arange(T)[:, None], torch.arange(B)
    if bench.quick:
        yield "every 4 steps", (t + b) % 4 == 0
        return
    yield "never", torch.zeros(T, B).bool()
    yield "at t = 0", (t == 0).expand(T, B)
    yield "every 4 steps", (t + b) % 4 == 0
    yield "at random", torch.rand(T, B, generator=bench.generator) < 0.3
    yield "in a row", ((t >= 3) & (t <= 5)).expand(T, B)
    yield "at every step", torch.ones(T, B).bool()


def _check_state(bench: _Bench) -> None:
    memory, x = bench.memory, bench.x
    T, B = x.shape[:2]
    fresh = memory.initial_state(B)
    is_first = torch.zeros(T, B, dtype=torch.bool, device=x.device)
    for path, leaf in tree_flatten(fresh).items():
        name = f"initial_state{path and ' ' + path}"
        assert isinstance(leaf, Tensor), f"state: {name} is a {type(leaf).__name__}, but not a tensor"
        assert leaf.shape[:1] == (B,), f"state: {name} is {list(leaf.shape)}, but not [{B}, ...]"
        assert leaf.device == x.device, f"state: {name} is on {leaf.device}, but parameters on {x.device}"
    for name, state in {
        "initial_state of one row": tree_map(lambda leaf: leaf.expand(B, *leaf.shape[1:]), memory.initial_state(1)),
        "the state after one step": memory.unroll(x[:1], fresh, is_first[:1])[1],
        f"the state after {T} steps": memory.unroll(x, fresh, is_first)[1],
    }.items():
        found, expected = _shapes(state), _shapes(fresh)
        assert found == expected, f"state: {name} is {found}, but initial_state is {expected}"

    before = tree_map(torch.clone, (x, bench.state, is_first))
    y, state = memory.unroll(x, bench.state, is_first)
    shape = [T, B, memory.output_size]
    assert list(y.shape) == shape, (
        f"state: y is {list(y.shape)}, but not [num_steps, batch_size, output_size] = {shape}"
    )
    bench.equal_trees("state", "an argument of unroll", (x, bench.state, is_first), before, "before the call")
    again, state_again = memory.unroll(x, bench.state, is_first)
    bench.equal("state", "y", again, y, "from the same call before: what it remembers must be in the state")
    bench.equal_trees("state", "the state", state_again, state, "from the same call before")


def _shapes(state: State) -> dict[str, tuple[list[int], torch.dtype]]:
    return {path: (list(leaf.shape), leaf.dtype) for path, leaf in tree_flatten(state).items()}


def _check_causality(bench: _Bench, is_first: Tensor, resets: str) -> None:
    T = len(bench.x)
    y, _ = bench.unroll(bench.x, bench.state, is_first)
    for t in range(1, T):
        other_x = torch.cat([bench.x[:t], -bench.x[t:] + 1])
        other_y, _ = bench.unroll(other_x, bench.state, torch.cat([is_first[:t], ~is_first[t:]]))
        bench.equal("causality", "y", other_y[:t], y[:t], f"before x and is_first changed from t = {t} on{resets}")
        gradient = bench.gradients(bench.loss(y[:t], stop=t)).get("x")
        if gradient is not None:
            expected = torch.cat([gradient[:t], torch.zeros_like(gradient[t:])])
            bench.equal("causality", f"dy[:{t}]/dx", gradient, expected, f"is all that the past can have{resets}")


def _check_independence(bench: _Bench, is_first: Tensor, resets: str) -> None:
    y, state = bench.unroll(bench.x, bench.state, is_first)
    for b in range(y.shape[1]):
        row = slice(b, b + 1)
        start = tree_map(lambda s, row=row: s[row], bench.state)
        alone, alone_state = bench.unroll(bench.x[:, row], start, is_first[:, row])
        why = f"when row {b} is alone{resets}"
        bench.equal("independence", "y", y, torch.cat([y[:, :b], alone, y[:, b + 1 :]], 1), why)
        together = tree_map(lambda s, a, b=b: torch.cat([s[:b], a, s[b + 1 :]]), state, alone_state)
        bench.equal_trees("independence", "the state", state, together, why)
        expected = bench.gradients((bench.y_weight[:, row] * alone).sum())
        for name, gradient in bench.gradients(bench.loss(y, row)).items():
            bench.equal("independence", f"dy[:, {b}]/d{name}", gradient, expected[name], why)


def _check_reset(bench: _Bench, is_first: Tensor, resets: str) -> None:
    B = is_first.shape[1]
    noise = tree_map(lambda s: s + 10 * _normal(s, bench.generator) if s.is_floating_point() else s, bench.state)
    y, _ = bench.unroll(bench.x, bench.state, is_first)
    for t in is_first.any(1).nonzero().flatten().tolist():
        rows = is_first[t]
        fresh, _ = bench.unroll(bench.x[t:], bench.memory.initial_state(B), is_first[t:] & (is_first[t:].cumsum(0) > 1))
        why = f"after a fresh start at t = {t}{resets}"
        expected_y = torch.cat([y[:t], torch.where(rows[:, None], fresh, y[t:])])
        bench.equal("reset", "y", y, expected_y, why)
        if t == 0:
            noisy, _ = bench.unroll(bench.x, noise, is_first)
            bench.equal("reset", "y", torch.where(rows[:, None], noisy, y), y, f"with noise in the state{resets}")
        expected = bench.gradients(bench.loss(fresh, rows, t))
        for name, gradient in bench.gradients(bench.loss(y[t:], rows, t)).items():
            bench.equal("reset", f"dy[{t}:]/d{name}", gradient, expected[name], why)


def _check_chunking(bench: _Bench, is_first: Tensor, resets: str) -> None:
    T = len(bench.x)
    y, state = bench.unroll(bench.x, bench.state, is_first)
    weights = tree_map(lambda leaf: _normal(leaf, bench.generator), state)

    def loss(y: Tensor, state: State) -> Tensor:
        products = tree_map(lambda w, s: (w * s).sum() if s.requires_grad else 0.0, weights, state)
        return bench.loss(y) + sum(tree_leaves(products))

    expected = bench.gradients(loss(y, state))
    for sizes in [[t, T - t] for t in range(1, T)] + [[1] * T]:
        outputs, chunk_state = [], bench.state
        for x, first in zip(bench.x.split(sizes), is_first.split(sizes), strict=True):
            y_chunk, chunk_state = bench.unroll(x, chunk_state, first)
            outputs.append(y_chunk)
        chunked = tree_cat(outputs)
        why = f"in one unroll (chunks {sizes}{resets})"
        bench.equal("chunking", "y", chunked, y, why)
        bench.equal_trees("chunking", "the state", chunk_state, state, why)
        for name, gradient in bench.gradients(loss(chunked, chunk_state)).items():
            bench.equal("chunking", f"dy/d{name}", gradient, expected[name], why)
