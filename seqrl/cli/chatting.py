"""seqrl chat: talk to a trained speaker, in the terminal or on a page."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqrl.algorithms import load_speaker, read_config
from seqrl.cli.arguments import parse, positional
from seqrl.config import require
from seqrl.data.dialogues import Value, shown
from seqrl.errors import UserError, nearest
from seqrl.language.generation import Sampling, Voice
from seqrl.language.steering import SteeredAgent
from seqrl.language_runs.config import configured_task
from seqrl.off_policy.learnt_from import speakers_of
from seqrl.people.chat import (
    AGENT,
    FAR_BELOW,
    PERSON,
    Chat,
    Said,
    Transcript,
    WordFilter,
    checked_candidates,
    nats_below,
)

MOST_SHOWN = 2_000
"""Characters of an utterance that the terminal shows."""
COMMANDS = {"/quit": "ends", "/undo": "takes back what you said last", "/candidates N": "draws N from now on"}
HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Talk to a trained speaker, and see what else it might have said. Ctrl-C or /quit ends; with --save all is kept.

    In the terminal: /undo takes back what you said last, /candidates N draws N from now on, //text says /text.
    """

    candidates: int = 5
    """Utterances that are drawn for each of the agent's turns, to choose from."""
    choose: Literal["auto", "q", "drawn", "likeliest"] = "auto"
    """Which is said: the highest Q, the first drawn, or the most probable. auto: q where the run has values, else
    drawn."""
    temperature: float = 1.0
    """Of the draws; 0 takes the likeliest token each time."""
    beta: float | None = None
    """How much values steer the draws, in place of the run's own; 0 for the policy alone."""
    forbid: str = ""
    """File of words or phrases, one a line, that the agent must not say."""
    watch: bool = False
    """The run's task speaks in your place, until its end."""
    begins: Literal["auto", "agent", "person"] = "auto"
    """Who speaks first. auto: the agent where the run's task opens with nothing said, else you."""
    save: str = ""
    """File to save the conversation to, as a log of dialogues; must not exist yet."""
    seed: int = 0
    """Seeds the draws, and the task."""
    web: bool = False
    """Talk on a page in the browser instead, on this machine alone (needs gradio)."""
    port: Annotated[int, tyro.conf.arg(metavar="PORT")] = 0
    """Of the page; 0 chooses one that is free."""
    host: str = HOST
    """Of the page: 127.0.0.1, and no other."""


def chat(args: list[str]) -> int:
    run, args = positional(args)
    options = parse(ChatOptions, args, ChatOptions(), "seqrl chat RUN")
    if run is None:
        raise UserError("chat needs a run folder, named first: seqrl chat RUN")
    require(options.host == HOST, f"--host is {shown(options.host)}: a chat is served on {HOST} alone")
    require(0 <= options.port < 2**16, f"--port is {options.port}: it must be from 0 to 65535")
    require(0 <= options.temperature <= 100, f"--temperature is {options.temperature}: it must be from 0 to 100")
    talk = make_chat(run, options)
    meta: dict[str, Value] = {
        "run": run,
        "choose": talk.choose,
        "candidates": talk.num_candidates,
        "seed": options.seed,
    }
    transcript = Transcript(options.save, meta) if options.save else None
    agent_begins = agent_speaks_first(run, options)
    if options.web:
        from seqrl.people.chat_page import serve  # only now: gradio takes seconds to import

        return serve(talk, transcript, run=run, agent_begins=agent_begins, port=options.port)
    return talk_in_terminal(talk, transcript, run, agent_begins)


