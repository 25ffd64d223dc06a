"""Other libraries, each in an environment of its own, asked the questions that seqrl is measured by.

Each peer is a script, named like the package that it measures, which only that peer's own Python runs:

    python -m benchmarks.peers.install          # once: makes .peers/NAME from benchmarks/peers/NAME.txt
    .peers/torchrl/bin/python -P benchmarks/peers/torchrl.py recurrent --batch-size 64

`-P` keeps the script's folder off the import path, where the script would stand for its package. It prints one line of
JSON; `ask` runs it and reads that line.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent.parent / ".peers"
PEERS = tuple(sorted(path.stem for path in HERE.glob("*.txt")))


def python(peer: str) -> Path:
    """The interpreter of `peer`'s environment, whether it exists or not."""
    return ENVIRONMENTS / peer / "bin" / "python"


def ask(peer: str, *arguments: object, threads: int) -> dict[str, Any]:
    """What `peer`'s script answers to `arguments` in a process of its own, on `threads` threads.

    Raises RuntimeError, with what the script wrote last, where it is not installed or fails.
    """
    if not python(peer).exists():
        raise RuntimeError(f"{peer} is not installed: python -m benchmarks.peers.install {peer}")
    command = [python(peer), "-P", HERE / f"{peer}.py", *arguments, "--threads", threads]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{peer} failed on {arguments}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])  # TorchRL logs to the same stream
