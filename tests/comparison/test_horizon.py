"""How long a delay each approach bridges: which values it is tried at, and what counts as solved there."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqrl.algorithms import ppo
from seqrl.cli import main
from seqrl.comparison.approaches import Approach
from seqrl.comparison.config import Config
from seqrl.comparison.floor import Floor
from seqrl.comparison.horizon import measure_horizon
from seqrl.comparison.report import Horizon, Tried
from seqrl.errors import UserError

Brings = dict[str, dict[int, tuple[float, ...] | str]]
"""By memory and length, what each seed brings, or why a run fails."""


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Horizon, list[str]]]]:
    """A sweep over lengths, of runs that bring what is said: after each value, what was tried, and what failed."""

    def measure(brings: Brings, floors: dict[int, Floor] | None = None, **changes: Any) -> list[Any]:
        def run_all(jobs: Any, *rest: Any) -> list[UserError]:
            failed = []
            for _, run in jobs:
                result = brings[run.memory][int(run.env_kwargs[-1].partition("=")[2])]
                if isinstance(result, str):
                    failed.append(UserError(result))
                    continue
                Path(run.run_dir).mkdir(parents=True)
                returns = [result[run.seed] + noise for noise in (-0.01, 0.0, 0.01)]
                (Path(run.run_dir) / "evaluation.json").write_text(
                    json.dumps({"returns": returns, "lengths": [9, 9, 9]})
                )
            return failed

        def floor(here: Config) -> Floor:
            assert floors is not None, "nothing is measured from random actions"
            return floors[int(here.folder.name.partition("=")[2])]

        monkeypatch.setattr("seqrl.comparison.horizon.run_all", run_all)
        monkeypatch.setattr("seqrl.comparison.horizon.random_floor", floor)
        settings = ppo.Config(env="seqrl/TMaze-v0", run_dir=str(tmp_path), noise=0.0 if floors is None else 0.1)
        config = Config(settings=settings, horizon_sweep="length=2..16", horizon_seeds=2, **changes)
        found = measure_horizon(config, [Approach("ppo", memory) for memory in brings], lambda *_: {})
        return [(horizon, list(map(str, failed))) for horizon, failed in found]

    return measure


def solved(horizon: Horizon) -> dict[str, list[tuple[float, bool]]]:
    return {
        name.removeprefix("ppo:"): [(one.value, one.solved) for one in some] for name, some in horizon.tried.items()
    }


# Break: tries every value of every approach, or counts the best seed.
def test_the_sweep_stops_where_it_is_not_solved(swept: Callable[..., Any]) -> None:
    """Golden: gru solves 2 and 4 and fails at 8; none, whose seeds have 1 and 0.4, fails at 2; 16 is not tried."""
    rounds = swept({"gru": {2: (1.0, 1.0), 4: (0.9, 0.9), 8: (1.0, 0.6)}, "none": {2: (1.0, 0.4)}})
    assert solved(rounds[-1][0]) == {"gru": [(2, True), (4, True), (8, False)], "none": [(2, False)]}
    assert len(rounds) == 3
    assert [one.random for one in rounds[-1][0].tried["ppo:gru"]] == [None] * 3
    assert [one.reach and one.reach.episode for one in rounds[-1][0].tried["ppo:gru"]] == [9.0] * 3


# Break: one floor for all values, the optimum in place of the best, or the best of another value; solved where nothing
# is clearly above random actions.
def test_where_the_optimum_is_not_known_a_sweep_measures_from_random_actions_to_the_best(
    swept: Callable[..., Any],
) -> None:
    """Golden: nine tenths of −1 → 1 is 0.8, which lstm misses; of 0 → 0.5 it is 0.45; 0.21 is not above 0.2 ± 0.1."""
    rounds = swept(
        {"gru": {2: (1.0, 1.0), 4: (0.5, 0.5), 8: (0.21, 0.21)}, "lstm": {2: (0.79, 0.79)},
         "none": {2: (0.9, 0.9), 4: (0.44, 0.44)}},
        {2: Floor(-1.0, 0.1), 4: Floor(0.0, 0.1), 8: Floor(0.2, 0.1)},
    )  # fmt: skip
    horizon, failed = rounds[-1]
    assert solved(horizon) == {
        "gru": [(2, True), (4, True), (8, False)], "lstm": [(2, False)], "none": [(2, True), (4, False)]
    }  # fmt: skip
    tried = horizon.tried["ppo:gru"]
    assert [one.needed for one in tried] == pytest.approx([0.8, 0.45, math.nan], nan_ok=True)
    assert [one.random for one in tried] == [-1.0, 0.0, 0.2]
    assert not failed


def test_a_number_counts_at_every_value_of_a_sweep(swept: Callable[..., Any]) -> None:
    """Random actions are not played for it. Breaks where a floor is asked for whatever the threshold is."""
    rounds = swept({"gru": {2: (0.7, 0.7), 4: (0.5, 0.5)}}, None, threshold="0.6")
    assert solved(rounds[-1][0]) == {"gru": [(2, True), (4, False)]}


# Break: the error raised: hours of other approaches would be lost; or the others' best taken from what failed.
def test_a_run_that_fails_ends_its_approach_s_sweep_alone(swept: Callable[..., Any]) -> None:
    rounds = swept({"gru": {2: (1.0, 1.0), 4: (1.0, 1.0), 8: (0.1, 0.1)}, "lstm": {2: (1.0, 1.0), 4: "it diverged"}})
    assert solved(rounds[-1][0]) == {"gru": [(2, True), (4, True), (8, False)], "lstm": [(2, True)]}
    assert [failed for _, failed in rounds] == [[], ["it diverged", "it diverged"], []]
    rounds = swept({"transformer": {2: "it diverged"}})
    assert solved(rounds[-1][0]) == {"transformer": []}
    assert rounds[-1][0].cell("ppo:transformer") == "–"
    assert len(rounds) == 1


# Break: the best of none looked for. The choice of the best is widened by how many there are.
def test_where_all_runs_fail_a_sweep_that_measures_from_random_actions_ends(swept: Callable[..., Any]) -> None:
    rounds = swept({"transformer": {2: "it diverged"}}, {2: Floor(0.0, 0.1)})
    assert solved(rounds[-1][0]) == {"transformer": []}
    assert [failed for _, failed in rounds] == [["it diverged", "it diverged"]]


# Break: `--threshold NUMBER` asked for; random actions played twice at the comparison's own value.
def test_from_end_to_end_where_the_optimum_is_not_known(tmp_path: Path, forked_comparisons: None) -> None:
    folder = tmp_path / "compared"
    assert main(["compare", "seqrl/TMaze-v0", "--env-kwargs", "length=2", "--noise", "0.1", "--memories", "none,gru",
                 "--num-seeds", "1", "--num-envs", "4", "--rollout-length", "8", "--hidden-size", "8",
                 "--num-minibatches", "1", "--num-steps", "64", "--num-episodes", "10", "--num-evaluations", "0",
                 "--keep", "last", "--actions", "likeliest",
                 "--horizon-sweep", "length=1,2", "--horizon-seeds", "1", "--workers", "1",
                 "--run-dir", str(folder)]) == 0  # fmt: skip
    found = json.loads((folder / "results.json").read_text())["horizon"]["tried"]
    floors = {1: folder / "horizon" / "length=1" / "random.json", 2: folder / "random.json"}
    for value in (1, 2):
        at = [one for some in found.values() for one in some if one["value"] == value]
        for one in at:
            assert one["random"] == json.loads(floors[value].read_text())["mean"]
            best = max(other["seed_means"][0] for other in at)
            assert one["needed"] in (None, pytest.approx(best - 0.1 * (best - one["random"])))
            assert one["solved"] == (one["needed"] is not None and one["seed_means"][0] >= one["needed"])
    assert not (folder / "horizon" / "length=2").exists()


def tried(*solved: bool) -> list[Tried]:
    return [Tried(value=2.0 * 2**k, needed=0.9, seed_means=[float(ok)], solved=ok) for k, ok in enumerate(solved)]


def test_the_horizon_s_cell() -> None:
    found = Horizon(
        key="length", values=[2, 4, 8], tried={"a": tried(True, True, True), "b": tried(True, False), "c": tried(False)}
    )
    assert [found.cell(name) for name in "abcd"] == ["≥ 8", "2", "< 2", "–"]
