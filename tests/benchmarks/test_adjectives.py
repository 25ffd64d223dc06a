"""The rules by which docs/table.md says that an adjective holds: each is tried on figures that contradict it too."""

from typing import Any

import pytest

from benchmarks.adjectives import (
    CLAIMS,
    HOLDS,
    NOT,
    OPEN,
    TITLES,
    UNKNOWN,
    against_log,
    claims,
    cloning_claim,
    cost_claim,
    luck_claim,
    median,
    memory_claim,
    preference_claim,
    quick_claim,
    simple_claim,
    stability_claim,
    stale_claim,
    steerable_claim,
    stitching_claim,
)
from benchmarks.adjectives_page import document
from benchmarks.table import PARTS


def row(approach: str, *, steps: float = 100.0, reached: tuple[bool, ...] = (True, True), **changes: Any) -> Any:
    return {
        "approach": approach, "mean": 0.9, "seed_means": [0.95, 0.85], "reached": list(reached), "exploring": False,
        "steps_to_threshold": [steps if ok else None for ok in reached], "num_parameters": 10, "delta_q": None,
        "seconds_to_threshold": [2.0 if ok else None for ok in reached], "steps_per_second": 1000.0,
    } | changes  # fmt: skip


def method(name: str, *seeds: float, follows: float | None = None, calibrated: tuple[float, ...] = ()) -> Any:
    return {
        "method": name, "returns": {"seeds": list(seeds)},
        "calibrated": {"seeds": list(calibrated)} if calibrated else None,
        "asked_for": {"mean": 4.0}, "follows": None if follows is None else {"mean": follows},
    }  # fmt: skip


def problem(*rows: Any, **changes: Any) -> Any:
    return {
        "rows": list(rows),
        "threshold": 0.7,
        "horizon": None,
        "offline": None,
        "table": "# A problem\n\nCaption.",
    } | changes


def log(*rows: Any, highest: float = 2.0) -> Any:
    data = {"lowest": 0.0, "highest": highest, "mean": 1.0}
    return {"rows": list(rows), "data": data, "table": "# A log\n\nCaption."}


def swept(**solved: int) -> Any:
    """By approach (with _ for the colon), how many of three values it solved."""
    tried = {
        name.replace("_", ":"): [
            {"value": v, "needed": 0.9, "seed_means": [1.0], "solved": k < count}
            for k, v in enumerate((3.0, 10.0, 30.0)[: count + 1])
        ]
        for name, count in solved.items()
    }
    return {"tmaze": problem(horizon={"key": "length", "values": [3.0, 10.0, 30.0], "tried": tried})}


def test_memory() -> None:
    is_long, is_short = memory_claim("ppo:a", "ppo:b", True), memory_claim("ppo:a", "ppo:b", False)
    figure, verdict = is_long(swept(ppo_a=3, ppo_b=1))
    assert (figure, verdict) == ("T-maze corridors solved: ≥ 30 (ppo:b: 3), of 3, 10, 30", HOLDS)
    assert is_short(swept(ppo_a=3, ppo_b=1))[1] == NOT
    assert is_long(swept(ppo_a=0, ppo_b=1))[1] == NOT
    assert is_long(swept(ppo_a=2, ppo_b=2))[1] == OPEN
    assert is_long(swept(ppo_b=2))[1] == UNKNOWN
    runs = [("a", 100, 1.0), ("a", 300, 0.95), ("a", 300, 0.95), ("b", 100, 0.5), ("b", 300, 1.0)]
    recall = {"runs": [{"memory": m, "length": n, "success": s} for m, n, s in runs]}
    told = ("T-maze corridors solved by `benchmarks.memory_length`: ≥ 300 (ppo:b: < 100), of 100, 300", HOLDS)
    assert is_long({"recall": recall}) == told
    assert is_long(swept(ppo_a=0, ppo_b=1) | {"recall": recall})[1] == NOT  # the table's own comes first
    alone = {"tmaze": problem(row("ppo:a"), row("ppo:b", reached=(False, False), mean=0.5))}
    told = ("T-maze, a corridor of 10: 2 of 2 seeds solve it, a mean return of 0.9 (ppo:b: 0, 0.5)", HOLDS)
    assert is_long(alone) == told


