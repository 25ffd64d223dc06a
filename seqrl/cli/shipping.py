"""seqrl ship, seqrl frontier, seqrl turns: what to know of a speaker before people talk to it."""

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import seqrl
from seqrl.algorithms import load_speaker, read_config
from seqrl.checkpoint import write_atomically
from seqrl.cli.arguments import parse, positional
from seqrl.cli.outputs import check_output
from seqrl.cli.without_task import NO_TASK
from seqrl.config import require
from seqrl.data.dialogues import Dialogue, read_dialogues, shown
from seqrl.errors import UserError, quoted
from seqrl.language.agent import LanguageAgent
from seqrl.language.generation import Plain, Voice
from seqrl.language.steering import SteeredAgent
from seqrl.language_runs.config import LanguageConfig, configured_task
from seqrl.language_runs.lengths import check_read
from seqrl.language_runs.preferences import PreferenceConfig
from seqrl.language_runs.run import check_vocabulary
from seqrl.off_policy import FittedConfig, Requirements, checks, chosen, evaluate_logged, ships
from seqrl.off_policy.frontier import Point
from seqrl.off_policy.frontier import frontier as play_betas
from seqrl.off_policy.learnt_from import not_found, num_learnt_from, policy_of
from seqrl.off_policy.shipping import OF_THE_LOG
from seqrl.off_policy.turn_values import TurnValue, extremes, turn_values
from seqrl.progress import progress_bar
from seqrl.reports import frontier as report_frontier
from seqrl.reports import shipping as report_shipping
from seqrl.reports.common import WIDTH
from seqrl.tables import plain_table


@dataclass(frozen=True, kw_only=True)
class Ship:
    """Would a speaker do better than what was logged? From logged dialogues alone; the exit status is 1 for "do not".

    Each utterance is weighed by how much likelier it is now than it was when it was logged. Writes shipping.json and
    shipping.png into the run's folder; of a --beta that is not the run's own, shipping_betaB. Docs: docs/shipping.md.
    """

    dialogues: str = ""
    """A log of dialogues that the run did not learn from, with propensities."""
    beta: float = -1.0
    """How strongly values steer, for a run that has them; by default as the run says."""
    betas: tuple[float, ...] = ()
    """Several of them, such as 0,1,2,4,8, to choose among: a table with a row for each."""
    baseline: float | None = None
    """A mean return that must be exceeded too."""
    min_effective_size: float = 50.0
    """Dialogues that the weighted ones must be worth (Kish)."""
    max_share: float = 0.1
    """The most weight that one dialogue may have, of all."""
    behaviour: str = ""
    """Run whose probabilities stand in for propensities that were not logged; by default the policy
    that the run steers or began as; of bc, its own."""
    estimated_propensities: bool = False
    """Whether those will do for shipping."""
    gamma: float = 1.0
    """Discount of one of the agent's turns."""
    fit: bool = True
    """Whether values of the speaker are fitted (FQE), which doubly robust estimates need."""
    num_iterations: int = 20
    """Iterations of that, of 30 updates each."""
    num_resamples: int = 1000
    """Resamples of the dialogues, for intervals."""
    seed: int = 0
    """Seeds resamples and fitted values."""


