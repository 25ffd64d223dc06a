"""What goes wrong inside an environment, in one line: where in its own code, or what of its observation misfits."""

import contextlib
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy
import torch
from gymnasium import Space, spaces
from gymnasium.vector import AsyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState

from seqrl.errors import UserError

_SEQRL = Path(__file__).parents[1]
_GYMNASIUM, _NUMPY, _TORCH = (Path(str(module.__file__)).parent for module in (gymnasium, numpy, torch))
_INSTALLED = (_GYMNASIUM.parent, Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib")))
_STANDARD = Path(sysconfig.get_path("stdlib"))
_RETURNS = {
    "reset": "it gives (observation, info)",
    "step": "it gives (observation, reward, terminated, truncated, info), of which the three in the middle are scalars",
}


class Place(NamedTuple):
    """A line of a traceback."""

    file: str
    line: int
    function: str


@contextlib.contextmanager
def told(env: VectorEnv, name: str, call: str) -> Iterator[None]:
    """What `env`, called `name`, raises in `call` becomes a UserError of one line, whose cause it is.

    Untouched are UserErrors, bugs in environments of ours, and what is raised while a CUDA graph is captured.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        ours = name.startswith("seqrl/") or type(env.unwrapped).__module__.startswith("seqrl.")
        if ours or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
            raise
        said = _line(env.unwrapped, name, call, error)
        _end_unread(env.unwrapped)
        raise UserError(said) from error


def raise_as_they_were(env: AsyncVectorEnv) -> None:
    """Have `env` raise what its processes raised, with the traceback there as a note.

    Gymnasium prints the traceback, and raises a new exception that it makes of the first, which not every kind bears.
    """

    def raise_if_errors(successes: Any) -> None:
        failed = [index for index, success in enumerate(successes) if not success]
        for index in failed:  # these have ended: close() would wait for their answer
            env.parent_pipes[index].close()
            env.parent_pipes[index] = None  # type: ignore[call-overload]
        if failed:
            env._state = AsyncState.DEFAULT
            try:
                _, _, error, trace = env.error_queue.get(timeout=5)
            except Exception:  # whatever reading it raises; it never comes where it could not be written
                raise RuntimeError("what it raised cannot leave its process: --vectorization sync shows it") from None
            error.add_note(trace)
            raise error

    env._raise_if_errors = raise_if_errors  # type: ignore[method-assign]


def _end_unread(env: Any) -> None:
    """End the processes of `env` where not all that they sent was read: closing would wait for it for ever."""
    if isinstance(env, AsyncVectorEnv) and not env.closed and env._state is not AsyncState.DEFAULT:
        env._state = AsyncState.DEFAULT
        env.close(terminate=True)


def _end_of_process(env: Any, error: BaseException) -> str | None:
    """How a process of `env` ended, if that is what `error` says; then the others are ended too."""
    if not isinstance(env, AsyncVectorEnv) or not isinstance(error, EOFError | ConnectionError):
        return None
    for process in env.processes:
        process.join(0.2)
    codes = [process.exitcode for process in env.processes if process.exitcode is not None]
    env._state = AsyncState.DEFAULT  # or closing would wait for an answer of those that have ended
    env.close(terminate=True)
    return f"a process of it ended with exit code {codes[0]}" if codes else None


def misfit(space: Space, value: Any, lead: tuple[int, ...] = (), path: str = "observation") -> str | None:
    """The first part of an observation that is not of its space's shape, behind `lead`, or type; None if all are."""
    if value is None:
        return f"{path} is None"
    if isinstance(space, spaces.Dict):
        if not isinstance(value, dict):
            return f"{path} is {type(value).__name__}, not dict"
        if missing := [key for key in space.spaces if key not in value]:
            return f"{path} has no '{missing[0]}'"
        parts = [(child, value[key], f"{path}.{key}") for key, child in space.items()]
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            return f"{path} is no tuple of {len(space.spaces)}"
        parts = [(child, value[k], f"{path}.{k}") for k, child in enumerate(space)]
    else:
        return _misfit_of_leaf(space, value, lead, path)
    return next((wrong for child, part, inner in parts if (wrong := misfit(child, part, lead, inner))), None)


def _misfit_of_leaf(space: Any, value: Any, lead: tuple[int, ...], path: str) -> str | None:
    try:
        leaf = value if isinstance(value, torch.Tensor) else numpy.asarray(value)
    except ValueError:
        return f"{path} is no array: its parts differ in shape"
    shape = (*lead, *space.shape)
    if leaf.shape != shape:
        return f"{path} has the shape {tuple(leaf.shape)}, not {shape}"
    if isinstance(leaf, torch.Tensor):
        is_number, is_float = not leaf.is_complex(), leaf.is_floating_point()
    else:
        is_number, is_float = leaf.dtype.kind in "biuf", leaf.dtype.kind == "f"
    # Numbers of any size will do, and whole ones for floats; a float for a whole one would be cut off.
    return None if is_number and is_float <= (space.dtype.kind == "f") else f"{path} is {leaf.dtype}, not {space.dtype}"


def check_values(name: str, num_envs: int, **values: Any) -> None:
    """Raise UserError for rewards or flags of a batch that are not one for each of its environments: [B, 1] would pass
    for [B] in sums, and be wrong."""
    for what, value in values.items():
        if (shape := numpy.shape(value)) != (num_envs,):
            raise UserError(
                f"{name} returned {what} of the shape {shape} for {num_envs} environments, not {(num_envs,)}: "
                "each gives a scalar; mend the environment"
            )


def not_in_space(who: str, wrong: str) -> UserError:
    """For what `misfit` found in what `who` returned."""
    return UserError(
        f"{who} returned what is not in its space: {wrong}; mend the environment, or the space that it names"
    )


class InItsSpace(gymnasium.Wrapper):
    """Looks at each observation where the environment runs: what a process hands over is flattened and converted, so
    that None has become NaN by then. Raises UserError for one that is not of its space's shape or type."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self._looked_at(self.env.reset(seed=seed, options=options), 2)

    def step(self, action: Any) -> Any:
        return self._looked_at(self.env.step(action), 5)

    def _looked_at(self, returned: Any, length: int) -> Any:
        is_read = isinstance(returned, tuple) and len(returned) == length  # else the vector says what is wrong
        if is_read and (wrong := misfit(self.observation_space, returned[0])):
            spec = self.unwrapped.spec
            raise not_in_space(type(self.unwrapped).__name__ if spec is None else spec.id, wrong)
        return returned


def _line(env: Any, name: str, call: str, error: BaseException) -> str:
    reason = _end_of_process(env, error) or " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    places = _places(error)
    rank = max((_rank(place) for place in places), default=0)
    own = [place for place in places if rank and _rank(place) == rank]
    if not own:
        # A SyncVectorEnv puts observations together when it has all: what is still None then was returned as such.
        has_all = any(Path(place.file).name == "space_utils.py" for place in places)
        for row, value in enumerate(getattr(env, "_env_obs", ())):
            if (has_all or value is not None) and (wrong := misfit(env.single_observation_space, value)):
                return str(not_in_space(f"environment {row} of {name}", wrong))
        if any(Path(place.file).name == "shared_memory.py" for place in places):  # an AsyncVectorEnv likewise
            return str(not_in_space(name, f"{reason}, for {env.single_observation_space}"))
        if any(place.function == "_add_info" for place in places):  # of Gymnasium's vectors
            return f"{name} returned an info that is no dict: mend the environment"
    if not own and places and _is_under(places[-1], _GYMNASIUM / "vector"):  # it could not read what it was given
        return f"{name} returned from {call} what cannot be read ({reason}): {_RETURNS[call]}; mend the environment"
    # A vector steps some of its environments while it resets others: the environment's own function tells.
    inside = [place for place in places if not _is_under(place, _SEQRL, _GYMNASIUM / "vector")]
    call = next((place.function for place in (*own, *inside) if place.function in ("reset", "step")), call)
    where = f", {Path(own[-1].file).name}:{own[-1].line}" if own else ""
    return f"{name} failed in {call} ({reason}{where}): mend the environment"


def _places(error: BaseException) -> list[Place]:
    """From the outermost call inwards; of what a process raised, there."""
    notes = "\n".join(getattr(error, "__notes__", ()))
    found = re.findall(r'^ *File "(.+)", line (\d+), in (.+)$', notes, re.MULTILINE)
    if found:
        return [Place(file, int(line), function) for file, line, function in found]
    frames = traceback.extract_tb(error.__traceback__)
    return [Place(frame.filename, frame.lineno or 0, frame.name) for frame in frames]


def _rank(place: Place) -> int:
    """2 for code that lies anywhere, 1 for an installed package's, 0 for what all environments stand on."""
    if place.file.startswith(("<frozen", "<__")) or _is_under(place, _SEQRL, _NUMPY, _TORCH):
        return 0
    if _is_under(place, _GYMNASIUM):
        return int(_is_under(place, _GYMNASIUM / "envs"))
    if _is_under(place, *_INSTALLED):
        return 1
    return 0 if _is_under(place, _STANDARD) else 2


def _is_under(place: Place, *folders: Path) -> bool:
    return any(Path(place.file).is_relative_to(folder) for folder in folders)
