"""seqrl label: choose between two answers of a run, again and again: preferences for a reward model, or for dpo."""

import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from seqrl.algorithms import load_speaker, read_config
from seqrl.cli.arguments import parse, positional, positionals
from seqrl.config import parse_env_kwargs, require
from seqrl.data.dialogues import Turn, read_dialogues, shown
from seqrl.data.preferences import AGENT, read_preferences
from seqrl.errors import UserError
from seqrl.language.generation import Plain, Sampling
from seqrl.language.labellers import SimulatedLabeller, bayes_rate, hidden_reward
from seqrl.language.prompted import Prompted, prompts_of
from seqrl.language_runs.config import LanguageConfig
from seqrl.language_runs.run import check_reads
from seqrl.people.labelling import Questions, Session, agreements
from seqrl.statistics import percent
from seqrl.tables import plain_table
from seqrl.text import TextTask, make_task

MOST_SHOWN = 2_000
"""Characters of an utterance that the terminal shows."""
KEYS = "1: the first is better; 2: the second; s: skip; q: quit (go on with the same command)"


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Choose which of two answers of a run is better, in the terminal or on a page. Each choice is on the disk before
    the next question is shown. Stop at any time: the same command goes on where you stopped.

    seqrl label --agreement FILE [FILE …] instead tells how far labellers agree.
    """

    prompts: str = ""
    """A log of dialogues, before whose agent's turns answers are drawn. Or else:"""
    task: str = ""
    """A task, such as negotiation, which is played to its end twice from one beginning; by default the run's own."""
    task_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Arguments of the task; values are JSON."""
    output: str = ""
    """File of preferences to write, or to go on with."""
    labeller: str = "labeller"
    """Your name in it. Every labeller is asked the same questions."""
    num_questions: int = 100
    """How many questions there are."""
    temperature: float = 1.0
    """Of the draws."""
    seed: int = 0
    """Seeds the questions."""
    simulate: str = ""
    """Have a labeller simulated that chooses by a hidden reward: sentiment, points, return, length."""
    labeller_temperature: float = 1.0
    """Of the simulated labeller: it takes the better answer with probability σ(difference / temperature)."""
    flips: float = 0.0
    """Share of the simulated labeller's choices that are turned round."""
    web: bool = False
    """Choose on a page in the browser instead, on this machine alone (needs gradio)."""
    port: Annotated[int, tyro.conf.arg(metavar="PORT")] = 0
    """Of the page; 0 chooses one that is free."""


def label(args: list[str]) -> int:
    if args[:1] == ["--agreement"]:
        return agreement(args[1:])
    run, args = positional(args)
    options = parse(LabelOptions, args, LabelOptions(), "seqrl label RUN")
    if run is None:
        raise UserError("label needs a run folder, named first: seqrl label RUN (or: seqrl label --agreement FILE)")
    require(bool(options.output), "no file to write is given: name one with --output, such as preferences.jsonl")
    require(bool(options.labeller.strip()), "--labeller is empty: give a name")
    require(options.num_questions >= 1, f"--num-questions is {options.num_questions}: it must be at least 1")
    require(0 <= options.port < 2**16, f"--port is {options.port}: it must be from 0 to 65535")
    require(not (options.web and options.simulate), "--web with --simulate: a simulated labeller needs no page")
    hidden = hidden_reward(options.simulate) if options.simulate else None
    simulated = SimulatedLabeller(
        name=options.labeller, temperature=options.labeller_temperature, flips=options.flips, seed=options.seed
    )
    questions = make_questions(run, options)
    with Session(options.output, questions, options.labeller, options.seed) as session:
        if session.notice:
            print(f"seqrl: {session.notice}", file=sys.stderr)
        require(
            session.asked is not None or session.labelled > 0,
            f"nothing to choose in any of {questions.count} questions, as all draws are alike: raise --temperature (it "
            f"is {options.temperature:g})",
        )
        if hidden is not None:
            session.simulate(simulated, hidden)
        elif options.web:
            from seqrl.people.label_page import serve  # only now: gradio takes seconds to import

            serve(session, run=run, port=options.port)
        else:
            _ask(session, run)
        alike = len(questions.alike)
        print(f"{shown(options.output, 1000)}: {session.labelled} of {questions.count} questions labelled by "
              f"{shown(options.labeller)}" + (f", {session.skipped} skipped" if session.skipped else "")
              + (f", {alike} with nothing to choose, all draws alike" if alike else "")
              + ("" if session.labelled + alike == questions.count else "; the same command goes on"))  # fmt: skip
    if hidden is not None:
        _tell_bayes_rate(options, simulated)
    return 0