# Break: compares steps before the share of seeds that got there.
@pytest.mark.parametrize(
    ("one", "two", "cheap"),
    [
        ({"steps": 50.0}, {}, HOLDS),
        ({"steps": 200.0}, {}, NOT),
        ({"steps": 90.0}, {}, OPEN),
        ({"steps": 50.0, "reached": (True, False)}, {}, NOT),
        ({"steps": 500.0}, {"reached": (False, False)}, HOLDS),
        ({"reached": (False, False)}, {"reached": (False, False)}, OPEN),
    ],
)
def test_cost(one: dict[str, Any], two: dict[str, Any], cheap: str) -> None:
    parts = {"tmaze": problem(row("ppo:a", **one), row("ppo:b", **two))}
    assert cost_claim("tmaze", "ppo:a", "ppo:b", True)(parts)[1] == cheap
    dear = {HOLDS: NOT, NOT: HOLDS, OPEN: OPEN}[cheap]
    assert cost_claim("tmaze", "ppo:a", "ppo:b", False)(parts)[1] == dear
    assert cost_claim("tmaze", "ppo:a", "ppo:c", False)(parts)[1] == UNKNOWN


def test_stability_simplicity_and_speed() -> None:
    parts = {"tmaze": problem(row("ppo:a"), row("ppo:b", reached=(True, False), steps_per_second=500.0))}
    assert stability_claim((("tmaze", "ppo:a"),), True)(parts)[1] == HOLDS
    assert stability_claim((("tmaze", "ppo:a"), ("cartpole", "ppo:a")), False)(parts)[1] == NOT
    figure, verdict = stability_claim((("tmaze", "ppo:b"),), False)(parts)
    assert (figure, verdict) == ("T-maze: 1 of 2 seeds reach the threshold, the worst 0.85 of a mean 0.9", HOLDS)
    assert stability_claim((("cartpole", "ppo:b"),), False)(parts)[1] == UNKNOWN
    parts = {
        "tmaze": problem(
            row("ppo:a", final_means=[0.95, 0.4], earlier_kept=[False, True]),
            row("ppo:b", final_means=[0.95, 0.4], earlier_kept=[False, False]),
        )
    }
    figure, verdict = stability_claim((("tmaze", "ppo:a"),), False)(parts)
    assert "2 of 2 seeds reach the threshold, of which 1 lose it again by the end, the worst" in figure
    assert verdict == HOLDS  # breaks where the kept agents alone are looked at
    assert stability_claim((("tmaze", "ppo:b"),), True)(parts)[1] == HOLDS
    parts = {"tmaze": problem(row("ppo:a"), row("ppo:b", reached=(True, False), steps_per_second=500.0))}
    assert quick_claim("tmaze", "ppo:b", "ppo:a", False)(parts)[1] == HOLDS
    assert quick_claim("tmaze", "ppo:a", "ppo:a", True)(parts)[1] == OPEN
    assert simple_claim("tmaze", "ppo:a", "ppo:b")(parts)[1] == NOT  # as many parameters
    smaller = {"tmaze": problem(row("ppo:a", num_parameters=5), row("ppo:b"))}
    assert simple_claim("tmaze", "ppo:a", "ppo:b")(smaller)[1] == HOLDS


def test_staleness() -> None:
    assert stale_claim({"tmaze": problem(row("r2d2:gru", delta_q=0.2))}) == (
        "T-maze: ΔQ 0.2 of the largest value",
        HOLDS,
    )
    assert stale_claim({"tmaze": problem(row("r2d2:gru", delta_q=0.01))})[1] == NOT
    assert stale_claim({"tmaze": problem(row("r2d2:gru"))})[1] == UNKNOWN
    figures = {"own": {"all": {"stored_burn_in": [{"mean": 0.6}, {"mean": 0.3}]}}}
    summary = [{"capacity": 5000, "strategy": name, "delta_q": figures} for name in ("zero", "stored_burn_in")]
    told = "T-maze of 30, a replay of 5,000 (`benchmarks.staleness`): ΔQ 0.6 of the largest value"
    assert stale_claim({"staleness": {"summary": summary}}) == (told, HOLDS)
    fresh = problem(row("r2d2:gru", delta_q=0.01))
    assert stale_claim({"tmaze": fresh, "staleness": {"summary": summary}})[1] == OPEN


