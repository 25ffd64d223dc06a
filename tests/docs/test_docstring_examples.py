"""Examples in docstrings, which the API's pages show, run: from training over a file to acting from it, and trials."""

import ast
import doctest
import functools
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from page_blocks import ROOT

import seqrl
import seqrl.export
import seqrl.exported
from seqrl.envs import registration, trial_wrapper

STORY = (seqrl, seqrl.export, seqrl.exported)
"""Modules whose docstrings begin with code: each goes on where the one before has ended."""


def example(docstring: str) -> str:
    """The indented lines of a docstring."""
    return textwrap.dedent("\n".join(line for line in docstring.splitlines() if line.startswith("    ") or not line))


def docstrings() -> Iterator[tuple[str, str]]:
    """Of each module, class and function: the module, and the docstring."""
    for path in sorted((ROOT / "seqrl").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (found := ast.get_docstring(node)):
                yield ".".join(part for part in parts if part != "__init__"), found


# Golden: an import in the indented lines of another docstring, or `>>>` in one.
def test_no_example_is_left_out() -> None:
    coded = {module for module, found in docstrings() if re.search(r"^    +(import|from) [\w.]+", found, re.MULTILINE)}
    prompted = {module for module, found in docstrings() if ">>>" in found}
    assert coded == {module.__name__ for module in STORY}
    assert prompted == {trial_wrapper.__name__, registration.__name__}


# Golden: `exported.about["paritie"]` in the docstring of seqrl.export.
def test_docstrings_run_as_one_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train, tiny = seqrl.train, {"num_steps": 32, "num_envs": 4, "rollout_length": 8, "hidden_size": 8}
    monkeypatch.setattr(seqrl, "train", lambda config: train(type(config)(**vars(config) | tiny)))
    monkeypatch.setattr(seqrl.export, "export_run", functools.partial(seqrl.export.export_run, num_steps=50))
    namespace = {"observation": np.zeros(3, np.float32)}
    for module in STORY:
        exec(compile(example(module.__doc__ or ""), module.__name__, "exec"), namespace)
    assert namespace["action"] in range(4)


def test_what_stands_behind_prompts_runs() -> None:
    registered = dict(gym.registry)
    found = doctest.DocTestFinder().find(trial_wrapper.Trials, globs={"gym": gym, "Trials": trial_wrapper.Trials})
    found += doctest.DocTestFinder().find(registration.register)
    results = [doctest.DocTestRunner().run(each) for each in found]
    assert sum(each.attempted for each in results) == 3 + 5
    assert sum(each.failed for each in results) == 0
    gym.registry.clear()
    gym.registry.update(registered)
