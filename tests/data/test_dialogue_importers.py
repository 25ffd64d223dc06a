"""Dialogues of other programs, on lines written here in their forms."""

import json
from pathlib import Path
from typing import Any

import pytest

from seqrl.cli import main
from seqrl.data.dialogue_importers import form_of, from_casino, from_deal_or_no_deal, from_messages, import_dialogues
from seqrl.data.dialogues import Dialogue, Turn, read_dialogues, write_dialogues
from seqrl.errors import UserError

CASINO = Path(__file__).parents[3] / "shared" / "data" / "casino" / "casino_valid.json"


def person(high: str, medium: str, low: str, points: int) -> dict[str, Any]:
    return {
        "value2issue": {"High": high, "Medium": medium, "Low": low},
        "value2reason": {"High": f"I like {high}", "Medium": "", "Low": "so so"},
        "outcomes": {"points_scored": points, "satisfaction": "Undecided", "opponent_likeness": "Slightly like"},
    }


def casino(last: str = "Accept-Deal") -> list[dict[str, Any]]:
    shares = {"Firewood": "2", "Food": "1", "Water": "0"}
    rest = {"Firewood": "1", "Food": "2", "Water": "3"}
    return [
        {
            "dialogue_id": 7,
            "chat_logs": [
                {"text": "Hello", "task_data": {}, "id": "a"},
                {"text": "I need water", "task_data": {}, "id": "b"},
                {"text": "Submit-Deal", "task_data": {"issue2youget": shares, "issue2theyget": rest}, "id": "a"},
                {"text": last, "task_data": {"data": "x"}, "id": "b"},
            ],
            "participant_info": {
                "a": person("Firewood", "Food", "Water", 14),
                "b": person("Water", "Food", "Firewood", 26),
            },
            "annotations": [],
        }
    ]


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def said(dialogue: Dialogue) -> list[tuple[str, str]]:
    return [(turn.speaker, turn.text) for turn in dialogue.turns]


def test_casino(tmp_path: Path) -> None:
    """Golden: with `mine[0]` for `mine[-1]` in `_reward_last`, the points come before they are earned."""
    first, second = from_casino(written(tmp_path / "casino.json", casino()))
    assert said(first) == [("a", "Hello"), ("b", "I need water"), ("a", "Submit-Deal Firewood=2 Food=1 Water=0"),
                           ("b", "Accept-Deal")]  # fmt: skip
    assert said(first) == said(second)
    assert (first.id, first.agent, second.id, second.agent) == ("casino-7-a", "a", "casino-7-b", "b")
    assert [turn.reward for turn in first.turns] == [0.0, None, 14.0, None]
    assert [turn.reward for turn in second.turns] == [None, 0.0, None, 26.0]
    assert first.outcome["agreement"] is True
    assert (first.outcome["points"], first.outcome["partner_points"]) == (14, 26)
    assert (second.outcome["points"], second.outcome["partner_points"]) == (26, 14)
    assert first.meta["dialogue"] == second.meta["dialogue"] == "7"
    assert (first.meta["high"], first.meta["partner_high"]) == ("Firewood", "Water")
    assert "partner_high_reason" not in first.meta


def test_casino_without_agreement(tmp_path: Path) -> None:
    first, _ = from_casino(written(tmp_path / "casino.json", casino("Walk-Away")))
    assert first.outcome["agreement"] is False


def test_damaged_casino(tmp_path: Path) -> None:
    path = tmp_path / "casino.json"
    cases: list[tuple[Any, str]] = [
        ({}, "is no list of dialogues"),
        ("[{]", "is damaged JSON"),
        ([{}], "dialogue 0 has no 'participant_info' as CaSiNo's have"),
        ([casino()[0] | {"participant_info": {"a": {}}}], "dialogue 0 has 1 participants"),
        ([casino()[0] | {"chat_logs": [{"text": "hi"}]}], r"dialogue 0, chat_logs[0] has no 'id'"),
        ([casino()[0] | {"chat_logs": []}], "turns is empty"),
    ]
    for reasons in (None, ["x"]):
        silent = casino()
        silent[0]["participant_info"]["b"]["value2reason"] = reasons
        cases.append((silent, "dialogue 0, b has no 'value2reason' as CaSiNo's have"))
    wrong = casino()
    wrong[0]["chat_logs"][2]["task_data"]["issue2youget"]["Food"] = "3"
    cases.append((wrong, "chat_logs[2] does not share out the 3 packages of Food"))
    for content, message in cases:
        written(path, content)
        with pytest.raises(UserError) as error:
            list(from_casino(path))
        assert message in str(error.value)
        assert str(path) in str(error.value)