def make_questions(run: str, options: LabelOptions) -> Questions:
    """What is asked about a run."""
    config: LanguageConfig = read_config(run)
    agent = load_speaker(run)
    require(not (options.prompts and options.task), "--prompts and --task: give one of them")
    if options.prompts:
        name = Path(options.prompts).stem
        prompts = prompts_of(read_dialogues(options.prompts))
        task: TextTask[Any] = Prompted(prompts, agent.tokenizer)
        for prompt in prompts:
            for _, text in prompt:
                agent.tokenizer.encode(text)  # raises for what the run cannot read, before anything is asked
    else:
        name = options.task or config.task
        require(bool(name), f"{run} was trained without a task: name a log with --prompts, or a task with --task")
        kwargs = options.task_kwargs or ((), config.task_kwargs)[not options.task]
        task = make_task(name, **parse_env_kwargs(kwargs, "--task-kwargs"))
        check_reads(agent.tokenizer, task, run)
    voice = agent.voice()
    if hasattr(voice, "speak"):
        voice = Plain(agent.policy)  # of what is chosen already, two answers would hardly differ
    return Questions(
        task, voice, options.num_questions, name=name, tokenizer=agent.tokenizer, seed=options.seed,
        sampling=Sampling(temperature=options.temperature), max_tokens=config.max_tokens,
    )  # fmt: skip


def _ask(session: Session, run: str) -> None:
    """Questions in the terminal, until none is left or the person has gone."""
    console = Console(highlight=False, markup=False, emoji=False)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text are seen, not raised
    console.print(f"{shown(run)}: which answer is better? {KEYS}", style="dim")
    while session.asked is not None:
        count = session.questions.count
        console.rule(f"{session.labelled + session.skipped + 1} of {count}")
        _print_turns(console, session.asked.question.prompt)
        for place, answer in ((1, session.asked.first), (2, session.asked.second)):
            console.print(f"── {place}", style="bold cyan")
            _print_turns(console, answer)
            if note := session.asked.note(place):
                console.print(f"({note})", style="dim")
        try:
            key = input("1, 2, s or q> ").strip().lower()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if key in ("q", "quit"):
            return
        if key in ("1", "2"):
            session.choose(int(key) - 1)
        elif key in ("s", "skip"):
            session.skip()
        else:
            console.print(f"  ! {shown(key)}: type one of them. {KEYS}", style="yellow")


def _print_turns(console: Console, turns: Iterable[Turn]) -> None:
    for turn in turns:
        line = Text(f"{shown(turn.speaker)}> ", style="bold" if turn.speaker == AGENT else "dim")
        line.append(shown(turn.text, MOST_SHOWN) or "(nothing)", style="none" if turn.text else "dim")
        console.print(line)


def _tell_bayes_rate(options: LabelOptions, simulated: SimulatedLabeller) -> None:
    """How many of the simulated choices could be foretold by one who knew the hidden reward."""
    worths = [
        (each.meta["hidden_chosen"], each.meta["hidden_rejected"])
        for each in read_preferences(options.output)
        if each.labeller == options.labeller and "hidden_chosen" in each.meta
    ]
    if worths:
        rate = bayes_rate([simulated.probability(float(a), float(b)) for a, b in worths])
        print(f"Bayes rate of these pairs: {percent(rate)} (nothing foretells more of such choices on average)")


def agreement(args: list[str]) -> int:
    """`seqrl label --agreement`."""
    paths, rest = positionals(args)
    require(bool(paths), "--agreement needs files of preferences: seqrl label --agreement FILE [FILE …]")
    require(not rest, f"--agreement takes files alone, not {shown(' '.join(rest))}")
    preferences = [each for path in paths for each in read_preferences(path)]
    table = plain_table("agreement between labellers")
    for column in ("labellers", "questions both chose in", "agree", "Cohen's κ"):
        table.add_column(column, justify="left" if column == "labellers" else "right")
    found = agreements(preferences)
    for each in found:
        kappa = "–" if each.kappa is None else f"{each.kappa:.2f}"
        names = Text(f"{shown(each.first)}, {shown(each.second)}")
        table.add_row(names, str(each.questions), percent(each.share), kappa)
    if not found:
        raise UserError("no two labellers chose in the same question: label one run's questions by several --labeller")
    Console().print(table)
    first = [each.meta.get("chosen_shown") == "first" for each in preferences if "chosen_shown" in each.meta]
    if first:
        print(f"The answer shown first was chosen in {percent(sum(first) / len(first))} of {len(first)} choices.")
    return 0
