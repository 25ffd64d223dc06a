"""A word to who trains with a memory of her own that breaks the laws."""

import sys

from torch import nn

from seqrl.memory.base import Memory
from seqrl.testing.memory import check_memory

MOST_IN_FULL = 1_000_000
"""Parameters up to which a memory is tried in gradients too. On one core that takes 0.2 s with the 25,000 of a GRU of
64, 3 s with as many, and up to a minute with ten times as many."""
MOST_TRIED = 20_000_000
"""Parameters up to which it is tried at all, in values alone, which takes a second with half of them."""


def warn_of_broken_laws(model: nn.Module) -> None:
    """Print a line where a memory in `model` that is none of seqrl's breaks a law, as a few rows tell.

    Nothing of the model or of the global random state changes.
    """
    memory = next((m for m in model.modules() if isinstance(m, Memory) and not _is_ours(type(m))), None)
    if memory is None:
        return
    num_parameters = sum(parameter.numel() for parameter in memory.parameters())
    if num_parameters > MOST_TRIED:
        return
    name = f"'{type(memory).__module__}:{type(memory).__qualname__}'"
    try:
        check_memory(memory, num_steps=4, batch_size=2, quick=num_parameters > MOST_IN_FULL)
    except AssertionError as error:
        broken = str(error).partition("\n")[0]
        print(
            f"seqrl: memory {name} breaks a law of memory, so what it remembers in training is not what it remembers "
            f"when it acts: {broken} (seqrl.testing.check_memory(...) shows it)",
            file=sys.stderr,
        )
    except Exception as error:  # whatever the memory raises at what training does not ask of it
        what = " ".join(f"{type(error).__name__}: {error}".split())
        print(
            f"seqrl: whether memory {name} keeps the laws of memory is not known ({what}): "
            "seqrl.testing.check_memory(...) shows it",
            file=sys.stderr,
        )


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "seqrl"