def ship(args: list[str]) -> int:
    command = shlex.join(["seqrl", "ship", *args])
    name, args = positional(args)
    options = parse(Ship, args, Ship(), "seqrl ship RUN")
    _check_ship(name, options)
    run, agent = Path(str(name)), load_speaker(str(name))
    voices = {beta: _voice(agent, beta) for beta in options.betas or (options.beta,)}
    dialogues = list(read_dialogues(options.dialogues))
    for model in (agent.policy, agent.values.model) if isinstance(agent, SteeredAgent) else (agent.policy,):
        check_read(model, dialogues, agent.tokenizer)
    behaviour = _behaviour(agent, run, options, dialogues)
    learnt_from, unknown = num_learnt_from(run, dialogues, options.dialogues), not_found(run)
    fitted = FittedConfig(num_iterations=options.num_iterations, seed=options.seed) if options.fit else None
    wanted = Requirements(
        baseline=options.baseline,
        min_effective_size=options.min_effective_size,
        max_share=options.max_share,
        estimated_propensities=options.estimated_propensities,
    )
    judged: dict[float, report_shipping.Judged] = {}
    with progress_bar() as progress:
        steps = 2 + (fitted.num_iterations * fitted.num_folds if fitted else 0)
        total = len(voices) * steps
        bar = progress.add_task(f"ship {run.name}", total=total, episode_return=None, steps_per_second=0.0)
        for beta, voice in voices.items():
            found = evaluate_logged(
                dialogues, agent.tokenizer, voice, behaviour, gamma=options.gamma, fitted=fitted,
                num_resamples=options.num_resamples, seed=options.seed, watch=lambda: progress.advance(bar),
            )  # fmt: skip
            results = checks(found, wanted, learnt_from, unknown, steered=isinstance(agent, SteeredAgent))
            judged[beta] = report_shipping.Judged(found, results)
    about = {
        "command": command, "versions": {"seqrl": seqrl.__version__, "torch": torch.__version__},
        "run": str(run), "log": options.dialogues,
    }  # fmt: skip
    if options.betas:
        return _tell_betas(run, options, judged, wanted, about)
    return _tell(run, agent, options, judged[options.beta], wanted, about)


def _tell(
    run: Path, agent: LanguageAgent, options: Ship, judged: report_shipping.Judged, wanted: Requirements,
    about: dict[str, Any],
) -> int:  # fmt: skip
    """One verdict, in the terminal and in the run's folder. What was said of another β stays."""
    found, results = judged
    own = agent.beta if isinstance(agent, SteeredAgent) else None
    beta = own if options.beta < 0 else options.beta
    name = "shipping" if beta == own else f"shipping_beta{beta:g}"
    title = f"{run.name}{'' if beta is None else f' (β = {beta:g})'} on {Path(options.dialogues).name}"
    console = Console()
    console.print(report_shipping.figures_table(found, escape(title)))
    console.print(report_shipping.checks_table(results))
    console.print(f"\n{report_shipping.verdict(results)}", style="bold green" if ships(results) else "bold red")
    about |= {"title": title, "beta": beta}
    print("Written:", *report_shipping.write(run, found, results, wanted, about, title, name))
    return 0 if ships(results) else 1


def _tell_betas(
    run: Path, options: Ship, judged: dict[float, report_shipping.Judged], wanted: Requirements, about: dict[str, Any]
) -> int:
    """A row for each β, and which is chosen. The exit status is 1 where none ships."""
    beta = chosen(judged)
    console = Console()
    title = f"{run.name} on {Path(options.dialogues).name}, by β"
    console.print(report_shipping.betas_table(judged, escape(title)))
    if beta is None:
        console.print("None of these ships: keep what was logged, or log more.", style="bold red")
        for check in next(iter(judged.values())).results:
            if check.name in OF_THE_LOG and not check.passed:
                print(f"Whatever β: {check.reason}")
    else:
        again = f"seqrl ship {quoted(run)} --dialogues OTHERS --beta {beta:g}"
        again += " --estimated-propensities" * options.estimated_propensities
        console.print(f"β = {beta:g}: of those that ship, it gains most at the lower end.", style="bold green")
        print(f"It was chosen by this log, which flatters it: judge it once more by other dialogues, {again}")
    print("Written:", report_shipping.write_betas(run, judged, wanted, {**about, "title": title, "chosen": beta}))
    return 1 if beta is None else 0


def _check_ship(name: str | None, options: Ship) -> None:
    if name is None:
        raise UserError("ship needs a run folder, named first: seqrl ship RUN --dialogues FILE")
    require(bool(options.dialogues), "no dialogues given: name a log that the run did not learn from (--dialogues)")
    require(math.isfinite(options.beta), f"--beta is {options.beta}: it must be a number, 0 or more")
    for beta in options.betas:
        require(0 <= beta < math.inf, f"--betas has {beta}: each must be a number, 0 or more")
    require(not options.betas or options.beta < 0, "--beta and --betas: give one of them")
    require(math.isfinite(options.baseline or 0), f"--baseline is {options.baseline}: it must be a number")
    require(0 < options.gamma <= 1, f"--gamma is {options.gamma}: it must be above 0, and at most 1")
    require(options.num_resamples >= 100, f"--num-resamples is {options.num_resamples}: an interval needs at least 100")
    require(options.num_iterations >= 1, f"--num-iterations is {options.num_iterations}: it must be at least 1")
    require(options.min_effective_size >= 1, f"--min-effective-size is {options.min_effective_size}: at least 1")
    require(0 < options.max_share <= 1, f"--max-share is {options.max_share}: it must be above 0, and at most 1")


