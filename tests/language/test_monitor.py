"""What the monitor measures, when it warns, and that a checkpoint keeps it."""

import math
from typing import Any

import pytest

from seqrl.checkpoint import from_bytes, to_bytes
from seqrl.errors import UserError
from seqrl.language.monitor import Monitor, distinct, identical, mean_length, repetition
from seqrl.language.play import Played
from seqrl.language.rows import TokenTurn
from seqrl.text import Dialogue


def conversation(*turns: tuple[int, ...]) -> Played:
    said = [TokenTurn(agent=True, ids=ids) for ids in turns]
    other = TokenTurn(agent=False, ids=(9,) * 99)  # what the other says is not measured
    texts = ("",) + ("a", "b") * len(turns)
    dialogue = Dialogue(texts=texts, rewards=(0.0,) * len(turns))
    return Played(dialogue=dialogue, turns=(other, *said))


VARIED = [conversation(tuple(range(8 * i, 8 * i + 8))) for i in range(6)]
LONG = [conversation(tuple(range(40 * i, 40 * i + 40))) for i in range(6)]
SAME = [conversation(tuple(range(8)))] * 6
LOOPING = [conversation((i, i + 1) * 4) for i in range(0, 12, 2)]


def test_measures_by_hand() -> None:
    turns = [(1, 2, 3, 1, 2, 3), (1, 2), (1, 2)]
    assert mean_length(turns) == pytest.approx(10 / 3)
    assert repetition(turns, 3) == pytest.approx(1 / 4)  # 123 231 312 123; the others have no 3-gram
    assert distinct(turns, 2) == pytest.approx(3 / 7)  # 12 23 31 12 23, 12, 12
    assert identical(turns) == pytest.approx(1 / 3)
    assert (repetition([(1,)]), distinct([(1,)])) == (0.0, 1.0)


def judged(batches: list[Any], **options: Any) -> list[Any]:
    monitor = Monitor(reference_updates=2, smoothing=0.0)
    lists = {name: value for name, value in options.items() if isinstance(value, list)}
    return [
        monitor.update(batch, [[0.0]] * 6, **{name: value[i] for name, value in lists.items()})
        for i, batch in enumerate(batches)
    ]


# Broken by agent's and others' turns confused, by `first` that goes on moving, or by a limit whose sides are swapped.
@pytest.mark.parametrize(
    ("batch", "level", "words"),
    [
        (VARIED, "ok", ""),
        (LONG, "stop", "tokens of an answer: 40, 8 in the first 2 updates (5.00 ×)"),
        ([conversation((i,)) for i in range(6)], "stop", "tokens of an answer: 1, 8"),
        (SAME, "stop", "share of answers that others have given too: 0.833"),
        (LOOPING, "stop", "share of an answer that repeats itself: 0.6, 0 in"),
    ],
)
def test_what_has_changed_is_said(batch: list[Played], level: str, words: str) -> None:
    verdict = judged([VARIED, VARIED, batch])[-1]
    assert (verdict.level, words in verdict.line) == (level, True), verdict
    assert "\n" not in verdict.line


# Broken by `now / first` turned round, or by the level taken from the measure of one update alone.
def test_entropy_disagreement_and_smoothing() -> None:
    verdicts = judged([VARIED] * 5, entropy=[2.0, 2.0, 1.9, 0.9, 0.3])
    assert [verdict.level for verdict in verdicts] == ["ok", "ok", "ok", "warn", "stop"]
    assert "0.3, 2 in the first 2 updates (0.15 ×)" in verdicts[-1].line
    verdicts = judged([VARIED] * 4, disagreement=[[[0.1]] * 6, [[0.1]] * 6, [[0.2]] * 6, [[0.4]] * 6])
    assert [verdict.level for verdict in verdicts] == ["ok", "ok", "warn", "stop"]
    slow = Monitor(reference_updates=1, smoothing=0.5)
    levels = [slow.update(VARIED, [[0.0]] * 6, entropy=entropy).level for entropy in (2.0, 0.1, 0.1, 0.1, 0.1)]
    assert levels == ["ok", "ok", "warn", "stop", "stop"]  # means 2, 1.05, 0.575, 0.3375, 0.21875
    assert slow.now["entropy"] == pytest.approx(0.21875)


def gold(monitor: Monitor, reward: float, mean: float) -> Any:
    return monitor.update(VARIED, [[reward]] * 6, gold=[[mean - 1.0], [mean + 1.0]] * 3)


# Broken by a fall of gold that counts while the reward falls too, or that is not taken from the best.
def test_gold_against_proxy() -> None:
    monitor = Monitor(reference_updates=1, smoothing=0.0)
    levels = [gold(monitor, *pair).level for pair in ((0, 0), (1, 1), (2, 0.7), (3, 0.4), (4, -0.1), (0, -5))]
    assert levels == ["ok", "ok", "ok", "warn", "stop", "ok"]
    assert gold(monitor, 9, -0.5).measures["gold_lost"] == pytest.approx(1.5)  # in spreads of 1


def test_what_is_no_number_stops() -> None:
    verdict = Monitor().update(VARIED, [[math.nan]] * 6)
    assert (verdict.level, verdict.line[:13]) == ("stop", "reward is nan")


# Broken by any of the tables left out of `state_dict`.
def test_interrupted_equals_uninterrupted() -> None:
    whole, parts = Monitor(reference_updates=2), Monitor(reference_updates=2)
    for number in range(6):
        tree, _ = from_bytes(to_bytes(parts.state_dict(), {}))
        parts = Monitor(reference_updates=2)
        parts.load_state_dict(tree)
        batch, entropy = [VARIED, LOOPING, LONG][number % 3], 2.0 - number / 5
        verdicts = [
            each.update(batch, [[number]] * 6, entropy=entropy, gold=[[-number], [number % 2]] * 3)
            for each in (whole, parts)
        ]
        assert verdicts[0] == verdicts[1]


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(UserError, match="reference_updates is 0"):
        Monitor(reference_updates=0)
    with pytest.raises(UserError, match="smoothing is 1"):
        Monitor(smoothing=1.0)