def make_chat(run: str, options: ChatOptions) -> Chat:
    """The conversation with the agent of a run folder."""
    checked_candidates(options.candidates)
    forbid = WordFilter(options.forbid) if options.forbid else None
    config = read_config(run)
    agent = load_speaker(run)
    require(
        bool(config.task) or not options.watch,
        f"{run} was trained without a task that would speak in your place (--watch): leave it out, and speak yourself",
    )
    voice: Voice | None = None
    if options.beta is not None:
        if not isinstance(agent, SteeredAgent):
            raise UserError(f"{run} has no values of tokens, which steer what is drawn (--beta): leave it out")
        require(0 <= options.beta < float("inf"), f"--beta is {options.beta}: it must be 0 or more, and finite")
        voice = agent.voice(options.beta)
    return Chat(
        agent,
        voice=voice,
        num_candidates=options.candidates,
        choose=None if options.choose == "auto" else options.choose,
        sampling=Sampling(temperature=options.temperature),
        max_tokens=config.max_tokens,
        forbid=forbid,
        task=configured_task(config) if options.watch else None,
        seed=options.seed,
        names=_names(run) if not config.task else {},
    )


def _names(run: str) -> dict[str, str]:
    """Of the agent and the person, in what is saved: as the run's log has them."""
    known = None
    with contextlib.suppress(UserError):  # of a log that has been damaged since, which is not needed to talk
        known = speakers_of(Path(run))
    return dict(zip((AGENT, PERSON), known, strict=True)) if known else {}


def agent_speaks_first(run: str, options: ChatOptions) -> bool:
    """Whether the agent begins a conversation with a person."""
    if options.begins != "auto" or options.watch:
        return options.begins == "agent" or options.watch
    config = read_config(run)
    if not config.task:
        return False
    talk = Chat(load_speaker(run), task=configured_task(config))
    return not talk.said


def talk_in_terminal(talk: Chat, transcript: Transcript | None, run: str, agent_begins: bool) -> int:
    """The conversation, line by line, until it is over or the person has gone. Returns the exit status."""
    console = Console(highlight=False, markup=False, emoji=False)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text are seen, not raised
    console.print(f"{shown(run)}: {talk.about()}", style="dim")
    status = 0
    try:
        if talk.task is not None:
            _watch(console, talk, transcript)
        else:
            console.print("; ".join(f"{name} {does}" for name, does in COMMANDS.items()), style="dim")
            _converse(console, talk, transcript, agent_begins)
    except KeyboardInterrupt:
        console.print()
        status = 130
    finally:
        if transcript is not None:
            transcript.save(talk)
            if talk.said:
                console.print(f"saved: {shown(transcript.path, 1000)}", style="dim")
    return status


def _watch(console: Console, talk: Chat, transcript: Transcript | None) -> None:
    shown_turns = 0
    while True:
        for said in talk.said[shown_turns:]:
            console.print(*rendered(said, talk), sep="\n")
        shown_turns = len(talk.said)
        if talk.over:
            break
        talk.answer()
        if transcript is not None:
            transcript.save(talk)
    rewards = [said.reward for said in talk.said if said.reward is not None]
    console.print(f"over: return {sum(rewards):.4g} in {len(rewards)} utterances", style="bold")


def _converse(console: Console, talk: Chat, transcript: Transcript | None, agent_begins: bool) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (arrow keys in what is typed)
    if agent_begins:
        _answer(console, talk, transcript)
    while True:
        try:
            line = input("you> ")
        except EOFError:
            console.print()
            return
        if not sys.stdin.isatty():
            console.print(shown(line, MOST_SHOWN))  # what was typed stands on a terminal already
        if line.startswith("/") and not line.startswith("//"):
            if line.strip() == "/quit":
                return
            _try(console, partial(_obey, console, talk, transcript, line))
        else:
            text = line[1:] if line.startswith("//") else line
            if _try(console, partial(talk.hear, text)):
                if transcript is not None:
                    transcript.save(talk)  # what was said is kept, whatever the answer comes to
                _answer(console, talk, transcript)