def _voice(agent: LanguageAgent, beta: float) -> Voice:
    """How the run speaks: steered by `beta`, or as it is configured where that is negative."""
    if isinstance(agent, SteeredAgent):
        return agent.voice(None if beta < 0 else beta)
    require(beta < 0, "--beta steers by values of tokens, which this run does not have: give a run of ilql")
    voice = agent.voice()
    require(
        not hasattr(voice, "speak"),
        "this run chooses among whole utterances, so how likely it says one is not known: give the run that proposes",
    )
    return voice


def _behaviour(agent: LanguageAgent, run: Path, options: Ship, dialogues: list[Dialogue]) -> Voice:
    """What stands in for the policy that was logged."""
    name, config = options.behaviour, read_config(run)
    tuned = isinstance(config, PreferenceConfig)  # dpo's and kto's checkpoints do not keep what they began as
    if not name and (not tuned or _all_logged(dialogues)):
        return agent.cloned().voice()
    folder = Path(name) if name else policy_of(run)
    if folder is None:
        raise UserError(
            f"the policy {shown(config.policy)} that {run} began as is not there, to estimate propensities that were "
            "not logged: name a run with --behaviour"
        )
    other = load_speaker(str(folder))
    check_vocabulary(agent.tokenizer, other.tokenizer, str(folder))
    return other.voice() if name else Plain(other.policy)  # what it began as


def _all_logged(dialogues: list[Dialogue]) -> bool:
    return all(turn.propensity is not None for log in dialogues for turn in log.turns if turn.speaker == log.agent)


@dataclass(frozen=True, kw_only=True)
class FrontierFlags:
    """What steering brings, and how far it leads from the cloned policy: the run's task played for each β.

    Nothing is trained. Writes frontier.json and frontier.png into the run's folder. Docs: docs/shipping.md.
    """

    betas: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    """How strongly to steer; 0 is always played."""
    num_dialogues: int = 256
    """Conversations for each, the same for all."""
    seed: int = 10_000
    """Seed of the conversations."""


def frontier(args: list[str]) -> int:
    command = shlex.join(["seqrl", "frontier", *args])
    name, args = positional(args)
    options = parse(FrontierFlags, args, FrontierFlags(), "seqrl frontier RUN")
    if name is None:
        raise UserError("frontier needs a run folder, named first: seqrl frontier RUN")
    run, agent, config = Path(name), _steered(name), read_config(name)
    assert isinstance(config, LanguageConfig)
    require(
        bool(config.task),
        f"{run} {NO_TASK}: compare βs on a log with propensities, by "
        f"seqrl ship {quoted(run)} --dialogues HELD_OUT --betas 0,1,2,4,8",
    )
    task = configured_task(config)
    with progress_bar() as progress:
        number = len({0.0, *options.betas})
        bar = progress.add_task(f"frontier {run.name}", total=number, episode_return=None, steps_per_second=0.0)

        def watch(point: Point) -> None:
            progress.update(bar, advance=1, episode_return=point.mean_return[0])

        found = play_betas(
            agent, task, options.betas, options.num_dialogues, seed=options.seed, max_tokens=config.max_tokens,
            watch=watch,
        )  # fmt: skip
    title = " ".join([f"{run.name} on {config.task}", *config.task_kwargs])
    console = Console()
    console.print(report_frontier.table(found, escape(title), console.width))
    console.print(report_frontier.sentence(found))
    about = {"command": command, "versions": {"seqrl": seqrl.__version__, "torch": torch.__version__}}
    print("Written:", *report_frontier.write(run, found, about, title))
    return 0