@pytest.mark.skipif(not CASINO.exists(), reason="needs ../shared/data/casino, which is not part of the project")
def test_real_casino(tmp_path: Path) -> None:
    """All points are those of the deal that is parsed from the text: nothing of it was lost."""
    write_dialogues(tmp_path / "valid.jsonl", from_casino(CASINO))
    dialogues = list(read_dialogues(tmp_path / "valid.jsonl"))
    assert len(dialogues) == 60
    for dialogue in dialogues:
        deal = next(turn for turn in reversed(dialogue.turns) if turn.text.startswith("Submit-Deal "))
        shares = {issue: int(count) for issue, _, count in (word.partition("=") for word in deal.text.split()[1:])}
        mine = shares if deal.speaker == dialogue.agent else {issue: 3 - count for issue, count in shares.items()}
        worth = {"high": 5, "medium": 4, "low": 3}
        assert sum(worth[level] * mine[str(dialogue.meta[level])] for level in worth) == dialogue.outcome["points"]


DEAL = (
    "<input> 3 1 1 4 2 1 </input> <dialogue> YOU: the hat is mine : ok ? <eos> THEM: deal <eos> YOU: <selection> "
    "</dialogue> <output> item0=1 item1=1 item2=0 item0=2 item1=0 item2=2 </output> "
    "<partner_input> 3 2 1 0 2 3 </partner_input>"
)
ITEMS = "item0=1 item1=1 item2=0 item0=2 item1=0 item2=2"


def test_deal_or_no_deal(tmp_path: Path) -> None:
    """Golden: points with the partner's values for our shares would be 2, not 1 · 1 + 1 · 4."""
    path = written(tmp_path / "val.txt", DEAL, DEAL.replace(ITEMS, " ".join(["<disagree>"] * 6)))
    deal, failed = from_deal_or_no_deal(path)
    assert deal.id == "val-1"
    assert said(deal) == [("YOU", "the hat is mine : ok ?"), ("THEM", "deal"), ("YOU", "<selection>")]
    assert [turn.reward for turn in deal.turns] == [0.0, None, 5.0]
    assert deal.outcome == {
        "agreement": True, "points": 5, "partner_points": 10, "books": 1, "hats": 1, "balls": 0
    }  # fmt: skip
    assert (deal.meta["book_count"], deal.meta["hat_value"], deal.meta["partner_ball_value"]) == (3, 4, 3)
    assert failed.outcome == {"agreement": False, "points": 0, "partner_points": 0, "failure": "disagree"}
    assert [turn.reward for turn in failed.turns] == [0.0, None, 0.0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (DEAL, "hello", "is not of Deal or No Deal's form"),
        ("3 1 1 4 2 1", "3 1 1 4 2", "has '3 1 1 4 2' where count and value"),
        ("3 1 1 4 2 1", "3 1 1 4 2 x", "has '3 1 1 4 2 x' where"),
        ("3 2 1 0 2 3", "3 2 1 0 1 3", "has other counts in <partner_input>"),
        ("THEM: deal", "\x1b[2Jdeal", r"has the turn '\x1b[2Jdeal': begin turns with YOU: or THEM:"),
        ("item2=0 item0=2", "item2=0 item1=2", "has the output"),
        ("item0=2", "item0=3", "shares out 1 + 3 of 3 books"),
    ],
)
def test_damaged_deals(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = written(tmp_path / "val.txt", DEAL, DEAL.replace(old, new))
    with pytest.raises(UserError) as error:
        list(from_deal_or_no_deal(path))
    assert str(error.value).startswith(f"{path}, line 2 {message}")


USER, BOT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
BAD = {"role": "assistant", "content": "Go away"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [USER, BOT]}, [[("user", "Hi", None), ("assistant", "Hello", None)]]),
        ({"prompt": "Hi", "completion": " Hello"}, [[("user", "Hi", None), ("assistant", " Hello", None)]]),
        ({"prompt": [USER], "completion": [BOT], "label": False},
         [[("user", "Hi", None), ("assistant", "Hello", -1)]]),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
         [[("user", "Hi", None), ("assistant", "Hello", 1)], [("user", "Hi", None), ("assistant", "Go away", -1)]]),
        ({"chosen": [USER, BOT], "rejected": [USER, BAD]},
         [[("user", "Hi", None), ("assistant", "Hello", 1)], [("user", "Hi", None), ("assistant", "Go away", -1)]]),
        ({"prompt": "Hi", "chosen": [USER, BOT], "rejected": [USER, BAD]},
         [[("user", "Hi", None), ("assistant", "Hello", 1)], [("user", "Hi", None), ("assistant", "Go away", -1)]]),
    ],
)  # fmt: skip
def test_messages(tmp_path: Path, row: dict[str, Any], expected: list[list[tuple[str, str, int | None]]]) -> None:
    """Golden: without `_after`, the prompt of the last is said twice."""
    path = written(tmp_path / "chat.jsonl", row | {"source": "web", "score": 1.5, "tools": None})
    dialogues = list(from_messages(path))
    assert [[(turn.speaker, turn.text, turn.thumbs) for turn in d.turns] for d in dialogues] == expected
    names = ["chat-1-chosen", "chat-1-rejected"] if "chosen" in row else ["chat-1"]
    assert [dialogue.id for dialogue in dialogues] == names
    for dialogue in dialogues:
        assert dialogue.agent == "assistant"
        assert dialogue.outcome == {}
        assert {"source": "web", "score": 1.5}.items() <= dialogue.meta.items()
        assert dialogue.meta.get("pair") == ("chat-1" if "chosen" in row else None)