def _obey(console: Console, talk: Chat, transcript: Transcript | None, line: str) -> None:
    """A command. Raises UserError for one that is not known, or means nothing now."""
    name, *rest = line.split()
    if name == "/undo" and not rest:
        text = talk.undo()
        if transcript is not None:
            transcript.save(talk)
        console.print(f"taken back: {shown(text, MOST_SHOWN)}", style="dim")
    elif name == "/candidates" and len(rest) == 1 and rest[0].isascii() and rest[0].isdigit():
        talk.num_candidates = checked_candidates(int(rest[0][:9]))
        console.print(f"{talk.num_candidates} candidates are drawn from now on", style="dim")
    else:
        known = [command.split()[0] for command in COMMANDS]
        raise UserError(
            f"{shown(name)} is written {next(c for c in COMMANDS if c.startswith(name))}"
            if name in known
            else f"there is no command {shown(name)}: {nearest(name, known)} (to say it, write /{shown(name)})"
        )


def _answer(console: Console, talk: Chat, transcript: Transcript | None) -> None:
    said: list[Said] = []
    if _try(console, lambda: said.append(talk.answer())):
        console.print(*rendered(said[0], talk), sep="\n")
        _warn(console, talk)
    elif any(each.speaker == PERSON for each in talk.said):
        console.print("  ! to go on, take back what you said: /undo", style="yellow")
    if transcript is not None:
        transcript.save(talk)


def _warn(console: Console, talk: Chat) -> None:
    """Once, at the first answer that values chose although it is hardly said."""
    far = [nats_below(said) > FAR_BELOW for said in talk.said if said.speaker == AGENT]
    if talk.choose == "q" and far[-1] and sum(far) == 1:
        less = "a smaller --beta, " if isinstance(talk.agent, SteeredAgent) else ""
        console.print(
            f"  ! log p of this answer is {nats_below(talk.said[-1]):.1f} below the likeliest one's: values chose what "
            f"is hardly ever said, which they may know little of; try {less}--choose likeliest or drawn",
            style="yellow",
        )


def _try(console: Console, act: Callable[[], object]) -> bool:
    """Do it; what a person did wrong is one line, and the conversation goes on."""
    try:
        act()
    except UserError as error:
        console.print(f"  ! {error}", style="yellow")
        return False
    return True


def rendered(said: Said, talk: Chat) -> Iterable[Text | Table]:
    """A turn for the terminal. Whatever is in its texts, nothing of it reaches the terminal but what can be seen."""
    line = Text(f"{said.speaker}> ", style="bold cyan" if said.speaker == AGENT else "bold")
    line.append(shown(said.text, MOST_SHOWN) or "(nothing)", style="none" if said.text else "dim")
    if said.reward is not None:
        line.append(f"   reward {said.reward:.4g}", style="dim")
    yield line
    if said.speaker == AGENT:
        yield _table(said, talk)


def _table(said: Said, talk: Chat) -> Table:
    v = said.options[0].candidate.v
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", title_justify="left", expand=True)
    table.add_column("", no_wrap=True)
    table.add_column("candidate" if v is None else f"candidate (V before: {v:.2f})", overflow="fold", ratio=3)
    for name in ["times", "log p", *(["Q", "Q − V"] if talk.critic is not None else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", style="dim", overflow="fold", ratio=2)
    for option in said.options:
        is_chosen = option is said.chosen
        values = [str(option.times), f"{option.candidate.log_prob:z.2f}"]
        if option.candidate.q is not None and option.candidate.v is not None:
            values += [f"{option.candidate.q:.2f}", f"{option.candidate.q - option.candidate.v:+.2f}"]
        text = (shown(option.candidate.text, 200) or "(nothing)") + ("" if option.candidate.ended else " (cut)")
        table.add_row(
            "  ▸" if is_chosen else "   ",
            Text(text, style="strike" if option.removed else "none"),
            *values,
            option.remark(said),
            style="" if is_chosen else "dim",
        )
    if said.chosen is None:
        table.add_row("   ", Text(said.why), *[""] * (len(table.columns) - 2))
    return table
