"""Code of one's own by its name `module:Class`: found, called by its name, and what is wrong with it in one line."""

import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from seqrl.errors import UserError, nearest, quoted

_STARTED = ("__main__", "__mp_main__")
"""What Python calls the file that it was started with, and multiprocessing the same file in another process."""


def algorithm_of(config: Any) -> str:
    """The name of the algorithm that `config` is of, by its class alone: of ours the file's, such as ppo, of one's own
    `module:Class`. So a copy of one of our files has a name of its own."""
    kind = type(config)
    package, _, module = kind.__module__.rpartition(".")
    if package.partition(".")[0] == __package__:
        return module.removesuffix("_config")  # rlhf's settings stand in a file of their own
    return f"{_module_name(kind.__module__)}:{kind.__qualname__}"


def find_class(what: str, name: str, bases: tuple[type, ...], called: str) -> type:
    """The class that `name`, `module:Class`, says. `what` it is, a memory, and what `bases` are `called` is for errors.

    Raises UserError where the module is not there or cannot be imported, and where it has no such class.
    """
    module_name, _, kind_name = name.rpartition(":")
    if is_path(module_name):
        raise UserError(f"{what} '{name}': {no_module(module_name, name)}")
    try:
        module = _import(module_name)
    except (Exception, SystemExit) as error:  # whatever the module raises
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            missing = module_name if module_name.endswith(".py") else error.name or module_name
            raise UserError(f"{what} '{name}': {no_module(missing, name)}") from error
        raise UserError(f"{what} '{name}': {module_name} cannot be imported ({what_is(error)}): mend it") from error

    def is_one(value: object) -> bool:
        return isinstance(value, type) and issubclass(value, bases)

    kind = getattr(module, kind_name, None)
    if kind is None:
        known = [key for key, value in vars(module).items() if is_one(value) and value not in bases]
        way_out = nearest(kind_name, known) if known else f"it has no subclass of {called}"
        raise UserError(f"{what} '{name}': {module_name} has no '{kind_name}': {way_out}")
    if not is_one(kind):
        raise UserError(f"{what} '{name}' is no subclass of {called}: extend that (docs/your_own.md)")
    return kind


def is_there(module: str) -> bool:
    """Whether a module can be found. It is not imported; the packages that it is in are."""
    try:
        return importlib.util.find_spec(module) is not None
    except (Exception, SystemExit):  # there is no such package, the name is none, or whatever the package raises
        return False


def is_path(module: str) -> bool:
    """Whether what stands for a module is a path. `mine.py` may be a module too: `py` in a package `mine`."""
    return "/" in module or module.startswith(".")


def no_module(module: str, name: str) -> str:
    """What is said where the module of `name`, such as `module:Class`, is not there, or is a file."""
    folder = Path(module).parent if is_path(module) else Path()
    place = f"one in {'this folder' if folder == Path() else folder} is found with PYTHONPATH={quoted(folder)}"
    if is_path(module) or module.endswith(".py"):
        stem = Path(module.removesuffix(".py")).name.lstrip(".")
        place = f"call it {stem}:{name.rpartition(':')[2]}; {place}"
    return f"there is no module '{module}'; {place}"


def what_is(error: BaseException) -> str:
    """An error in one line, and where in the user's code it was raised."""
    others = (*(f"{Path(file).parent}{os.sep}" for file in (__file__, torch.__file__)), "<")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(others) and frame.filename != importlib.__file__
    ]
    where = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def _import(name: str) -> ModuleType:
    """The module called `name`. The file that Python was started with is not run a second time."""
    if name == _module_name("__main__"):
        return sys.modules["__main__"]
    return importlib.import_module(name)


def _module_name(name: str) -> str:
    """What a module is imported by: of the file that Python was started with, its stem."""
    if name not in _STARTED:
        return name
    module = sys.modules[name]
    spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None)
    return spec.name if spec is not None else Path(file).stem if file else name
