"""Questions on a page in the browser, served to this machine alone (`seqrl.people.local_page`)."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from seqrl.data.dialogues import Turn
from seqrl.data.preferences import AGENT
from seqrl.errors import UserError
from seqrl.people.labelling import Session
from seqrl.people.local_page import HOST, bound, escaped, gr, guarded, serve_until_interrupted

CSS = """
.seqrl-who { font-size: 0.8em; opacity: 0.7; }
.seqrl-turn { margin: 0.5em 0; overflow-wrap: anywhere; }
.seqrl-agent { font-weight: 500; }
.seqrl-answer { border: 1px solid var(--border-color-primary); border-radius: 0.8em; padding: 0.6em 0.9em;
  background: var(--background-fill-secondary); min-height: 6em; }
@media (max-width: 600px) { #answers { flex-direction: column; } }
.seqrl-notice { color: var(--error-text-color, #b91c1c); min-height: 1.4em; }
"""
KEYS = """<script>
document.addEventListener("keydown", (event) => {
  const button = { "1": "choose-first", "2": "choose-second", "s": "skip" }[event.key];
  if (!button || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const found = document.getElementById(button);
  if (found && !found.disabled) found.click();
});
</script>"""


def conversation_html(turns: Iterable[Turn]) -> str:
    """What was said, turn by turn."""
    parts = []
    for turn in turns:
        kind = "agent" if turn.speaker == AGENT else "other"
        text = escaped(turn.text) or "<i>(nothing)</i>"
        who = f"<div class='seqrl-who'>{escaped(turn.speaker)}</div>"
        parts.append(f"<div class='seqrl-turn seqrl-{kind}'>{who}{text}</div>")
    return "".join(parts) or "<div class='seqrl-turn'><i>(nothing was said before)</i></div>"


def _note(text: str) -> str:
    return f"<i>({escaped(text)})</i>" if text else ""


class LabelPage:
    """What the page's buttons do, one at a time. Each returns the prompt, both answers, the progress and the question.

    A press belongs to the question that it was made at: of two presses at one question, or in two tabs, the second does
    nothing but show what is asked now.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._lock = threading.Lock()

    def show(self) -> tuple[str, str, str, str, str, str]:
        """What is asked now."""
        with self._lock:
            return self._shown(self.session.notice)

    def choose_first(self, question: str) -> tuple[str, str, str, str, str, str]:
        return self._do(lambda: self.session.choose(0), question)

    def choose_second(self, question: str) -> tuple[str, str, str, str, str, str]:
        return self._do(lambda: self.session.choose(1), question)

    def skip(self, question: str) -> tuple[str, str, str, str, str, str]:
        return self._do(self.session.skip, question)

    def _do(self, act: Callable[[], None], question: str) -> tuple[str, str, str, str, str, str]:
        with self._lock:
            notice = ""
            if self.session.asked is not None and self.session.asked.question.id == question:
                try:
                    act()
                except UserError as error:
                    notice = str(error)
            return self._shown(notice)

    def _shown(self, notice: str) -> tuple[str, str, str, str, str, str]:
        session, asked = self.session, self.session.asked
        progress = f"<p>{session.labelled} of {session.questions.count} chosen, {session.skipped} skipped</p>"
        warning = f"<div class='seqrl-notice'>{escaped(notice)}</div>"
        if asked is None:
            return (
                "<p><b>Nothing is left to ask. Thank you! Ctrl-C in the terminal ends.</b></p>",
                "",
                "",
                progress,
                warning,
                "",
            )
        first, second = (
            f"<div class='seqrl-answer'><b>{place}</b>{conversation_html(answer)}{_note(asked.note(place))}</div>"
            for place, answer in ((1, asked.first), (2, asked.second))
        )
        return conversation_html(asked.question.prompt), first, second, progress, warning, asked.question.id


def _blocks(page: LabelPage, run: str) -> gr.Blocks:
    """The page's components."""
    with gr.Blocks(title="seqrl label", analytics_enabled=False) as blocks:
        gr.HTML(
            f"<h2>{escaped(run)}</h2><p>Which is better? Keys: 1, 2, or s to skip. Each choice is kept at once.</p>"
        )
        prompt = gr.HTML(elem_id="prompt")
        with gr.Row(elem_id="answers"):
            first, second = gr.HTML(elem_id="first"), gr.HTML(elem_id="second")
        with gr.Row():
            buttons = [
                gr.Button("1", variant="primary", elem_id="choose-first"),
                gr.Button("2", variant="primary", elem_id="choose-second"),
                gr.Button("Skip (s)", elem_id="skip"),
            ]
        progress, notice = gr.HTML(elem_id="progress"), gr.HTML(elem_id="notice")
        question = gr.State("")
        outputs: Any = [prompt, first, second, progress, notice, question]
        options: Any = {"outputs": outputs, "api_visibility": "private", "show_progress": "hidden"}
        blocks.load(page.show, **options)
        for button, act in zip(buttons, (page.choose_first, page.choose_second, page.skip), strict=True):
            button.click(act, [question], **options)
    return blocks


def make_app(page: LabelPage, run: str, port: int) -> Any:
    """The page as an ASGI application, for a server on `port`."""
    return guarded(_blocks(page, run), port, CSS, KEYS)


def serve(session: Session, *, run: str, port: int) -> None:
    """Serve the page until Ctrl-C."""
    with bound(port) as listening:
        port = listening.getsockname()[1]
        app = make_app(LabelPage(session), run, port)
        print(f"label on http://{HOST}:{port}/ (this machine alone); Ctrl-C ends", flush=True)
        serve_until_interrupted(app, listening)
