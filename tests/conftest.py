"""Shape annotations are enforced where tests are about what is annotated; processes begin quickly."""

import math
import multiprocessing
import os
import signal
from types import SimpleNamespace

import jaxtyping
import pytest
import torch
from jaxtyping import install_import_hook

# Before anything imports seqrl: the hook rewrites modules as they are loaded.
install_import_hook(["seqrl.objectives", "seqrl.memory"], "beartype.beartype")

from seqrl.progress import Bar  # noqa: E402

if not torch.cuda.is_available():  # PyTorch's CUDA builds bring Triton along; anything may be the first to import it
    os.environ["TRITON_INTERPRET"] = "1"

torch.set_num_threads(1)  # the tensors of tests are small, and tests run side by side
os.environ["OMP_NUM_THREADS"] = "1"  # in processes that they start, too

# A shell in the background hands down an ignored Ctrl-C, to these tests and to the commands that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

Bar.QUIET = math.inf  # what commands say on standard error is compared, however long they take here

# As "spawn", but processes are forked from one that has imported everything and done nothing: each need not import it.
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(
    ["seqrl.cli.comparison", "seqrl.cli.training", "pytest", "torch._dynamo", "torch.distributed.fsdp"]
)


ANNOTATED = {"data", "language", "memory", "nets", "objectives"}
"""Folders of tests that look at shapes. In the others, which train whole runs, looking took a fifth of the time."""


@pytest.fixture(scope="module", autouse=True)
def shapes(request):
    jaxtyping.config.update("jaxtyping_disable", request.path.parent.name not in ANNOTATED)


@pytest.fixture(scope="session")
def forked_context():
    """What takes the place of "spawn" where a test's processes are to begin at once."""
    return forked


@pytest.fixture
def forked_comparisons(monkeypatch):
    """The processes of comparisons begin at once."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: forked)


@pytest.fixture(scope="module")
def forked_actors():
    """The asynchronous engine's actors begin at once."""
    from seqrl.distributed import asynchronous

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asynchronous, "multiprocessing", SimpleNamespace(get_context=lambda kind: forked))
        yield
