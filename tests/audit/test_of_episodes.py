"""Each finding of an audit is provoked once, and a sound dataset has none."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from rich.console import Console

import seqrl.audit
from seqrl.audit import Audit, audit
from seqrl.audit import reading as reading_module
from seqrl.audit.of_columns import _far_and_often
from seqrl.audit.reading import Rows, column_hashes, row_hashes
from seqrl.cli import main
from seqrl.data import Episode, EpisodeDataset, EpisodeWriter
from seqrl.data.episode_files import layout

OBSERVATION = gym.spaces.Box(-3.0, 3.0, (3,))
ACTION = gym.spaces.Discrete(3)
LIMIT = 40
Episodes = list[Episode]


def sound(number: int = 80, seed: int = 0) -> Episodes:
    """Episodes that drift from a small region where all begin; some end by themselves, the others at a limit."""
    random = np.random.default_rng(seed)
    episodes = []
    for _ in range(number):
        length = int(min(random.integers(10, 60), LIMIT))
        action = random.integers(0, 3, length)
        drift = random.choice([-1, 1], 3) * 0.05
        step = drift + random.uniform(-0.03, 0.03, (length, 3)) + 0.01 * action[:, None]
        observation = np.concatenate([random.uniform(-0.1, 0.1, (1, 3)), step]).cumsum(0).astype(np.float32)
        reward = random.uniform(0, 1, length).astype(np.float32)
        episodes.append(Episode(observation, action, reward, length < LIMIT, length == LIMIT))
    return episodes


def write(
    folder: Path, episodes: Episodes, observation_space: gym.Space = OBSERVATION, action_space: gym.Space = ACTION
) -> Path:
    about = {"env": "Sound-v0", "env_kwargs": ["size=3"]}
    with EpisodeWriter(folder, observation_space, action_space, about=about) as writer:
        for episode in episodes:
            writer.add(episode)
    return folder


def found(result: Audit) -> dict[str, str]:
    """The kinds that are not ok, with their severities."""
    return {finding.kind: finding.severity for finding in result.findings if finding.severity != "ok"}


def test_a_sound_dataset(tmp_path: Path) -> None:
    """Golden: one finding for each of the twelve checks, all ok."""
    result = audit(EpisodeDataset.open(write(tmp_path / "data", sound())))
    assert [finding.severity for finding in result.findings] == ["ok"] * 12
    assert len({finding.check for finding in result.findings}) == 12
    assert result.sound
    episodes = sound()
    assert result.figures["episodes"] == 80
    assert result.figures["decisions"] == sum(len(episode.reward) for episode in episodes)
    returns = [episode.reward.sum(dtype=np.float64) for episode in episodes]
    assert result.figures["returns"][3] == pytest.approx(np.median(returns))
    assert result.figures["truncated"] == pytest.approx(np.mean([episode.truncated for episode in episodes]))
    shares = np.bincount(np.concatenate([episode.action for episode in episodes])) / result.figures["decisions"]
    assert result.figures["action_shares"][0] == pytest.approx(shares.tolist())


Change = Callable[[Episodes], Any]


def each(change: Callable[[Episode, int], Episode]) -> Change:
    return lambda episodes: [change(episode, k) for k, episode in enumerate(episodes)]


def with_column(column: Callable[[Episode, int], Any], at: int = 2) -> Change:
    """One column of the observation replaced."""

    def change(episode: Episode, k: int) -> Episode:
        observation = episode.observation.copy()
        observation[:, at] = column(episode, k)
        return episode._replace(observation=observation)

    return each(change)


def shortened(episode: Episode, length: int) -> Episode:
    return Episode(episode.observation[: length + 1], episode.action[:length], episode.reward[:length], True, False)


def cut(number: int, ended: bool) -> Change:
    """One long episode cut into pieces of 10, each beginning where the one before stopped."""

    def change(episodes: Episodes) -> Episodes:
        walk = np.random.default_rng(0).uniform(-0.1, 0.1, (10 * number + 1, 3)).cumsum(0) % 2
        action, reward = np.arange(10) % 3, np.linspace(0, 1, 10).astype(np.float32)
        pieces = [walk[10 * k : 10 * k + 11].astype(np.float32) for k in range(number)]
        return [Episode(p, action, reward * (k + 1), ended, not ended) for k, p in enumerate(pieces)]

    return change


def counting_on(episodes: Episodes) -> Episodes:
    """A clock that was never reset."""
    clock, result = 0.0, []
    for episode in episodes:
        observation = episode.observation.copy()
        observation[:, 2] = clock + 0.001 * np.arange(len(observation))
        clock = observation[-1, 2]
        result.append(episode._replace(observation=observation))
    return result


def joined_pairs(episodes: Episodes) -> Episodes:
    """Every two become one."""
    return [
        Episode(
            np.concatenate([a.observation[:-1], b.observation]), np.concatenate([a.action, b.action]),
            np.concatenate([a.reward, b.reward]), b.terminated, b.truncated,
        )
        for a, b in zip(episodes[::2], episodes[1::2], strict=True)
    ]  # fmt: skip


def states(chance: float) -> Change:
    """Five states in a ring: an action moves on by itself, and with a chance by one more."""

    def change(episodes: Episodes) -> Any:
        random = np.random.default_rng(1)
        result = []
        for _ in episodes:
            action, slip = random.integers(0, 3, LIMIT), random.random(LIMIT) < chance
            place = np.concatenate([[random.integers(5)], action + slip]).cumsum() % 5
            result.append(Episode(place, action, (place[1:] == 0).astype(np.float32), False, True))
        return result, gym.spaces.Discrete(5)

    return change


def masked(episodes: Episodes) -> Any:
    space = gym.spaces.Dict(observation=OBSERVATION, action_mask=gym.spaces.MultiBinary(3))
    for k, episode in enumerate(episodes):
        mask = np.ones((len(episode.observation), 3), dtype=bool)
        mask[-1, 0] = False  # of a final observation, whose row has action 0 and no decision
        episodes[k] = episode._replace(observation={"observation": episode.observation, "action_mask": mask})
    return episodes, space


def box(change: Callable[[np.ndarray], np.ndarray] = lambda action: action, bound: float = 1.0) -> Change:
    """Continuous actions in place of the discrete ones."""

    def changed(episodes: Episodes) -> Any:
        random = np.random.default_rng(2)
        result = [
            episode._replace(action=change(random.uniform(-1, 1, (len(episode.action), 2)).astype(np.float32)))
            for episode in episodes
        ]
        return result, OBSERVATION, gym.spaces.Box(-bound, bound, (2,))

    return changed


def first_entry_at_bounds(action: np.ndarray) -> np.ndarray:
    return np.stack([np.sign(action[:, 0]), action[:, 1]], 1)


def first_entry_constant(action: np.ndarray) -> np.ndarray:
    return np.stack([np.full(len(action), 0.5, np.float32), action[:, 1]], 1)


LOOK: dict[str, list[Change]] = {
    "few_episodes": [lambda episodes: episodes[:9]],
    "one_decision": [each(lambda episode, k: shortened(episode, 1))],
    "time_limit": [
        each(lambda episode, k: shortened(episode, 10)),
        each(lambda episode, k: episode._replace(terminated=True, truncated=False)),
    ],
    "truncated_anywhere": [
        each(lambda e, k: shortened(e, len(e.reward) - k % 9)._replace(terminated=False, truncated=True))
    ],
    "joined": [cut(60, ended=False)],
    "counter": [lambda episodes: [e._replace(terminated=False, truncated=True) for e in counting_on(episodes)]],
    "lost_boundary": [joined_pairs],
    "duplicates": [lambda episodes: [*episodes, *episodes[:20]]],
    "similar_returns": [each(lambda episode, k: episode._replace(reward=episode.reward / episode.reward.sum()))],
    "large_returns": [each(lambda episode, k: episode._replace(reward=100 * episode.reward))],
    "sparse": [each(lambda episode, k: episode._replace(reward=np.eye(len(episode.reward), dtype=np.float32)[-1] * k))],
    "constant": [with_column(lambda episode, k: 0.5)],
    "duplicate": [with_column(lambda episode, k: episode.observation[:, 0])],
    "placeholder": [
        with_column(lambda e, k: np.where(np.arange(len(e.observation)) == 5, -999, e.observation[:, 2])),
        each(lambda e, k: e._replace(reward=np.where(np.arange(len(e.reward)) == 5, -999, e.reward))),
    ],
    "narrow": [with_column(lambda episode, k: 0.01 * episode.observation[:, 2])],
    "outside": [with_column(lambda episode, k: 4 * episode.observation[:, 2])],
    "never_taken": [each(lambda episode, k: episode._replace(action=np.minimum(episode.action, 1)))],
    "one_action": [each(lambda episode, k: episode._replace(action=0 * episode.action)), box(first_entry_constant)],
    "at_bounds": [box(first_entry_at_bounds)],
    "chance": [states(0.3)],
}


@pytest.mark.parametrize(("kind", "change"), [(kind, c) for kind, changes in LOOK.items() for c in changes])
def test_what_deserves_a_look(tmp_path: Path, kind: str, change: Change) -> None:
    changed = change(sound())
    episodes, *spaces = changed if isinstance(changed, tuple) else (changed,)
    result = audit(EpisodeDataset.open(write(tmp_path / "data", episodes, *spaces)))
    assert found(result).get(kind) == "look"
    assert result.sound
    others = {kind} | {  # what the change brings along
        "one_decision": {"time_limit", "similar_returns"}, "one_action": {"never_taken"},
        "constant": {"narrow"}, "placeholder": {"outside", "large_returns"}, "joined": {"time_limit"},
        "counter": {"narrow", "truncated_anywhere"}, "truncated_anywhere": set(), "chance": set(),
    }.get(kind, set())  # fmt: skip
    assert set(found(result)) <= others


@pytest.mark.parametrize(
    "change", [states(0.0), masked, box(), with_column(lambda e, k: np.arange(len(e.observation)) / 20)],
    ids=["discrete", "masked", "box", "clock"],
)  # fmt: skip
def test_other_sound_datasets(tmp_path: Path, change: Change) -> None:
    """A clock that is reset, masks that always allow all, states that recur: no reason to look."""
    changed = change(sound())
    episodes, *spaces = changed if isinstance(changed, tuple) else (changed,)
    assert found(audit(EpisodeDataset.open(write(tmp_path / "data", episodes, *spaces)))) == {}


def written_over(name: str, place: Any, value: Any) -> Callable[[EpisodeDataset], None]:
    """Damage that the writer would have refused. `place` is a row counted from the start of episode 3."""

    def damage(dataset: EpisodeDataset) -> None:
        record = layout(dataset.observation_space, dataset.action_space)["rows"]
        mapped = np.memmap(dataset.folder / "rows.bin", record, "r+")[1:]  # behind the blank record
        row = int(dataset.starts[3]) + place if place >= 0 else int(dataset.starts[4]) - 1 + place
        mapped["observation.0" if name == "observation" else name][row] = value
        mapped.flush()

    return damage


nothing: Change = lambda episodes: episodes  # noqa: E731
WRONG: dict[str, list[tuple[Change, Callable[[EpisodeDataset], None] | None]]] = {
    "no_ending": [(nothing, lambda d: [written_over(n, -1, False)(d) for n in ("terminated", "truncated")] and None)],
    "ending_inside": [(nothing, written_over("truncated", 4, True))],
    "joined": [(cut(60, ended=True), None)],
    "counter": [(lambda e: [x._replace(terminated=True, truncated=False) for x in counting_on(e)], None)],
    "no_rewards": [(each(lambda episode, k: episode._replace(reward=0 * episode.reward)), None)],
    "nonfinite": [
        (nothing, written_over("observation", 4, np.nan)),
        (nothing, written_over("observation", -0, np.inf)),
        (nothing, written_over("reward", 4, np.nan)),
        (box(), written_over("action", 4, -np.inf)),
    ],
    "all_constant": [(each(lambda e, k: e._replace(observation=np.ones_like(e.observation))), None)],
    "outside": [
        (nothing, written_over("action", 4, 3)),
        (nothing, written_over("action", 4, -1)),
        (box(), written_over("action", 4, 1.5)),
    ],
    "forbidden": [(masked, written_over("observation.0", 4, [False] * 3))],
}


@pytest.mark.filterwarnings("error", "ignore::pytest.PytestUnraisableExceptionWarning")  # others' garbage
@pytest.mark.parametrize(("kind", "case"), [(kind, c) for kind, cases in WRONG.items() for c in cases])
def test_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, case: Any) -> None:
    change, damage = case
    changed = change(sound())
    episodes, *spaces = changed if isinstance(changed, tuple) else (changed,)
    folder = write(tmp_path / "data", episodes, *spaces)
    assert damage is None or audit(EpisodeDataset.open(folder)).sound
    if damage is not None:
        damage(EpisodeDataset.open(folder))
    result = audit(EpisodeDataset.open(folder))
    assert found(result).get(kind) == "wrong"
    assert not result.sound
    assert main(["audit", str(folder)]) == 1
    assert "wrong" in capsys.readouterr().out
    # Breaks where it is refused only when the audit is done.
    assert main(["audit", str(folder), "--keep-good", str(tmp_path / "good.jsonl")]) == 2
    assert capsys.readouterr() == ("", "seqrl: --keep-good is for logs of dialogues: leave it out\n")
    json.dumps(result.as_dict(), allow_nan=False)


def test_every_kind_is_provoked() -> None:
    """A finding that the package can make, and no test above provokes, is not tested."""
    folder = Path(seqrl.audit.__file__).parent
    text = "".join(path.read_text() for path in folder.glob("of_*.py") if path.stem in ("of_columns", "of_episodes"))
    calls = re.findall(r'Finding\(\s*"(\w+)",\s*"(\w+)",\s*(?:"(\w+)"|severity)', text)
    assert len(calls) == text.count("Finding(")
    kinds = {kind for _, kind, severity in calls if severity != "ok"}
    assert kinds == set(LOOK) | set(WRONG)


def test_large_datasets_are_sampled(tmp_path: Path) -> None:
    """Whole episodes, the same for the same seed, no more rows than asked for; and the table says so."""
    dataset = EpisodeDataset.open(write(tmp_path / "data", sound()))
    rows = Rows(dataset, 500, 1 << 30, seed=0)
    assert 400 < len(rows.row) <= 500
    assert (Rows(dataset, 500, 1 << 30, seed=0).episodes == rows.episodes).all()
    assert not np.array_equal(Rows(dataset, 500, 1 << 30, seed=1).episodes, rows.episodes)
    assert len(Rows(dataset, 1 << 30, 500 * 12, seed=0).row) == len(rows.row)  # 12 bytes of observation a row
    assert len(Rows(dataset, 1, 1, seed=0).episodes) == 1
    for k, begin, end in zip(rows.episodes, rows.begin, rows.end, strict=True):
        assert rows.row[begin : end + 1].tolist() == list(range(dataset.starts[k], dataset.starts[k + 1]))
    result = audit(dataset, max_rows=500)
    assert result.figures["episodes"] == 80  # lengths and returns are of all
    assert f"a sample: {len(rows.episodes)} of 80 episodes" in result.figures["read"]
    assert "a sample" not in audit(dataset).figures["read"]


def test_a_subset_is_looked_at_alone(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", sound())
    dataset = EpisodeDataset.open(folder)
    written_over("reward", 4, np.nan)(dataset)
    assert not audit(EpisodeDataset.open(folder)).sound
    assert audit(EpisodeDataset.open(folder).subset(np.arange(20, 60))).sound


@pytest.mark.parametrize("change", [nothing, joined_pairs, states(0.3), masked])
def test_blocks_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Golden: read row by row or all at once, the findings and the figures are the same."""
    # Breaks when a block does not begin with the last row of the one before, or counts that row twice.
    changed = change(sound())
    episodes, *spaces = changed if isinstance(changed, tuple) else (changed,)
    dataset = EpisodeDataset.open(write(tmp_path / "data", episodes, *spaces))
    whole = audit(dataset).as_dict()
    for size in (1, 7 * 24):
        monkeypatch.setattr(reading_module, "BLOCK_BYTES", size)
        assert audit(dataset).as_dict() == whole


