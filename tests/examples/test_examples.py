"""Every example runs from beginning to end, with settings that take seconds; what it teaches is not learnt in them."""

import ast
import importlib.util
import math
from pathlib import Path

import gymnasium as gym
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("[0-9]*.py"))
SMALL = {
    "01_masked_cartpole": {"steps": 4_096},
    "02_your_own_environment": {"steps": 4_096},
    "03_mujoco_positions": {"steps": 2_048},
    "04_leduc_poker": {"steps": 16_384},
    "05_flickering_atari": {"steps": 1_760, "num_envs": 2},  # one update
    "06_decision_transformer": {"steps": 4, "episodes": 10},
    "07_bandits_in_context": {"steps": 2_816, "num_envs": 64, "trials": 20},
    "08_wordle_ilql": {"steps": 4, "games": 40, "played": 4},
    "09_negotiation_chai": {"steps": 2, "dialogues": 24, "played": 2},
    "10_rlhf": {"steps": 1, "dialogues": 20, "labels": 8, "conversations": 4},
}
NEEDED = {"03_mujoco_positions": "mujoco", "05_flickering_atari": "ale_py"}


# Atari's environments alone take ten seconds to make and to play; tests/envs has them with every change.
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * ("atari" in n)) for n in NAMES])
def test_it_runs(name, tmp_path, capsys, monkeypatch):
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    monkeypatch.setitem(gym.registry, "Lock-v0", None)  # what an example registers is gone again
    monkeypatch.delitem(gym.registry, "Lock-v0")
    specification = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    found = module.main(**SMALL[name], run_dir=str(tmp_path / "run"))
    figures = found.values() if isinstance(found, dict) else found if isinstance(found, list) else [found]
    assert list(figures)
    assert all(math.isfinite(figure) for figure in figures if isinstance(figure, float | int))
    out, err = capsys.readouterr()
    assert out.strip()
    assert "rror" not in err


@pytest.mark.parametrize("name", NAMES)
def test_it_is_short_and_is_in_the_list(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 60
    assert ast.get_docstring(ast.parse(text))
    assert f"]({name}.py)" in (EXAMPLES / "README.md").read_text()
    assert name in SMALL
