"""The page: everything escaped, nothing of other hosts, nobody else is answered."""

import gc
import http.client
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from seqrl.cli import main
from seqrl.data.dialogues import read_dialogues
from seqrl.errors import UserError
from seqrl.language.agent import LanguageAgent
from seqrl.language.model import MemoryModel
from seqrl.memory.make import make_memory
from seqrl.people.chat import AGENT, PERSON, Chat, Transcript
from seqrl.text import Tokenizer, TwentyQuestions

EVIL = [
    "<img src=x onerror=alert(1)>", "<script>alert(2)</script>", "'><b>q</b>", "${alert(3)}", "{{value}}", "&lt;",
    "**bold**", "[a](http://example.com)", "$x^2$", "\x1b[31m", "\u202e", "\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def page() -> ModuleType:
    """The module, imported here alone: Gradio takes seconds."""
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'seqrl[chat]'")
    import seqrl.people.chat_page

    return seqrl.people.chat_page


@pytest.fixture(autouse=True)
def forgotten_loops() -> Iterator[None]:
    """Gradio leaves event loops behind. Collected later, they would warn in a test that takes warnings for errors."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def chat_of(pieces: list[str], **options: Any) -> Chat:
    torch.manual_seed(0)
    tokenizer = Tokenizer(pieces)
    agent = LanguageAgent(tokenizer, MemoryModel(len(tokenizer), make_memory("gru", 8, 8)))
    return Chat(agent, **{"num_candidates": 4, "max_tokens": 4} | options)


class Tags(HTMLParser):
    """What a browser would make of HTML: its tags, and the text between them."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_no_text_becomes_markup(page: ModuleType) -> None:
    # Must break: `text = said.text` in _turn_html; `candidate.text` without `escaped` in _option_html.
    talk = chat_of(EVIL, num_candidates=32, forbid=lambda text: f"has {text}" if EVIL[0] in text else "")
    for text in EVIL[:-1]:
        talk.hear(text)
        talk.answer()
    content = page.conversation_html(talk)
    seen = Tags(content)
    assert seen.tags <= {"div", "details", "summary", "table", "thead", "tbody", "tr", "th", "td", "br", "i"}
    assert seen.attributes <= {"class", "open"}
    assert not set(content) & set("${}\x1b\u202e")  # nor means any of it something to a template
    for text in EVIL[:9]:
        assert text in seen.text


def test_a_candidate_of_no_words_can_be_seen(page: ModuleType) -> None:
    """Breaks if: what is not said is an empty cell, or a logarithm that rounds to 0 is written −0.00."""
    silent = SimpleNamespace(text="", log_prob=-0.001, q=None, v=None, ended=True)
    said = SimpleNamespace(chosen=None, why="", options=[])
    said.options.append(SimpleNamespace(candidate=silent, times=5, removed="", remark=lambda said: ""))
    row = page._options_html(said, SimpleNamespace(critic=None), is_open=True)
    assert "(nothing)" in row
    assert "1 candidate<" in row.replace(" · ", "<")
    assert ">0.00<" in row


def test_the_page_does_what_the_terminal_does(page: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    talk = chat_of(["a", "b"])
    buttons = page.Page(talk, Transcript(path, {}), agent_begins=True)
    buttons.show()
    assert [said.speaker for said in talk.said] == [AGENT]
    buttons.show()  # in another tab
    assert len(talk.said) == 1
    content, notice, text = buttons.send("ab", 3)
    assert [said.speaker for said in talk.said] == [AGENT, PERSON, AGENT]
    assert sum(option.times for option in talk.said[-1].options) == 3
    assert ("ab" in content, Tags(notice).text, text) == (True, "", "")
    content, notice, text = buttons.send("<x>", 3)
    assert "cannot read that" in notice
    assert "<x>" not in notice
    assert text == "<x>"  # to be mended
    assert len(next(read_dialogues(path)).turns) == 3
    assert buttons.undo("")[2] == "ab"
    assert len(next(read_dialogues(path)).turns) == 1
    assert "nothing of yours" in buttons.undo("typed")[1]
    assert buttons.undo("typed")[2] == "typed"


def test_a_task_is_played_turn_by_turn_or_to_its_end(page: ModuleType) -> None:
    task = TwentyQuestions(max_turns=5)
    talk = chat_of(list(task.tokenizer.pieces), task=task)
    buttons = page.Page(talk, None, agent_begins=True)
    buttons.show()
    assert len(talk.said) == 1
    buttons.step(2)
    assert len(talk.said) == 3
    content = buttons.finish(2)[0]
    assert talk.over
    assert "Over: return -5 in 5 utterances" in content
    assert "over" in buttons.step(2)[1]


@pytest.fixture(scope="module")
def served(page: ModuleType) -> Iterator[tuple[Chat, int]]:
    """A page that is being served, as `serve` does it, in a thread."""
    import uvicorn

    talk = chat_of(EVIL, num_candidates=3)
    with page.bound(0) as listening:
        port = listening.getsockname()[1]
        app = page.make_app(page.Page(talk, None, agent_begins=False), "a run", port)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield talk, port
        server.should_exit = True
        thread.join(timeout=10)


def asked(port: int, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"} | headers)
        answer = connection.getresponse()
        text = ""
        while line := answer.readline().decode():  # a stream of events goes on for ever
            text += line
            if '"process_completed"' in line:
                break
        return answer.status, dict(answer.headers), text
    finally:
        connection.close()


def test_only_this_machine_is_answered(served: tuple[Chat, int]) -> None:
    _, port = served
    assert asked(port, "GET", "/")[0] == 200
    assert asked(port, "GET", "/", Host=f"localhost:{port}")[0] == 200
    assert asked(port, "GET", "/", Host=f"evil.example:{port}")[0] == 403
    assert asked(port, "GET", "/config", Origin=f"http://127.0.0.1:{port}")[0] == 200
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"):
        assert asked(port, "POST", "/gradio_api/queue/join", {}, Origin=origin)[0] == 403


def test_the_page_loads_nothing_of_other_hosts(served: tuple[Chat, int]) -> None:
    _, port = served
    _, headers, text = asked(port, "GET", "/")
    policy = headers["content-security-policy"]
    assert "http" not in policy
    assert "default-src 'self'" in policy
    assert "fonts.g" not in text
    config = json.loads(asked(port, "GET", "/config")[2])
    assert not config["analytics_enabled"]
    assert "http" not in json.dumps(config["stylesheets"])


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="needs Linux's list of sockets")
def test_nothing_listens_but_on_this_machine(served: tuple[Chat, int]) -> None:
    """Of all sockets of this process, those that listen."""
    _, port = served
    mine = set()
    for each in Path("/proc/self/fd").iterdir():
        try:
            mine.add(os.readlink(each).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    listening = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and rest[5] in mine:
                listening.add(local)
    assert listening == {f"0100007F:{port:04X}"}


def test_a_message_is_answered_through_the_server(served: tuple[Chat, int]) -> None:
    talk, port = served
    config = json.loads(asked(port, "GET", "/config")[2])
    number = next(each["id"] for each in config["dependencies"] if each["api_name"] == "send")
    body = {"data": [EVIL[0], 2], "fn_index": number, "session_hash": "s"}
    assert asked(port, "POST", "/gradio_api/queue/join", body)[0] == 200
    events = asked(port, "GET", "/gradio_api/queue/data?session_hash=s")[2]
    assert '"success":true' in events
    assert [said.text for said in talk.said[:1]] == [EVIL[0]]
    assert EVIL[0] not in events


def test_a_port_that_is_taken_is_one_line(page: ModuleType) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match="choose another --port"):
            page.bound(other.getsockname()[1])


def test_settings_of_other_pages_are_not_taken(page: ModuleType) -> None:
    assert [name for name in os.environ if name.startswith("GRADIO_")] == ["GRADIO_ANALYTICS_ENABLED"]
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_another_host_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "run", "--web", "--host", "0.0.0.0"]) == 2
    assert "127.0.0.1 alone" in capsys.readouterr().err
