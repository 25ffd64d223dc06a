"""A chat on a page in the browser, served to this machine alone (`seqrl.people.local_page`)."""

import threading
from collections.abc import Callable
from typing import Any

from seqrl.data.dialogues import shown
from seqrl.errors import UserError
from seqrl.people.chat import (
    AGENT,
    MOST_CANDIDATES,
    MOST_CHARACTERS,
    Chat,
    Option,
    Said,
    Transcript,
    checked_candidates,
)
from seqrl.people.local_page import HOST, bound, escaped, gr, guarded, serve_until_interrupted

CSS = """
.seqrl-scroll { display: flex; flex-direction: column-reverse; max-height: 65vh; overflow-y: auto; }
.seqrl-turn { margin: 0.6em 0; }
.seqrl-other { text-align: right; }
.seqrl-who { font-size: 0.8em; opacity: 0.7; }
.seqrl-text { display: inline-block; padding: 0.45em 0.8em; border-radius: 0.8em; overflow-wrap: anywhere;
  text-align: left; max-width: 85%; background: var(--background-fill-secondary);
  border: 1px solid var(--border-color-primary); }
.seqrl-agent .seqrl-text { background: var(--color-accent-soft); }
.seqrl-turn details { margin: 0.3em 0 0 0.8em; }
.seqrl-turn summary { cursor: pointer; font-size: 0.85em; opacity: 0.8; }
#conversation .seqrl-turn table { border-collapse: collapse; border: 0; font-size: 0.88em; margin-top: 0.2em; }
#conversation .seqrl-turn th { text-align: left; font-weight: 500; opacity: 0.7; }
#conversation .seqrl-turn :is(tr, th, td) { border: 0; background: none; }
#conversation .seqrl-turn :is(th, td) { padding: 0.15em 0.9em 0.15em 0; vertical-align: top; }
.seqrl-turn .said { overflow-wrap: anywhere; min-width: 12em; }
.seqrl-turn .why { opacity: 0.8; min-width: 8em; }
#conversation .seqrl-turn .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.seqrl-turn .chosen { font-weight: 600; }
.seqrl-turn .removed .said { text-decoration: line-through; opacity: 0.65; }
.seqrl-notice { color: var(--error-text-color, #b91c1c); min-height: 1.4em; }
"""


def conversation_html(talk: Chat) -> str:
    """The conversation as HTML; the agent's last turn shows its candidates opened."""
    last = max((k for k, said in enumerate(talk.said) if said.speaker == AGENT), default=-1)
    turns = [_turn_html(said, talk, is_open=k == last) for k, said in enumerate(talk.said)]
    if talk.over:
        rewards = [said.reward for said in talk.said if said.reward is not None]
        turns.append(f"<p><b>Over: return {sum(rewards):.4g} in {len(rewards)} utterances.</b></p>")
    content = "".join(turns) or "<p>Nothing has been said.</p>"
    return f"<div class='seqrl-scroll'><div>{content}</div></div>"  # in reverse: it shows its end


def _turn_html(said: Said, talk: Chat, is_open: bool) -> str:
    is_agent = said.speaker == AGENT
    reward = "" if said.reward is None else f" · reward {said.reward:.4g}"
    text = escaped(said.text) or "<i>(nothing)</i>"
    options = _options_html(said, talk, is_open) if is_agent else ""
    return (
        f"<div class='seqrl-turn seqrl-{'agent' if is_agent else 'other'}'>"
        f"<div class='seqrl-who'>{escaped(said.speaker)}{reward}</div>"
        f"<div class='seqrl-text'>{text}</div>{options}</div>"
    )