def _steered(run: str) -> SteeredAgent:
    agent = load_speaker(run)
    if not isinstance(agent, SteeredAgent):
        raise UserError(f"{run} has no values of tokens to steer by: give a run of ilql with --level token")
    return agent


By = Literal["choice", "reply", "change"]
TEXTS = "heard", "said", "answer"


@dataclass(frozen=True, kw_only=True)
class TurnsFlags:
    """Which of the agent's turns raised or lowered the value, in a log, by a run of ilql.

    choice: what the agent's words did; reply: what came back, against what was expected; change: both.
    """

    dialogues: str = ""
    """A log of dialogues."""
    worst: int = 20
    """Turns to list with the greatest fall."""
    best: int = 20
    """Turns to list with the greatest rise."""
    by: By = "choice"
    """What turns are sorted by."""
    output: str = ""
    """File to write these turns to, one a line of JSON, texts whole; by default none."""


def turns(args: list[str]) -> int:
    name, args = positional(args)
    options = parse(TurnsFlags, args, TurnsFlags(), "seqrl turns RUN")
    if name is None:
        raise UserError("turns needs a run folder, named first: seqrl turns RUN --dialogues FILE")
    require(bool(options.dialogues), "no dialogues given: name a log (--dialogues)")
    require(min(options.worst, options.best) >= 0, "--worst and --best are numbers of turns: 0 or more")
    check_output(options.output)
    agent, config = _steered(name), read_config(name)
    dialogues = list(read_dialogues(options.dialogues))
    check_read(agent.values.model, dialogues, agent.tokenizer)
    found = list(turn_values(dialogues, agent.tokenizer, agent.values, getattr(config, "gamma", 1)))
    require(bool(found), f"the agent never speaks in {shown(options.dialogues, 1000)}: give another log (--dialogues)")
    worst, _ = extremes(found, options.worst, options.by)
    _, best = extremes(found, options.best, options.by)
    console, of = Console(), f"of {len(found):,} turns in {shown(Path(options.dialogues).name)}, by {options.by}"
    for kind, number, part in (("falls", options.worst, worst), ("rises", options.best, best)):
        if part:
            console.print(turns_table(part, f"greatest {kind} {of}", console.width))
        elif number:
            print(f"no {kind} {of}")
    if options.output:
        lines = [{"list": kind, **turn.as_dict()} for kind, part in (("worst", worst), ("best", best)) for turn in part]
        _write_lines(Path(options.output), lines)
        print("Written:", options.output)
    return 0


def turns_table(found: list[TurnValue], title: str, width: int = WIDTH) -> Table:
    """For a terminal: what was heard and said, escaped and cut, and what it did to the value. Where three columns of
    words would be too narrow to be read, they stand below each other."""
    table = plain_table(escape(title))
    wide = width >= WIDTH
    table.add_column("dialogue, turn", no_wrap=wide, ratio=None if wide else 1, overflow="fold")
    for heading in TEXTS if wide else ():
        table.add_column(heading, ratio=1, overflow="fold")
    for heading in ("before", "choice", "reply", "reward"):
        table.add_column(heading, justify="right", no_wrap=True)
    for turn in found:
        name = escape(f"{shown(turn.dialogue, 16)}, {turn.turn}")
        texts = [escape(shown(words)) for words in (turn.heard, turn.said, turn.answer)]
        if not wide:
            lines = (f"{what}: {words}" for what, words in zip(TEXTS, texts, strict=True))
            name, texts = "\n".join((f"[bold]{name}[/bold]", *lines)), []
        figures = f"{turn.before:.2g}", f"{turn.choice:+.2g}", f"{turn.reply:+.2g}", f"{turn.reward:.3g}"
        table.add_row(name, *texts, *figures, end_section=not wide)
    return table


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Texts as JSON escapes them in ASCII: no control character and no mark that turns writing stays as it is."""
    content = "".join(json.dumps(line, ensure_ascii=True, allow_nan=False) + "\n" for line in lines)
    try:
        write_atomically(path, content.encode())
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another --output") from None
