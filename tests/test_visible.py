"""What cannot be seen is an escape, in the terminal and on pages alike."""

import pytest

from seqrl.cli import main
from seqrl.data.dialogues import shown
from seqrl.pages.html import element, plain
from seqrl.visible import visible

HIDDEN = {
    "control": "\x1b", "end of line": "\n", "turns the direction": "\u202e", "joiner": "\u200d", "surrogate": "\ud800",
    "other space": "\xa0", "filler": "\u3164", "variation selector": "\ufe0f", "tag": "\U000e0041", "Braille": "\u2800",
    "unassigned": "\u0378",
}  # fmt: skip


@pytest.mark.parametrize("char", HIDDEN.values(), ids=list(HIDDEN))
def test_what_cannot_be_seen(char: str) -> None:
    assert visible(f"a{char}b", keep="c") == f"a{char.encode('unicode_escape').decode()}b"
    assert visible(f"a{char}b", keep=char) == f"a{char}b"
    assert shown(f"a{char}b") == visible(f"a{char}b")


# Broken by two opinions of what can be seen: fillers and variation selectors were nothing on pages and in messages.
@pytest.mark.parametrize("char", [HIDDEN[name] for name in ("filler", "variation selector", "tag", "Braille")])
def test_pages_and_messages_show_what_the_terminal_shows(char: str, capsys: pytest.CaptureFixture[str]) -> None:
    escape = char.encode("unicode_escape").decode()
    assert escape in element("p", f"a{char}b", title=char)
    assert plain({char: char}) == {escape: escape}
    assert main([f"tr{char}ain"]) == 2
    assert f"tr{escape}ain" in capsys.readouterr().err


def test_what_can_be_seen_stays() -> None:
    text = "Grüße, שלום, 注文, 😡 ✓ \\u202e <b>"
    assert visible(text) == text
    assert shown(text) == text.replace("\\", "\\\\")


# Break: no `_makes_an_emoji`, or one that looks at no neighbour: bytes can be hidden in what cannot be seen.
def test_an_emoji_of_several_characters_stays_one():
    for emoji in (
        "\u2764\ufe0f",
        "\U0001f469\u200d\U0001f4bb",
        "\U0001f468\U0001f3fd\u200d\U0001f4bb",
        "\U0001f3f3\ufe0f\u200d\U0001f308",
    ):
        assert visible(f"thanks {emoji}!") == shown(f"thanks {emoji}!") == f"thanks {emoji}!"
    assert visible("a\ufe0f") == r"a\ufe0f"
    assert visible("\u2764\ufe0f\ufe0f\u200d") == "\u2764\ufe0f\\ufe0f\\u200d"
    assert visible("a\u200d\u2764") == "a\\u200d\u2764"
    assert visible("\ufe0f=\ufe0f") == r"\ufe0f=\ufe0f"