def test_hashes() -> None:
    """Equal rows and columns have equal hashes, and others differ: in a value, in order, and in place."""
    random = np.random.default_rng(0)
    values = random.integers(0, 3, (2000, 4)).astype(np.float32)
    rows = row_hashes(values)
    assert len(set(rows.tolist())) == len({tuple(row) for row in values.tolist()})
    assert (row_hashes(-0.0 * values) == row_hashes(0.0 * values)).all()
    columns = column_hashes(values[:, [0, 1, 0]], np.arange(2000))
    assert columns[0] == columns[2] != columns[1]
    assert column_hashes(values[::-1, :1], np.arange(2000)) != columns[0]
    parts = [column_hashes(values[part, :1], np.arange(2000)[part]) for part in (slice(700), slice(700, None))]
    assert parts[0] + parts[1] == columns[0]


def test_what_stands_apart() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    assert _far_and_often(values) == []
    assert _far_and_often(np.append(values, 1e6)) == []  # once: an outlier
    assert _far_and_often(np.append(values, [1e6] * 5)) == [1e6]
    assert _far_and_often(np.array([0.0] * 100 + [1.0] * 5)) == []  # rewards that are rare
    assert _far_and_often(np.full(5, np.nan)) == []


def test_images(tmp_path: Path) -> None:
    """Bytes [H, W, C], of which some pixels never change."""
    random = np.random.default_rng(0)
    space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    episodes = []
    for episode in sound():
        frames = random.integers(0, 256, (len(episode.observation), 8, 8, 3), dtype=np.uint8)
        frames[:, 0] = 7
        episodes.append(episode._replace(observation=frames))
    result = audit(EpisodeDataset.open(write(tmp_path / "data", episodes, space)))
    assert found(result) == {"constant": "look"}
    message = next(finding.message for finding in result.findings if finding.kind == "constant")
    assert message.startswith("24 of 192 never change: observation[0,0,0], observation[0,0,1]")


def test_the_table_fits_a_screen(tmp_path: Path) -> None:
    result = audit(EpisodeDataset.open(write(tmp_path / "data", sound())))
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(result.table())
    text = console.export_text()
    assert len(text.splitlines()) < 30
    assert "Sound-v0 size=3" in text
    assert "observation[0]" in text  # not taken for markup