def test_other_agents_and_ids(tmp_path: Path) -> None:
    row = {"id": 12, "messages": [{"role": "customer", "content": "Hi"}, {"role": "shop", "content": "<b>Yes</b>"}]}
    assert list(from_messages(written(tmp_path / "chat.jsonl", row), agent="shop")) == [
        Dialogue(id="12", agent="shop", turns=(Turn(speaker="customer", text="Hi"),
                                              Turn(speaker="shop", text="<b>Yes</b>")))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], " is no object"),
        ("{", " is damaged JSON"),
        ({"mesages": []}, " has no text: give messages"),
        ({"messages": [BOT], "chosen": "a", "rejected": "b"}, " has chosen and messages and rejected: give"),
        ({"prompt": "a"}, " has prompt: give"),
        ({"messages": [BOT], "lable": True}, " has the column 'lable': did you mean 'label'?"),
        ({"messages": [BOT], "label": True}, " has the column 'label', which is a thumb on a completion: rename it"),
        (
            {"chosen": [BOT], "rejected": [BAD], "pair": 7},
            " has the column 'pair', which is made of chosen and rejected",
        ),
        ({"messages": [BOT], "images": []}, ": column 'images' holds a list or an object"),
        ({"messages": [BOT], "id": []}, ": id is neither"),
        ({"messages": 3}, ": messages is neither a string nor a list"),
        ({"messages": ["a"]}, ": messages[0] is no message"),
        ({"messages": [BOT | {"tool_calls": [1]}]}, ": messages[0] has 'tool_calls' besides"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, ": messages[0] has a role or content"),
        ({"messages": []}, ": turns is empty"),
        ({"prompt": "a", "completion": "b", "label": 1}, ": label is neither true nor false"),
        ({"prompt": "a", "completion": [USER], "label": True}, ": completion: nothing is said by 'assistant'"),
    ],
)
def test_damaged_messages(tmp_path: Path, row: Any, message: str) -> None:
    path = written(tmp_path / "chat.jsonl", {"messages": [USER, BOT]}, row)
    with pytest.raises(UserError) as error:
        list(from_messages(path))
    assert str(error.value).startswith(f"{path}, line 2{message}")


def test_forms(tmp_path: Path) -> None:
    assert form_of(written(tmp_path / "a.json", [])) == "casino"
    assert form_of(written(tmp_path / "a.txt", "")) == "deal"
    assert form_of(written(tmp_path / "a.jsonl", "", {"prompt": "a"})) == "messages"
    assert form_of(written(tmp_path / "a.jsonl", {"turns": []})) == "seqrl"
    for other in ({"observations": []}, [], "{", ""):
        assert form_of(written(tmp_path / "a.jsonl", other)) is None
    assert form_of(written(tmp_path / "a.csv", "prompt")) is None
    assert form_of(tmp_path / "nowhere.json") is None
    assert form_of(tmp_path) is None


def test_refused_imports(tmp_path: Path) -> None:
    chat = written(tmp_path / "chat.jsonl", {"messages": [USER, BOT]})
    own = written(tmp_path / "own.jsonl", {"turns": []})
    for source, path, message in (
        (tmp_path / "nowhere.jsonl", "x", "holds no dialogues of a known form"),
        (own, "x", "is in seqrl's own form already"),
        (chat, chat, "exists already"),
        (chat, chat / "x", "cannot write"),
    ):
        with pytest.raises(UserError, match=message):
            import_dialogues(source, path)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "chat.jsonl", {"messages": [USER, BOT]})
    written(tmp_path / "casino.json", casino())
    assert main(["import", "chat.jsonl"]) == 0
    assert "datasets/chat.jsonl: 1 dialogues" in capsys.readouterr().out
    assert main(["import", "chat.jsonl"]) == 0
    # Breaks when the number stands behind the suffix, by which other commands know what a file holds.
    assert [form_of(path) for path in (tmp_path / "datasets").iterdir()] == ["seqrl", "seqrl"]
    assert main(["import", "casino.json", "--output", "out.jsonl"]) == 0
    assert [dialogue.agent for dialogue in read_dialogues("out.jsonl")] == ["a", "b"]
    for words, message in (
        (["casino.json", "--output", "out.jsonl"], "out.jsonl exists already"),
        (["casino.json", "--dataset-dir", "x"], "--dataset-dir is for episodes"),
        (["casino.json", "--env", "x"], "--env is for episodes"),
        (["casino.json", "--unfinished", "drop"], "--unfinished is for episodes"),
        (["nowhere.npz", "--output", "x"], "--output is for dialogues"),
    ):
        assert main(["import", *words]) == 2
        assert message in capsys.readouterr().err
