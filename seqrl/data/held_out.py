"""What of a log is held out: what says something of another stays with it, or the other would give it away."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from seqrl.data.dialogues import Dialogue

TOGETHER = ("dialogue", "pair")
"""Keys of `meta` by which imported dialogues belong together: one seen from both sides, a pair of answers."""
LARGEST_GROUP = 8
"""Of one conversation there is a dialogue for each who took part, or for each way in which it went on."""


def together(dialogue: Dialogue) -> str | None:
    """What a dialogue has in common with those that it belongs together with; None where it stands alone."""
    return next((str(dialogue.meta[key]) for key in TOGETHER if key in dialogue.meta), None)


def groups_of(dialogues: Sequence[Dialogue]) -> list[int]:
    """The number of each one's group, counted from 0 in their order: those that belong together have the same.

    What more than `LARGEST_GROUP` dialogues have in common is something else, such as a channel: these stand alone.
    """
    common = [together(dialogue) for dialogue in dialogues]
    counts, numbers = Counter(common), dict[Hashable, int]()
    keys = [k if key is None or counts[key] > LARGEST_GROUP else key for k, key in enumerate(common)]
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def parted(
    keys: Sequence[Hashable], share: float, permutation: Callable[[int], Sequence[int] | np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the entries that are learnt from, and of those held out, in their order.

    Held out are all entries of a `share` of the keys (at least one key, and not all), the first ones of a
    `permutation` of so many. Where all have the same key, each stands alone.
    """
    names = list(dict.fromkeys(keys))
    if len(names) == 1:
        names = keys = list(range(len(keys)))
    count = min(max(1, round(share * len(names))), len(names) - 1)
    drawn = {names[k] for k in permutation(len(names))[:count]}
    is_held_out = np.array([key in drawn for key in keys])
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
