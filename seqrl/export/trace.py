"""A step of an agent as a graph of PyTorch's operations."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from seqrl.export.step import ExportedStep


def trace(step: ExportedStep) -> ExportedProgram:
    """`step` as a graph, for any number of rows. Kernels give way to the operations that they speed up."""
    rows = Dim("batch")
    shapes = {"leaves": tuple({0: rows} for _ in step.inputs)}
    # An example of three rows: of one, PyTorch would take for granted that there never are more.
    with torch.no_grad(), quietly():
        program = torch.export.export(step, step.example(3), dynamic_shapes=shapes)
        program.example_inputs = None  # a file would hold them as a pickle; PyTorch 2.9 makes guards of them that fail
        program = program.run_decompositions({torch.ops.aten.cummax.default: _cummax})
    for node in program.graph.nodes:  # where in whose folders it was written
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):
            node.meta.pop(key, None)
    return program


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what PyTorch's exporters say of themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _cummax(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`torch.cummax` of integers, which ONNX does not have, in O(n²); its second result is used nowhere."""
    n = x.shape[dim]
    seen = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
    rows = x.movedim(dim, -1).unsqueeze(-2)
    largest = torch.where(seen, rows, torch.iinfo(x.dtype).min).amax(-1).movedim(-1, dim)
    return largest, torch.zeros_like(largest)
