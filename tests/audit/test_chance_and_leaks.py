"""What an audit must not take for chance or for a leak, and that true ones are still found."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from test_of_episodes import found, states, write

from seqrl.audit import audit
from seqrl.audit.of_episodes import leaks
from seqrl.audit.reading import Rows
from seqrl.comparison.offline import about_log
from seqrl.data import Episode, EpisodeDataset, from_arrays

WALK = gym.spaces.Discrete(11)


def walks(folder: Path, known: bool, length: int = 10, ends: str = "timeouts") -> EpisodeDataset:
    """Deterministic walks from 5, cut after `length` steps: with or without the observation after the last."""
    rng = np.random.default_rng(0)
    action = rng.integers(0, 2, (60, length))
    place = np.full((60, length + 1), 5)
    for t in range(length):
        place[:, t + 1] = np.clip(place[:, t] + 2 * action[:, t] - 1, 0, 10)
    flags = np.zeros((60, length), bool)
    flags[:, -1] = True
    log = {"observations": place[:, :-1], "actions": action, "rewards": place[:, 1:] == 10, ends: flags}
    log = {name: values.reshape(-1) for name, values in log.items()}
    return from_arrays(folder, log | ({"final_observations": place[:, -1]} if known else {}), observation_space=WALK)


# Break: `about.get` in `chance` answered with None.
@pytest.mark.parametrize("known", [True, False])
def test_a_repeated_final_observation_is_no_chance(tmp_path: Path, known: bool) -> None:
    """The comparison on a log says so too."""
    dataset = walks(tmp_path / "log", known)
    assert ("final_observation_repeated" in dataset.about) != known
    assert audit(dataset).figures["followed_by_another"] == 0.0
    figures = about_log(dataset)
    assert figures["followed_by_another"] == 0.0
    assert figures["seen_again"] > 0.9


# Break: in `chance`, `cut` left out: whoever terminates is left out too; or the hashes not compared.
def test_only_what_is_not_known_is_left_out_of_chance(tmp_path: Path) -> None:
    """Terminations stay, and so do decisions of a log where some final observations are known."""
    ended = walks(tmp_path / "ended", known=False, length=1, ends="terminals")
    assert audit(ended).figures["seen_again"] == 1.0
    cut = audit(walks(tmp_path / "cut", known=False, length=1))
    assert (cut.figures["seen_again"], cut.figures["followed_by_another"]) == (0.0, 0.0)
    assert next(one for one in cut.findings if one.check == "chance").message.startswith("what followed")
    mixed = walks(tmp_path / "mixed", known=True, length=1)
    mixed.about["final_observation_repeated"] = 1  # of none here
    assert audit(mixed).figures["seen_again"] == 1.0
    episodes, space = states(0.3)([None] * 80)  # type: ignore[list-item, misc]
    drawn = EpisodeDataset.open(write(tmp_path / "drawn", episodes, space))
    drawn.about["final_observation_repeated"] = 1
    assert found(audit(drawn)).get("chance") == "look"


def test_an_action_space_of_billions(tmp_path: Path) -> None:
    """Break: a count for each action, which no memory holds."""
    episode = Episode(np.zeros((4, 3), np.float32), np.array([0, 2**40, 17]), np.ones(3, np.float32), True, False)
    result = audit(EpisodeDataset.open(write(tmp_path / "log", [episode] * 3, action_space=gym.spaces.Discrete(2**41))))
    message = next(finding.message for finding in result.findings if finding.kind == "never_taken")
    assert message.startswith("3 of 2,199,023,255,552 were ever taken")
    assert "action_shares" not in result.figures


def leaks_of(folder: Path, first: np.ndarray, last: np.ndarray) -> dict[str, str]:
    """The leaks of terminated episodes of one decision, from `first` [N, ...] to `last` [N, ...]."""
    space: gym.Space = gym.spaces.Discrete(1 << 20) if first.ndim == 1 else gym.spaces.Box(0, 1e12, first.shape[1:])
    if first.dtype == np.int64 and first.ndim > 1:
        space = gym.spaces.Box(0, 1 << 40, first.shape[1:], np.int64)
    action, reward = np.zeros(1, np.int64), np.ones(1, np.float32)
    episodes = [Episode(np.stack(pair), action, reward, True, False) for pair in zip(first, last, strict=True)]
    dataset = EpisodeDataset.open(write(folder, episodes, space))
    return {one.kind: one.severity for one in leaks(Rows(dataset, 1 << 30, 1 << 30, 0))[1] if one.severity != "ok"}


# Break: `bdtrc(…) > 1e-4` left out, or less than 3 matches enough.
def test_coincidences_are_no_leak(tmp_path: Path) -> None:
    """Episodes that begin and end anywhere among 16 states, in 3 to 5 of 20 where the one before did; two of many."""
    for seed in (53, 62, 72, 150):
        first, last = np.random.default_rng(seed).integers(0, 16, (2, 20))
        assert 3 <= (first[1:] == last[:-1]).sum() <= 5
        assert leaks_of(tmp_path / str(seed), first, last) == {}
    first, last = np.random.default_rng(0).permutation(1000)[:180].reshape(2, 90)
    last[[3, 7]] = first[[4, 8]]
    assert leaks_of(tmp_path / "two", first, last) == {}


# Break: chance taken from all pairs, the neighbours among them: of few episodes a leak is then its own chance.
@pytest.mark.parametrize("number", [5, 20])
def test_few_episodes_that_go_on_are_a_leak(tmp_path: Path, number: int) -> None:
    place = np.random.default_rng(0).permutation(1000)[: number + 1]
    assert leaks_of(tmp_path / "all", place[:-1], place[1:]) == {"joined": "wrong"}
    place = np.random.default_rng(1).integers(0, 16, 101)
    assert leaks_of(tmp_path / "states", place[:-1], place[1:]) == {"joined": "wrong"}


# Break: `1e-6 * largest` in place of `_rounding`, 1,700 s (whole numbers); no half of |change| (float32, 128 s apart).
@pytest.mark.parametrize(("kind", "step", "gaps"), [(np.int64, 60, (65, 80)), (np.float32, 128, (256, 384))])
def test_unix_time_does_not_count_on_over_gaps(tmp_path: Path, kind: type, step: int, gaps: tuple[int, int]) -> None:
    gap = np.random.default_rng(0).choice(gaps, 40)
    first = 1_700_000_000 // 128 * 128 + np.concatenate([[0], (step + gap).cumsum()[:-1]])
    first = first[:, None].astype(kind)
    assert leaks_of(tmp_path / "gaps", first, first + kind(step)) == {}
    first = (1_700_000_000 // 128 * 128 + 2 * step * np.arange(40))[:, None].astype(kind)
    assert leaks_of(tmp_path / "none", first, first + kind(step)) == {"counter": "wrong"}
