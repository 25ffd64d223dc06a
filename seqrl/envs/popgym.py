"""POPGym's environments: the one file that imports popgym.

Source: Morad et al., 2023, "POPGym: Benchmarking Partially Observable Reinforcement Learning" (arXiv 2303.01859).
"""

import traceback
from importlib.util import find_spec

from seqrl.errors import UserError

_LABYRINTHS = "pip install 'popgym[navigation]' cython"
"""Their maze generator is in none of our extras: it is compiled when it is installed, and not for every Python."""


def register(env_id: str) -> None:
    """Register POPGym's environments with Gymnasium, `env_id` among them. Raises UserError where it is missing."""
    try:
        import popgym  # noqa: F401  (its import registers them)
    except ImportError as error:
        # popgym imports its labyrinths, and with them mazelib, wherever that is found.
        if any("mazelib" in f"{frame.filename} {frame.line}" for frame in traceback.extract_tb(error.__traceback__)):
            raise UserError(
                f"'{env_id}' needs popgym, which cannot import mazelib ({error}): {_LABYRINTHS}, or uninstall mazelib"
            ) from error
        raise UserError(f"'{env_id}' needs popgym ({error}): pip install 'seqrl[popgym]'") from error
    # popgym leaves its labyrinths out when their maze generator is missing.
    if "labyrinth" in env_id.lower() and find_spec("mazelib") is None:
        raise UserError(f"'{env_id}' needs mazelib: {_LABYRINTHS}")