def _options_html(said: Said, talk: Chat, is_open: bool) -> str:
    v = said.options[0].candidate.v
    names = ["candidate", "times", "log p", *(["Q", "Q − V"] if talk.critic is not None else []), ""]
    head = "".join(
        f"<th{' class=number' if 0 < k < len(names) - 1 else ''}>{name}</th>" for k, name in enumerate(names)
    )
    rows = "".join(_option_html(option, said) for option in said.options)
    worth = "" if v is None else f" · V before speaking {v:.2f}"
    removed = sum(bool(option.removed) for option in said.options)
    number = len(said.options)
    about = f"{number} candidate{'s' if number > 1 else ''}" + (f", {removed} removed" if removed else "") + worth
    if said.chosen is None:
        about += f" · {escaped(said.why)}"
    return (
        f"<details{' open' if is_open else ''}><summary>{about}</summary>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _option_html(option: Option, said: Said) -> str:
    is_chosen, candidate = option is said.chosen, option.candidate
    numbers = [str(option.times), f"{candidate.log_prob:z.2f}"]
    if candidate.q is not None and candidate.v is not None:
        numbers += [f"{candidate.q:.2f}", f"{candidate.q - candidate.v:+.2f}"]
    why = option.remark(said)
    kind = "chosen" if is_chosen else "removed" if option.removed else ""
    cut = "" if candidate.ended else " <i>(cut)</i>"
    return (
        f"<tr class='{kind}'><td class='said'>{escaped(candidate.text) or '<i>(nothing)</i>'}{cut}</td>"
        + "".join(f"<td class='number'>{number}</td>" for number in numbers)
        + f"<td class='why'>{escaped(why)}</td></tr>"
    )


class Page:
    """What the page's buttons do, one at a time. Each returns the conversation, a notice and the text to be edited.

    There is one conversation, that of the person at this machine: a second tab shows the same.
    """

    def __init__(self, talk: Chat, transcript: Transcript | None, agent_begins: bool) -> None:
        self.talk, self.transcript, self.agent_begins = talk, transcript, agent_begins
        self._lock = threading.Lock()

    def show(self) -> tuple[str, str, str]:
        """As it is; the agent begins here, if it does."""
        begins = self.agent_begins and not self.talk.said and self.talk.task is None
        return self._do(self._answer if begins else lambda: None)

    def send(self, text: str, num_candidates: float) -> tuple[str, str, str]:
        """Say `text`, and have it answered."""

        def act() -> None:
            self.talk.num_candidates = checked_candidates(int(num_candidates))
            self.talk.hear(text)
            self._save()  # what was said is kept, whatever the answer comes to
            self._answer()

        return self._do(act, kept=text)

    def undo(self, text: str) -> tuple[str, str, str]:
        """Take back what was said last, to be edited."""
        back: list[str] = []

        def act() -> None:
            back.append(self.talk.undo())
            self._save()

        conversation, notice, _ = self._do(act)
        return conversation, notice, back[0] if back else text

    def step(self, num_candidates: float) -> tuple[str, str, str]:
        """The agent's next turn with the task."""

        def act() -> None:
            self.talk.num_candidates = checked_candidates(int(num_candidates))
            self._answer()

        return self._do(act)

    def finish(self, num_candidates: float) -> tuple[str, str, str]:
        """All turns to the task's end."""

        def act() -> None:
            self.talk.num_candidates = checked_candidates(int(num_candidates))
            while not self.talk.over:
                self._answer()

        return self._do(act)

    def _do(self, act: Callable[[], Any], kept: str = "") -> tuple[str, str, str]:
        """`kept` is the text to be edited where nothing became of it."""
        with self._lock:
            before = len(self.talk.said)
            try:
                act()
                notice, text = "", ""
            except UserError as error:
                notice, text = escaped(error), kept if len(self.talk.said) == before else ""
            return conversation_html(self.talk), f"<div class='seqrl-notice'>{notice}</div>", text

    def _answer(self) -> None:
        self.talk.answer()
        self._save()

    def _save(self) -> None:
        if self.transcript is not None:
            self.transcript.save(self.talk)


def _blocks(page: Page, run: str) -> gr.Blocks:
    """The page's components."""
    talk = page.talk
    with gr.Blocks(title="seqrl chat", analytics_enabled=False) as blocks:
        gr.HTML(f"<h2>{escaped(run)}</h2><p>{talk.about()}</p>")
        conversation = gr.HTML(elem_id="conversation")
        notice = gr.HTML(elem_id="notice")
        text = gr.Textbox(
            label="You", placeholder="Say something", max_length=MOST_CHARACTERS, visible=talk.task is None,
            elem_id="say",
        )  # fmt: skip
        with gr.Row():
            buttons = ["Next turn", "To the end"] if talk.task is not None else ["Send", "Take back"]
            first, second = gr.Button(buttons[0], variant="primary"), gr.Button(buttons[1])
        num_candidates = gr.Slider(1, MOST_CANDIDATES, talk.num_candidates, step=1, label="Candidates")
        outputs: Any = [conversation, notice, text]
        options: Any = {"outputs": outputs, "api_visibility": "private", "show_progress": "hidden"}
        blocks.load(page.show, **options)
        if talk.task is not None:
            first.click(page.step, [num_candidates], **options)
            second.click(page.finish, [num_candidates], **options)
        else:
            gr.on([first.click, text.submit], page.send, [text, num_candidates], **options)
            second.click(page.undo, [text], **options)
    return blocks


def make_app(page: Page, run: str, port: int) -> Any:
    """The page as an ASGI application, for a server on `port`."""
    return guarded(_blocks(page, run), port, CSS)


def serve(talk: Chat, transcript: Transcript | None, *, run: str, agent_begins: bool, port: int) -> int:
    """Serve the page until Ctrl-C. Returns the exit status."""
    page = Page(talk, transcript, agent_begins)
    with bound(port) as listening:
        port = listening.getsockname()[1]
        app = make_app(page, run, port)
        print(f"talk on http://{HOST}:{port}/ (this machine alone); Ctrl-C ends", flush=True)
        try:
            serve_until_interrupted(app, listening)
        finally:
            if transcript is not None:
                transcript.save(talk)
                if talk.said:
                    print(f"saved: {shown(transcript.path, 1000)}")
    return 0