# Break: the best seed in place of the interval, or the returns in place of the calibrated ones.
def test_logs() -> None:
    stitches, does_not = stitching_claim("qdt", True), stitching_claim("qdt", False)
    joins = {"corridors": log(method("qdt", 2.0, 2.0, calibrated=(3.0, 3.0)))}
    assert stitches(joins) == ("corridors: 3 ± 0; the best logged episode has 2, the best possible 3", HOLDS)
    assert does_not(joins)[1] == NOT
    for seeds, verdict in (((2.0, 2.0), NOT), ((3.0, 2.0), OPEN)):
        assert stitches({"corridors": log(method("qdt", *seeds))})[1] == verdict
    asked = {part: log(method("decision_transformer", 1.0, follows=0.9)) for part in ("corridors", "gamble")}
    assert steerable_claim(asked)[1] == HOLDS
    asked["tmaze"] = problem(offline=log(method("decision_transformer", 1.0, follows=0.1)))
    assert steerable_claim(asked) == (
        "rank correlation of asked and got: T-maze 0.10; corridors 0.90; gamble 0.90",
        NOT,
    )
    for calibrated, verdict in (((4.0, 4.0), HOLDS), ((2.0, 2.0), NOT), ((2.0, 4.0), OPEN)):
        fooled = {"gamble": log(method("decision_transformer", 2.0, 2.0, calibrated=calibrated), highest=12.0)}
        assert luck_claim(fooled)[1] == verdict


# Break: the upper of two in the middle, where the table beside it has their mean.
def test_the_middle_of_two_seeds_is_between_them() -> None:
    assert median([100.0, None, 300.0]) == 200
    assert median([None]) is None


# Break: `more` that takes what its interval does not settle for no more.
def test_what_an_interval_does_not_settle_is_neither_more_nor_not() -> None:
    no_better, better = against_log("behaviour_cloning", "mean", False), against_log("behaviour_cloning", "mean", True)
    for seeds, verdict, other in (
        ((1.0, 1.0, 1.0), HOLDS, NOT),
        ((2.0, 1.0, 2.0), OPEN, OPEN),  # three times as much on average, in two seeds of three
        ((2.0, 1.9, 2.0), NOT, HOLDS),
        ((0.0, 1.0, 2.0), OPEN, OPEN),
    ):
        parts = {"tmaze": problem(offline=log(method("behaviour_cloning", *seeds)))}
        assert (no_better(parts)[1], better(parts)[1]) == (verdict, other)
    filtered = method("filtered_bc", 1.0, 1.0, 1.0)
    patchy = {"gamble": log(method("decision_transformer", 2.0, 1.0, 2.0), filtered)}
    assert cloning_claim(patchy)[1] == OPEN
    assert cloning_claim(patchy | {"corridors": log(method("decision_transformer", 1.0, 1.0, 1.0), filtered)})[1] == NOT


def test_what_preferences_cost() -> None:
    """Golden: from 1 to 5 nine tenths of the gain are 4.6, and 200 pairs are the fewest with as much."""
    curve = [{"pairs": n, "reward": r} for n, r in ((50, 3.0), (200, 4.7), (800, 5.0))]
    claim = preference_claim({"before": 1.0, "curve": curve})
    assert claim.figure == "reward 1 before, 5 at best; 200 labelled pairs bring 90 % of the gain"
    assert claim.verdict == NOT
    assert preference_claim(None).verdict == UNKNOWN
    assert preference_claim({"other": 1}).verdict == UNKNOWN


def test_the_document() -> None:
    found: dict[str, Any] = {"parts": dict.fromkeys(PARTS), "processor": "A processor", "date": "2026-11-26"}
    text = document(found, {})
    assert set(TITLES) == set(PARTS)
    assert f"Of {len(CLAIMS) + 1} adjectives 0 hold, 0 do not hold here, 0 are not" in text
    assert text.count("| not measured |") == len(CLAIMS) + 1
    assert text.count("\nNot measured.\n") == len(PARTS)
    found["parts"]["cartpole"] = problem(row("ppo:frame_stack", steps=50.0), row("ppo:gru"))
    text = document(found, {})
    assert "\nA problem:\n\nCaption.\n" in text
    assert "| frame stacking (4) | easy to train, where four frames are enough | masked CartPole: 2 of 2 seeds" in text
    assert [claim.verdict for claim in claims(found["parts"])].count(UNKNOWN) < len(CLAIMS)
