"""MuJoCo's robots that come with Gymnasium: the one file that imports mujoco."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from gymnasium.envs.registration import EnvSpec


@contextlib.contextmanager
def without_advice_on_models(spec: EnvSpec | None, kwargs: dict[str, Any]) -> Iterator[None]:
    """Models of Gymnasium's own are read in silence about what MuJoCo deprecates in them.

    MuJoCo 4 has a line for each environment (half_cheetah.xml: settotalmass), and writes it into MUJOCO_LOG.TXT in the
    current folder; who trains cannot mend the file. Of a model of one's own (`xml_file`), and of all else, it warns.
    """
    if spec is None or not str(spec.entry_point).startswith("gymnasium.envs.mujoco") or "xml_file" in kwargs:
        yield
        return
    try:
        import mujoco
    except ImportError:  # making the environment says so
        yield
        return

    def say(text: str) -> None:
        if "is deprecated and will be removed" not in text:
            print(f"WARNING: {text}", file=sys.stderr)
            mujoco.mju_writeLog("WARNING", text)

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(say)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
