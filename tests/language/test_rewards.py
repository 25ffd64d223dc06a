"""Rewards made of logs: by hand on one dialogue, as a command, and on logs of agents that insult."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from seqrl.audit import audit_dialogues
from seqrl.cli.rewarding import reward as command
from seqrl.data.dialogue_importers import from_casino
from seqrl.data.dialogues import Dialogue, Turn, read_dialogues, write_dialogues
from seqrl.errors import UserError
from seqrl.language.rewards import REWARDS, combined, toxicity, with_rewards
from seqrl.language.rows import token_turns
from seqrl.language.toxic_logs import MILD, flagged_share, toxic_logs
from seqrl.language.word_list import WordList
from seqrl.text import Negotiation, Tokenizer

CASINO = Path(__file__).parents[2] / ".." / "shared" / "data" / "casino" / "casino_valid.json"

DIALOGUE = Dialogue(
    id="one",
    agent="bot",
    turns=(
        Turn(speaker="person", text="What an awful, horrible day."),  # before the agent's first turn: answers nothing
        Turn(speaker="bot", text="You blorp, buy this", reward=1.5, thumbs=-1, clicks=2),
        Turn(speaker="person", text="That is terrible."),
        Turn(speaker="person", text="I hate it."),
        Turn(speaker="bot", text="Sorry"),
        Turn(speaker="bot", text="Half of it, then", thumbs=1, reward=0.5),
        Turn(speaker="person", text="Great, wonderful, thank you!"),
    ),
    outcome={"agreement": True, "points": 7, "satisfaction": " Slightly satisfied"},
)
BY_HAND = {
    "logged": [1.5, 0, 0.5], "points": [0, 0, 7], "agreement": [0, 0, 1], "satisfaction": [0, 0, 4],
    "thumbs": [-1, 0, 1], "clicks": [2, 0, 0], "length": [4, 1, 4], "turns": [1, 1, 1],
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    # Broken by points on the first of the agent's turns, or on the last turn of all.
    assert REWARDS[name](DIALOGUE) == BY_HAND[name]
    assert set(BY_HAND) == set(REWARDS) - {"sentiment", "own_sentiment"}


def test_feedback_on_an_answer_is_the_agents_turns_before():
    # Broken by feedback of the agent's own turns alone, or of all answers for the last of its turns.
    turns = list(DIALOGUE.turns)
    turns[2], turns[3] = replace(turns[2], thumbs=-1, clicks=1), replace(turns[3], clicks=3)
    turns[6] = replace(turns[6], thumbs=1)
    rated = replace(DIALOGUE, turns=tuple(turns))
    assert REWARDS["thumbs"](rated) == [-2, 0, 2]
    assert REWARDS["clicks"](rated) == [6, 0, 0]
    early = replace(DIALOGUE, turns=(replace(turns[0], thumbs=1, clicks=0), *turns[1:]))
    for name in ("thumbs", "clicks"):
        with pytest.raises(UserError, match=rf"dialogue one: turns\[0\] has {name}, but the agent \(bot\) has said"):
            REWARDS[name](early)


def test_logged_rewards_of_others_are_refused_as_training_does():
    # Broken by leaving them out.
    theirs = replace(DIALOGUE, turns=(*DIALOGUE.turns, Turn(speaker="person", text="", reward=0.0)))
    with pytest.raises(UserError) as training:
        token_turns(theirs, Tokenizer(byte_fallback=True))
    with pytest.raises(UserError) as logged:
        REWARDS["logged"](theirs)
    assert str(logged.value) == str(training.value)


def test_sentiment_is_the_answers():
    # Broken by crediting what was said before the agent's turn, or the next turn alone.
    pytest.importorskip("vaderSentiment", reason="needs seqrl[language]")
    first, second, third = REWARDS["sentiment"](DIALOGUE)
    assert -1 <= first < -0.6  # both of the person's turns
    assert second == 0.0  # nobody answered before the agent went on
    assert 0.6 < third <= 1
    swapped = replace(DIALOGUE, turns=DIALOGUE.turns[:-1])
    assert REWARDS["sentiment"](swapped)[2] == 0.0


def test_own_sentiment_is_the_agents_own_turns():
    # Broken by the answers' sentiment.
    pytest.importorskip("vaderSentiment", reason="needs seqrl[language]")
    friendly = replace(DIALOGUE, turns=(*DIALOGUE.turns, Turn(speaker="bot", text="Great, I love it!")))
    assert [score > 0.5 for score in REWARDS["own_sentiment"](friendly)] == [False, False, False, True]


def test_toxicity_by_words_or_by_a_classifier():
    assert toxicity(WordList(["blorp"]))(DIALOGUE) == [1, 0, 0]
    assert toxicity(lambda text: len(text) / 100)(DIALOGUE) == [0.19, 0.05, 0.16]


def test_weights_add_up():
    chosen = combined({"points": 1.0, "toxicity": -5.0, "turns": -0.5}, judge=WordList(["blorp"]))
    assert chosen(DIALOGUE) == [-5.5, -0.5, 6.5]
    own = combined({"points": 2, "last": 1}, own={"last": lambda dialogue: [0.0, 0.0, 1.0]})
    assert own(DIALOGUE) == [0.0, 0.0, 15.0]
    result = with_rewards(
        replace(DIALOGUE, turns=(*DIALOGUE.turns, Turn(speaker="person", text="", reward=3.0))), chosen
    )
    assert [turn.reward for turn in result.turns] == [None, -5.5, None, None, -0.5, 6.5, None, None]
    assert result.turns[1].thumbs == -1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "no reward is named"),
        ({"point": 1.0}, "unknown reward 'point': did you mean 'points'"),
        ({"toxicity": -1.0}, "toxicity needs a list of words or a classifier"),
        ({"points": float("nan")}, "the weight of points is nan"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(UserError, match=message):
        combined(weights)


@pytest.mark.parametrize("name", ["points", "agreement", "satisfaction"])
def test_missing_outcomes(name):
    bare = replace(DIALOGUE, outcome={"score": 3, "satisfaction": "so so"})
    with pytest.raises(UserError, match=rf"dialogue one: outcome.{name} is "):
        REWARDS[name](bare)
    with pytest.raises(UserError, match=r"give a number|has nothing"):
        REWARDS[name](replace(DIALOGUE, outcome={"satisfaction": "so so"} if name == "satisfaction" else {}))
    silent = replace(DIALOGUE, agent="nobody")
    assert REWARDS[name](silent) == []


def test_casinos_points_are_its_rewards():
    if not CASINO.exists():
        pytest.skip("needs CaSiNo's validation split in ../shared/data/casino")
    for dialogue in from_casino(CASINO):
        assert REWARDS["points"](dialogue) == REWARDS["logged"](dialogue)
        assert REWARDS["satisfaction"](dialogue)[-1] in (1, 2, 3, 4, 5)


def test_command_writes_a_log_and_never_over_another(tmp_path, capsys):
    log, words, output = tmp_path / "log.jsonl", tmp_path / "words.txt", tmp_path / "new.jsonl"
    write_dialogues(log, [DIALOGUE, replace(DIALOGUE, id="two")])
    words.write_text("blorp\n")
    flags = ["--points", "1", "--toxicity", "-5", "--words", str(words), "--output", str(output)]
    assert command([str(log), *flags]) == 0
    assert "2 dialogues, returns 2 to 2, mean 2" in capsys.readouterr().out
    assert [turn.reward for turn in next(read_dialogues(output)).turns] == [None, -5.0, None, None, 0.0, 7.0, None]
    with pytest.raises(UserError, match="exists already"):
        command([str(log), *flags])
    flags[-1] = str(tmp_path / "other.jsonl")
    for bad, message in [
        ([], "needs a log"),
        ([str(log), "--points", "1"], "Give --output"),
        ([str(log), "--output", flags[-1]], "no reward is weighed"),
        ([str(log), *flags[2:4], *flags[6:]], "toxicity needs a list of words"),
        ([str(log), *flags[:2], *flags[4:]], "--words is for --toxicity"),
        ([str(log), "--clicks", "much", *flags[6:]], "--clicks"),
        ([str(tmp_path / "none"), *flags], "cannot read"),
    ]:
        with pytest.raises(UserError, match=message):
            command(bad)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines[1]["outcome"] = {}
    log.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match=r"dialogue two: outcome\.points"):
        command([str(log), *flags])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "new.jsonl", "words.txt"]


def test_any_outcome_weighed_by_command(tmp_path, capsys):
    """Breaks if meta is not looked at, or a dialogue that lacks one of two outcomes is kept, or counted."""
    log, output = tmp_path / "log.jsonl", tmp_path / "new.jsonl"
    solved = replace(DIALOGUE, outcome={"csat": 4, "note": "kind"}, meta={"resolved": True, "csat": 1})
    silent = replace(DIALOGUE, id="two", meta={"resolved": False})
    write_dialogues(log, [solved, silent, replace(DIALOGUE, id="three")])
    weights = ["--outcome", "resolved=5", "csat=0.5", "--turns", "-1"]
    with pytest.raises(UserError, match=r"dialogue two: csat is no number .*; --skip-unknown leaves"):
        command([str(log), *weights, "--output", str(output)])
    assert command([str(log), *weights, "--skip-unknown", "--output", str(output)]) == 0
    assert f"{output}: 1 dialogues (2 left out), returns 4 to 4" in capsys.readouterr().out
    (kept,) = read_dialogues(output)
    assert [turn.reward for turn in kept.turns] == [None, -1.0, None, None, -1.0, 6.0, None]
    other = ["--output", str(tmp_path / "other.jsonl")]
    for bad, message in [
        (
            ["--outcome", "resolve", "--skip-unknown"],
            r"leave no dialogue: dialogue one: resolve is no number .*have.* resolved",
        ),
        (["--outcome", "note=1"], r"one: note is no number \(outcome and meta have .*\): leave note out"),
        (["--outcome", "csat=high"], "--outcome 'csat=high' is not NAME=WEIGHT"),
    ]:
        with pytest.raises(UserError, match=message):
            command([str(log), *bad, *other])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "new.jsonl"]


def test_toxic_logs(tmp_path):
    task = Negotiation("conceder")
    dialogues = list(toxic_logs(task, 150, insults=0.4, penalty=5.0))
    assert 0.34 < flagged_share(dialogues) < 0.46
    assert dialogues == list(toxic_logs(task, 150, insults=0.4, penalty=5.0))
    assert dialogues[7:9] != list(toxic_logs(task, 9, insults=0.4, penalty=5.0, seed=1))[7:9]
    assert flagged_share(list(toxic_logs(task, 60, insults=0.0))) == 0.0
    assert {dialogue.meta["style"] for dialogue in dialogues} == {"good", "mediocre", "bad"}
    for dialogue in dialogues:
        insults = sum(MILD.flags(turn.text) for turn in dialogue.turns if turn.speaker == "agent")
        returns = sum(turn.reward or 0.0 for turn in dialogue.turns)
        assert returns == dialogue.outcome["points"] - 5 * insults
    write_dialogues(tmp_path / "log.jsonl", toxic_logs(task, 60))
    assert audit_dialogues(tmp_path / "log.jsonl").sound
    with pytest.raises(UserError, match="insults is 2"):
        next(toxic_logs(task, 1, insults=2))
