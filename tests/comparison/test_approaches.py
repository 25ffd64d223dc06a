"""What the words of a comparison mean: approaches, settings of some alone, thresholds and sweeps."""

from dataclasses import replace
from pathlib import Path

import pytest

from seqrl.algorithms import impala, ppo, r2d2
from seqrl.comparison.approaches import (
    ALIASES,
    OFFLINE,
    SHARED,
    Approach,
    overridden,
    read,
    read_overrides,
    settings_of,
    targets_of,
)
from seqrl.comparison.config import Config, check
from seqrl.comparison.horizon import Sweep, read_sweep
from seqrl.comparison.learning_curve import Threshold, read_threshold
from seqrl.comparison.offline import METHODS
from seqrl.errors import UserError
from seqrl.recipes import masked_cartpole_r2d2


def test_names() -> None:
    online, offline = read(["ppo:gru", "qdt", "r2d2:none", "bc", "best_bc"])
    assert online == [Approach("ppo", "gru"), Approach("r2d2", "none")]
    assert offline == ["qdt", "behaviour_cloning", "filtered_bc"]
    assert [approach.folder for approach in online] == ["gru", "r2d2_none"]
    assert set(OFFLINE) == set(METHODS) >= set(ALIASES.values())
    assert targets_of(online, offline[:1]) == ["ppo", "r2d2", "ppo:gru", "r2d2:none", "offline"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["ppo:gur"], "did you mean 'gru'?"),
        (["r2d3:gru"], "did you mean 'r2d2'?"),
        (["ppo"], "did you mean 'ppo:gru'?"),
        (["ppo:gru", "ppo:gru"], "names one twice"),
        (["ppo:gru", "bc", "behaviour_cloning"], "names one twice"),
        (["bc"], "names none that acts"),
    ],
)
def test_names_that_are_none(names: list[str], words: str) -> None:
    with pytest.raises(UserError, match="--approaches") as error:
        read(names)
    assert words in str(error.value)


# Break: takes `base` for all algorithms, or what is SHARED from the recipe.
def test_settings_come_from_the_recipe_and_the_problem_from_the_base() -> None:
    base = ppo.Config(env="seqrl/MaskedCartPole-v0", num_steps=7_000, hidden_size=16, seed=3, learning_rate=0.5)
    found = settings_of(Approach("r2d2", "lstm"), base)
    recipe = masked_cartpole_r2d2()
    assert isinstance(found, r2d2.Config)
    assert (found.memory, found.num_steps, found.hidden_size, found.seed) == ("lstm", 7_000, 16, 3)
    assert (found.replay_ratio, found.learning_rate) == (recipe.replay_ratio, recipe.learning_rate)
    other = settings_of(Approach("impala", "gru"), replace(base, env="CartPole-v1", hide=(1, 3)))
    shared = {name: getattr(other, name) for name in SHARED}
    assert other == impala.Config(memory="gru", **shared)
    assert other.hide == (1, 3)
    assert settings_of(Approach("ppo", "lstm"), base) == replace(base, memory="lstm")


def test_overrides() -> None:
    words = ["ppo.num_steps=5", "ppo:gru.num_steps=6", "ppo:gru.hide=[1, 2]", "offline.gamma=1", "ppo.env=seqrl/A.b-v0"]
    found = read_overrides(words, ["ppo", "ppo:gru", "offline"])
    changed = overridden(ppo.Config(), ("ppo", "ppo:gru"), found)
    assert (changed.num_steps, changed.hide, changed.gamma, changed.env) == (6, (1, 2), 0.99, "seqrl/A.b-v0")
    assert overridden(ppo.Config(), ("ppo", "ppo:lstm"), found).num_steps == 5
    for word, message in [
        ("num_steps=5", "is not APPROACH.SETTING=VALUE"),
        ("ppo.num_steps", "is not APPROACH.SETTING=VALUE"),
        ("r2d2.num_steps=5", "there is no 'r2d2' here"),
        ("ppo.num_stepz=5", "did you mean 'num_steps'?"),
        ("ppo.num_steps=many", "must be of type int"),
        ("ppo.squash=1", "must be of type bool"),
    ]:
        with pytest.raises(UserError, match="--override") as error:
            overridden(ppo.Config(), ("ppo",), read_overrides([word], ["ppo"]))
        assert message in str(error.value)


# Break: `value * best`, which for returns below 0 asks for more than the best.
def test_thresholds() -> None:
    """Golden: nine tenths of 500 are 450; a tenth of 20's size below −20 is −22."""
    assert read_threshold("90%").of(500.0) == pytest.approx(450.0)
    assert read_threshold("90 %") == Threshold(0.9, True)
    assert read_threshold("90%").of(-20.0) == pytest.approx(-22.0)
    assert read_threshold("-7.5").of(500.0) == -7.5
    for text in ("much", "0%", "101%", "90%%", "nan", ""):
        with pytest.raises(UserError, match="--threshold"):
            read_threshold(text)


def test_sweeps() -> None:
    assert read_sweep("length=5,10,20") == Sweep("length", (5, 10, 20))
    assert read_sweep("k=5..45") == Sweep("k", (5, 10, 20, 40))
    assert read_sweep("k=5..10") == Sweep("k", (5, 10))
    for text in (
        "length=0..4",
        "length=8..4",
        "length=4..",
        "length=2,4..8",
        "length",
        "length=",
        "length=a",
        "length=5,5",
        "length=10,5",
        "=5",
        "length=true",
    ):
        with pytest.raises(UserError, match="in rising order"):
            read_sweep(text)


def test_what_counts_as_solved(tmp_path: Path) -> None:
    """A tenth of the optimum's size below it; where something is hidden too, the optimum says nothing."""
    base = Config(settings=ppo.Config(env="seqrl/TMaze-v0", run_dir=str(tmp_path / "c")), horizon_sweep="length=2,4")
    check(base)
    assert base.needed(Sweep("length", (2, 4)), 4) == pytest.approx(0.9)
    tiger = replace(base, settings=replace(base.settings, env="seqrl/Tiger-v0"))
    assert tiger.needed(Sweep("horizon", (1,)), 1) == pytest.approx(-1.1)  # with one decision, listening costs 1
    hidden = replace(base, settings=replace(base.settings, noise=0.1))
    with pytest.raises(UserError, match="--threshold NUMBER"):
        check(hidden)
    check(replace(hidden, threshold="0.7"))
    assert replace(hidden, threshold="0.7").needed(Sweep("length", (2,)), 2) == 0.7
    for wrong in (replace(base, horizon_sweep="width=3"), replace(base, horizon_seeds=0)):
        with pytest.raises(UserError):
            check(wrong)
