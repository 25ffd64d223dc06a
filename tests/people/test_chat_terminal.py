"""`seqrl chat` as a person meets it in the terminal."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from seqrl.algorithms import bc, ilql
from seqrl.cli import main
from seqrl.cli.chatting import rendered
from seqrl.data.dialogues import read_dialogues, write_dialogues
from seqrl.errors import UserError
from seqrl.language.rows import TokenTurn
from seqrl.language.scripted import scripted_dialogues
from seqrl.people.chat import AGENT, Chat, Said
from seqrl.text import make_task

TINY = {"num_steps": 2, "hidden_size": 8, "batch_size": 4, "warmup": 0, "max_tokens": 6}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Runs that have hardly been trained: what they say means nothing, but they say it as others do."""
    folder = tmp_path_factory.mktemp("runs")
    for task in ("twenty_questions", "wordle"):
        write_dialogues(folder / f"{task}.jsonl", scripted_dialogues(make_task(task), ["random"], 12))
        config = bc.Config(
            dialogues=str(folder / f"{task}.jsonl"), task=task, run_dir=str(folder / f"bc_{task}"), **TINY
        )
        bc.train(config)
    ilql.train(
        ilql.Config(
            dialogues=str(folder / "twenty_questions.jsonl"),
            task="twenty_questions",
            run_dir=str(folder / "ilql"),
            policy=str(folder / "bc_twenty_questions"),
            **TINY,
        )
    )
    no_task = shutil.copytree(folder / "bc_wordle", folder / "no_task")
    settings = json.loads((no_task / "config.json").read_text())
    (no_task / "config.json").write_text(json.dumps(settings | {"task": ""}))
    runs = {"bc": "bc_twenty_questions", "wordle": "bc_wordle", "ilql": "ilql", "no_task": "no_task"}
    return {name: f"{folder}/{run}" for name, run in runs.items()}


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What the person types, line by line; an exception is raised where it stands."""

    def says(*lines: str | BaseException) -> None:
        left: Iterator[str | BaseException] = iter(lines)

        def read(prompt: str = "") -> str:
            line = next(left, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)

    return says


def test_a_conversation(runs: dict[str, str], saying: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    saying("I am thinking of something.", "Yes.", "/undo", "/candidates 3", "No.", "/quit", "never read")
    assert main(["chat", runs["ilql"]]) == 0
    out = capsys.readouterr().out
    assert out.count("agent> ") == 3
    assert out.count("highest Q") == 4  # once in the first line
    assert "Q − V" in out
    assert "taken back: Yes." in out
    assert "3 candidates" in out


def test_a_run_without_values_shows_none(
    runs: dict[str, str], saying: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    saying("Yes.")
    assert main(["chat", runs["bc"]]) == 0
    out = capsys.readouterr().out
    assert "drawn first" in out
    assert "Q − V" not in out


def test_what_cannot_be_is_one_line_and_the_conversation_goes_on(
    runs: dict[str, str], saying: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    saying("", "\x1b[2J☃", "/undo", "/candidates 99", "/candidates many", "/candidate 3", "/quit now", "//x", "Yes.")
    assert main(["chat", runs["bc"]]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("  !")]
    words = [
        "nothing was said",
        "cannot read",
        "nothing of yours",
        "1 to 64",
        "is written",
        "did you mean",
        "is written",
    ]
    assert len(lines) == 8
    assert all(word in line for word, line in zip(words, lines, strict=False))
    assert "\x1b" not in out
    assert out.count("agent> ") == 1


# Must break: the model's own words alone, which name no way out of a conversation that it cannot read.
def test_a_conversation_that_became_too_long_can_go_on(
    runs: dict[str, str],
    saying: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = Chat.answer

    def short(talk: Chat) -> Said:
        if len(talk.said[-1].text) > 5:
            raise UserError("a conversation has 900 tokens, but this model reads 512")
        return answer(talk)

    monkeypatch.setattr(Chat, "answer", short)
    saying("Is it alive?", "/undo", "Yes.")
    assert main(["chat", runs["bc"]]) == 0
    out = capsys.readouterr().out
    assert "! to go on, take back what you said: /undo" in out
    assert out.count("agent> ") == 1


def test_nothing_said_is_lost_on_control_c(
    runs: dict[str, str], saying: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Must break: saving after the answer alone.
    path = tmp_path / "said.jsonl"
    saying("Yes.", "No.", KeyboardInterrupt())
    assert main(["chat", runs["bc"], "--save", str(path)]) == 130
    assert [turn.text for turn in next(read_dialogues(path)).turns[::2]] == ["Yes.", "No."]

    def interrupted(talk: Chat) -> Said:
        assert path.exists()
        raise KeyboardInterrupt

    path.unlink()
    monkeypatch.setattr(Chat, "answer", interrupted)
    saying("Yes.")
    assert main(["chat", runs["bc"], "--save", str(path)]) == 130
    assert [turn.text for turn in next(read_dialogues(path)).turns] == ["Yes."]


def test_a_saved_conversation_is_a_log_that_the_audit_reads(
    runs: dict[str, str], saying: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "said.jsonl"
    assert main(["chat", runs["ilql"], "--watch", "--save", str(path), "--candidates", "2"]) == 0
    dialogue = next(read_dialogues(path))
    assert dialogue.agent == AGENT
    assert all((turn.reward is not None) == (turn.speaker == AGENT) for turn in dialogue.turns)
    assert main(["audit", str(path), "--output", str(tmp_path / "audit.json")]) in (0, 1)
    assert json.loads((tmp_path / "audit.json").read_text())


def test_who_begins(runs: dict[str, str], saying: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    for run, flags, begins in [
        ("wordle", [], True),  # whose task opens with nothing said
        ("wordle", ["--begins", "person"], False),
        ("bc", [], False),
        ("bc", ["--begins", "agent"], True),
    ]:
        saying()
        assert main(["chat", runs[run], *flags]) == 0
        assert ("agent> " in capsys.readouterr().out) == begins


def test_a_task_is_watched_to_its_end(runs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", runs["wordle"], "--watch"]) == 0
    out = capsys.readouterr().out
    assert out.count("agent> ") <= 6
    assert "over: return" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "named first"),
        (["{bc}", "--web", "--host", "0.0.0.0"], "127.0.0.1 alone"),
        (["{bc}", "--web", "--host", "localhost"], "127.0.0.1 alone"),
        (["{bc}", "--port", "70000"], "--port"),
        (["{bc}", "--candidates", "0"], "1 to 64"),
        (["{bc}", "--temperature", "nan"], "--temperature"),
        (["{bc}", "--temperature", "-1"], "--temperature"),
        (["{bc}", "--seed", "-1"], "--seed"),
        (["{bc}", "--choose", "q"], "no values"),
        (["{bc}", "--beta", "1"], "--beta"),
        (["{no_task}", "--watch"], "(--watch): leave it out"),
        (["{ilql}", "--beta", "nan"], "--beta"),
        (["{bc}", "--forbid", "/none/at/all"], "--forbid"),
        (["{bc}", "--save", "{bc}/config.json"], "exists already"),
        (["/none/at/all"], "not a run folder"),
    ],
)
def test_bad_input_is_one_line(
    runs: dict[str, str], flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", *(flag.format(**runs) for flag in flags)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_nothing_in_a_text_reaches_the_terminal_as_it_is() -> None:
    # Must break: `said.text` in `rendered` without `shown`.
    text = "\x1b[31mred\x07 [bold]b[/bold] \u202e \r\n"
    said = Said(speaker="person", text=text, turn=TokenTurn(agent=False, ids=()), at=0.0)
    out = io.StringIO()
    Console(file=out, markup=False, force_terminal=False).print(*rendered(said, None))  # type: ignore[arg-type]
    assert out.getvalue() == "person> \\x1b[31mred\\x07 [bold]b[/bold] \\u202e \\r\\n\n"
