"""How seqrl says that it was given something it cannot work with."""

import difflib
import shlex
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and the way out. The command line exits with 2."""


def quoted(path: object) -> str:
    """A path as it stands in a command that is to be copied."""
    return shlex.quote(str(path))


def nearest(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the nearest known one, or all of them when none is near."""
    known = sorted(known)
    close = [each for each in known if each.lower() == name.lower()][:1] or difflib.get_close_matches(
        name, known, n=1, cutoff=0.5
    )
    if not close and len(name) > 2:  # a part of one, such as the end of recurrent_sac
        close = sorted((each for each in known if name in each), key=len)[:1]
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def not_these_keys(keys: Iterable[str]) -> UserError:
    """For an observation of `act` that is no dict with `keys`; where one is the action mask's, whence it comes."""
    told = list(keys)
    way_out = ": beside what is seen, give what info['action_mask'] or action_masks() allows"
    masked = way_out if "action_mask" in told else ""
    return UserError(f"act: the observation is not a dict with the keys {told}{masked}")
