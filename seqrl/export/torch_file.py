"""A graph as the file of `torch.export.save`, which `seqrl.exported_torch` reads."""

import io
import json
from typing import Any

import torch
from torch.export import ExportedProgram

from seqrl.export.trace import quietly
from seqrl.exported_torch import ABOUT


def to_torch(program: ExportedProgram, about: dict[str, Any]) -> bytes:
    """The contents of a .pt2 file. It holds no pickle: weights are raw bytes, the graph is JSON."""
    buffer = io.BytesIO()
    with quietly():
        torch.export.save(program, buffer, extra_files={ABOUT: json.dumps(about)})
    return buffer.getvalue()
