"""What the words of a comparison mean: approaches, settings of some alone, thresholds and sweeps."""

import math
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
from seqrl.comparison.config import Config, Sweep, check, read_sweep
from seqrl.comparison.floor import Floor, threshold
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
        "length=false,2",
        "length=NaN",
        "length=1..Infinity",
        f"length={'9' * 5000}",
    ):
        with pytest.raises(UserError, match="in rising order"):
            read_sweep(text)


def test_what_counts_as_reached(tmp_path: Path) -> None:
    """A tenth of the optimum's size below it; where something is hidden, the optimum says nothing, and it is nine
    tenths of the way from random actions to the best. Breaks where a sweep takes nine tenths whatever was asked for."""
    base = Config(settings=ppo.Config(env="seqrl/TMaze-v0", run_dir=str(tmp_path / "c")))
    assert threshold(base.at("length", 4), None, 0.3, 0.0, 1) == pytest.approx(0.9)
    assert threshold(replace(base, threshold="50%").at("length", 4), None, 0.3, 0.0, 1) == pytest.approx(0.5)
    tiger = replace(base, settings=replace(base.settings, env="seqrl/Tiger-v0"))
    assert threshold(tiger.at("horizon", 1), None, -9.0, 0.0, 1) == pytest.approx(
        -1.1
    )  # one decision: listening costs 1
    hidden = replace(base, settings=replace(base.settings, noise=0.1)).at("length", 4)
    assert threshold(hidden, Floor(-1.0, 0.1), 0.0, 0.2, 3) == pytest.approx(-0.1)
    assert threshold(hidden, Floor(-1.0, 0.1), 0.0, 0.9, 1) == pytest.approx(-0.1)
    assert math.isnan(threshold(hidden, Floor(-1.0, 0.1), 0.0, 0.9, 3))  # the best of three may be as lucky as that
    assert math.isnan(threshold(hidden, Floor(-1.0, 0.1), 0.0, 1.0, 1))
    assert threshold(replace(hidden, threshold="0.7"), None, 0.0, 0.2, 3) == 0.7


def test_what_a_sweep_is_refused_for(tmp_path: Path) -> None:
    base = Config(settings=ppo.Config(env="seqrl/TMaze-v0", run_dir=str(tmp_path / "c")), horizon_sweep="length=2,4")
    check(base)
    check(replace(base, settings=replace(base.settings, noise=0.1)))  # its optimum is not known
    for wrong in (
        replace(base, horizon_sweep="width=3"),
        replace(base, horizon_seeds=0),
        replace(base, horizon_steps=1e-9),  # breaks where runs of a sweep are first checked when they begin
    ):
        with pytest.raises(UserError):
            check(wrong)


def test_each_value_has_runs_of_its_own() -> None:
    """Golden: half the steps, in a folder of the value; but where it is the comparison's own, its runs serve."""
    settings = ppo.Config(env="seqrl/TMaze-v0", env_kwargs=("length=4", "active=true"), run_dir="c", num_steps=100)
    base = Config(settings=settings, num_seeds=3, horizon_seeds=2, horizon_steps=0.5)
    one, other = base.swept(Approach("ppo", "gru"), "length", 8)
    assert (one.run_dir, other.run_dir) == ("c/horizon/length=8/gru_s0", "c/horizon/length=8/gru_s1")
    assert (one.num_steps, one.env_kwargs) == (50, ("active=true", "length=8"))
    assert base.swept(Approach("ppo", "gru"), "length", 4) == base.runs_of(Approach("ppo", "gru"))[:2]
    own = replace(base, horizon_seeds=4).swept(Approach("ppo", "gru"), "length", 4)
    assert own[0].run_dir == "c/horizon/length=4/gru_s0"
    # Breaks where the folder has six digits of the value: two values would have the same runs.
    folders = [base.at("length", value).folder.name for value in (1_000_000, 1_000_001, 0.5, 2.0)]
    assert folders == ["length=1000000", "length=1000001", "length=0.5", "length=2"]


# Break: leave `reads` out of `settings_of`, or let overrides of an algorithm come after it.
def test_inputs_behind_a_plus() -> None:
    online, _ = read(["ppo:gru", "ppo:gru+reward", "r2d2:none+reward+action"])
    assert online[1:] == [Approach("ppo", "gru", ("reward",)), Approach("r2d2", "none", ("action", "reward"))]
    assert [*map(str, online[1:])] == ["ppo:gru+reward", "r2d2:none+action+reward"]
    assert [approach.folder for approach in online] == ["gru", "gru+reward", "r2d2_none+action+reward"]
    found = [settings_of(approach, ppo.Config(env="seqrl/TMaze-v0")) for approach in online]
    assert [each.memory for each in found] == ["gru", "gru", "none"]
    assert [(each.previous_action, each.previous_reward) for each in found] == [(0, 0), (0, 1), (1, 1)]
    assert Config(memories=("gru", "gru+reward")).named()[0] == online[:2]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["gru+rewards"], "unknown input 'rewards' in 'gru+rewards' (--memories): did you mean 'reward'?"),
        (["gur+reward"], "unknown memory 'gur' (--memories): did you mean 'gru'?"),
        (["gru+reward+reward"], "names reward twice"),
        (["gru+action+reward", "gru+reward+action"], "--memories names one twice"),
    ],
)
def test_inputs_that_are_none(names: list[str], words: str) -> None:
    with pytest.raises(UserError) as error:
        Config(memories=tuple(names)).named()
    assert words in str(error.value)


# Break: ask the settings with the inputs, which read them always.
def test_an_input_that_all_have_is_no_input_of_its_own() -> None:
    settings = ppo.Config(env="seqrl/TMaze-v0", previous_reward=True, run_dir="runs/none")
    check(Config(memories=("gru", "gru+action"), settings=settings))
    with pytest.raises(UserError, match=r"ppo:gru\+reward reads the previous reward in any case"):
        check(Config(memories=("gru", "gru+reward"), settings=settings))
