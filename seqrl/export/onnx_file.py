"""A graph as an ONNX file, which `seqrl.exported` runs. The only import of onnx and onnxscript."""

import contextlib
import importlib
import io
import json
from typing import Any

import torch
from torch.export import ExportedProgram

from seqrl.errors import UserError
from seqrl.export.step import Leaf
from seqrl.export.trace import quietly
from seqrl.exported import ABOUT

OPSET = 20
"""ONNX's operators of 2023: runtimes from then on read the file."""


def require_onnx() -> None:
    """Raise UserError where what writes and reads ONNX files is not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError:
            raise UserError(
                f'--format onnx needs {package}: pip install "seqrl[export]", or give --format torch'
            ) from None


def to_onnx(program: ExportedProgram, inputs: list[Leaf], outputs: list[Leaf]) -> Any:
    """The ONNX model of a graph, its inputs and outputs by name, with any number of rows ("batch")."""
    require_onnx()
    with quietly(), contextlib.redirect_stdout(io.StringIO()):
        exported = torch.onnx.export(
            program,
            input_names=[leaf.name for leaf in inputs],
            output_names=[leaf.name for leaf in outputs],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    (batch,) = {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input}
    _forget_origin(model.graph)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == batch:
                dim.dim_param = "batch"
    return model


def _forget_origin(graph: Any) -> None:
    """Remove what tells where in PyTorch, and in whose folders, each node came from."""
    graph.ClearField("metadata_props")
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _forget_origin(attribute.g)


def to_bytes(model: Any, about: dict[str, Any]) -> bytes:
    """The contents of an ONNX file, with `about` in its metadata."""
    import onnx

    onnx.helper.set_model_props(model, {ABOUT: json.dumps(about)})
    model.producer_name, model.producer_version = "seqrl", about["versions"]["seqrl"]
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
