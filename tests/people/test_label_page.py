"""The labelling page: everything escaped, a press counts for the question that it was made at."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from test_chat_page import EVIL, Tags, forgotten_loops  # noqa: F401

from seqrl.data.dialogues import Turn
from seqrl.data.preferences import AGENT, USER, read_preferences
from seqrl.people.labelling import Question, Session


@pytest.fixture(scope="module")
def page() -> ModuleType:
    """The module, imported here alone: Gradio takes seconds."""
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'seqrl[chat]'")
    import seqrl.people.label_page

    return seqrl.people.label_page


class Asked:
    """Questions about what nobody should interpret."""

    count = 3

    def id_of(self, number: int) -> str:
        return f"q-{number}"

    def among(self, wanted: Callable[[str], bool]) -> Iterator[Question]:
        for number in range(self.count):
            if wanted(f"q-{number}"):
                said = [(Turn(speaker=AGENT, text=f"{text}{number}"),) for text in EVIL[:2]]
                prompt = tuple(Turn(speaker=USER, text=text) for text in EVIL)
                yield Question(id=f"q-{number}", prompt=prompt, answers=(said[0], said[1]))


# Must break: `turn.text` without `escaped` in conversation_html.
def test_no_text_becomes_markup(page: ModuleType, tmp_path: Path) -> None:
    with Session(tmp_path / "p.jsonl", Asked(), EVIL[0]) as session:
        shown = page.LabelPage(session).show()
    seen = Tags("".join(shown[:5]))
    assert seen.tags <= {"div", "b", "br", "i", "p"}
    assert seen.attributes <= {"class"}
    assert not set("".join(shown[:3])) & set("${}\x1b\u202e")
    for text in EVIL[:9]:
        assert text in seen.text


# Must break: `_do` without a look at the question's id.
def test_a_press_counts_for_its_question_alone(page: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with Session(path, Asked(), "ada") as session:
        buttons = page.LabelPage(session)
        assert buttons.show()[-1] == "q-0"
        assert session.asked is not None
        first = session.asked.first
        assert buttons.choose_first("q-0")[-1] == "q-1"
        assert buttons.choose_first("q-0")[-1] == "q-1"  # pressed twice, or in a second tab
        assert [each.chosen for each in read_preferences(path)] == [first]
        assert buttons.skip("q-1")[-1] == "q-2"
        second = session.asked.second
        *shown, last = buttons.choose_second("q-2")
        assert last == ""
        assert "Nothing is left" in shown[0]
        assert "2 of 3 chosen, 1 skipped" in shown[3]
        assert buttons.choose_first("")[-1] == ""
    assert [each.chosen for each in read_preferences(path)] == [first, second]


def test_the_page_is_made(page: ModuleType, tmp_path: Path) -> None:
    with Session(tmp_path / "p.jsonl", Asked(), "ada") as session:
        assert page.make_app(page.LabelPage(session), "a run", 1).hosts == {b"127.0.0.1:1", b"localhost:1"}
