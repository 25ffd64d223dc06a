"""seqrl collect --task, seqrl evaluate of what speaks."""

import dataclasses
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from seqrl.algorithms import load_speaker, read_config, rlhf
from seqrl.cli.arguments import parse, positionals
from seqrl.cli.outputs import DATASETS, check_output, print_row, write_output
from seqrl.cli.without_task import NO_TASK, ways
from seqrl.config import parse_env_kwargs, require
from seqrl.data.dialogues import Dialogue, read_dialogues, shown, write_dialogues
from seqrl.errors import UserError, quoted
from seqrl.evaluate import equal_shares
from seqrl.language.agent import LanguageAgent
from seqrl.language.foretelling import foretold
from seqrl.language.generation import Plain, Sampling
from seqrl.language.logging import logged_play
from seqrl.language.play import Played, play
from seqrl.language.prompted import Prompted, prompts_of
from seqrl.language.scripted import AGENT, scripted_dialogues
from seqrl.language.steering import SteeredAgent
from seqrl.language_runs.config import LanguageConfig
from seqrl.language_runs.lengths import check_prompts, check_read
from seqrl.language_runs.rlhf import make_scorer
from seqrl.language_runs.rlhf_config import check_prompted
from seqrl.language_runs.run import check_reads
from seqrl.progress import progress_bar
from seqrl.reports.common import mean_and_interval, no_proof
from seqrl.run_folder import first_free
from seqrl.seeds import derived_seed
from seqrl.statistics import mean_and_half_width, percent
from seqrl.text import TextTask, Tokenizer, make_task

OTHER = "other"
"""Whoever speaks with the agent, where conversations are shown."""


@dataclass(frozen=True, kw_only=True)
class CollectDialogues:
    """Log conversations of scripted speakers, or of trained ones, with a task: a log of dialogues to learn from.

    Speakers are named first: random, the task's own (such as optimal), NAME:EPSILON for one that says something random
    with that probability, or run folders. Each has an equal share.
    """

    task: str = ""
    """The task, such as wordle."""
    task_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Arguments of the task, such as words=FILE; values are JSON."""
    num_dialogues: Annotated[int, tyro.conf.arg(aliases=["--num-episodes", "--episodes"])] = 1000
    """Conversations to log."""
    seed: int = 0
    """Seeds the conversations and what is said."""
    output: str = ""
    """File to write; by default datasets/TASK.jsonl, numbered if that is taken."""


def collect_dialogues(args: list[str]) -> int:
    names, args = positionals(args)
    options = parse(CollectDialogues, args, CollectDialogues(), "seqrl collect SPEAKER --task TASK")
    require(bool(names), "collect --task needs a speaker or a run folder, named first, such as random or optimal:0.3")
    task = make_task(options.task, **parse_env_kwargs(options.task_kwargs, "--task-kwargs"))
    require(
        options.num_dialogues >= len(names),
        f"--num-dialogues is {options.num_dialogues}: it must be at least {len(names)}, one for each that speaks",
    )
    path = Path(options.output or first_free(DATASETS, options.task, ".jsonl"))
    require(not path.exists(), f"{path} exists already (--output): choose another file, or remove it")
    totals: list[float] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dialogues(path, _counted(_collected(task, names, options), totals))
    except KeyboardInterrupt:
        print("seqrl: interrupted; no dialogues were kept", file=sys.stderr)
        return 130
    print(f"{path}: {len(totals):,} dialogues, mean return {sum(totals) / len(totals):.4g}. "
          f"Look at them first: seqrl audit {quoted(path)}")  # fmt: skip
    return 0


def _collected(task: TextTask[Any], names: list[str], options: CollectDialogues) -> Iterator[Dialogue]:
    """The conversations of each speaker in turn, numbered through."""
    number = 0
    shares = equal_shares(options.num_dialogues, len(names)).tolist()
    for k, (name, share) in enumerate(zip(names, shares, strict=True)):
        seed = derived_seed(options.seed, k) >> 1
        if Path(name).is_dir():
            agent = load_speaker(name)
            check_reads(agent.tokenizer, task, name)
            spoken: Iterator[Dialogue] = logged_play(
                task, agent.voice(), share, tokenizer=agent.tokenizer, seed=seed,
                max_tokens=read_config(name).max_tokens,
            )  # fmt: skip
        else:
            spoken = scripted_dialogues(task, [name], share, seed)
        for dialogue in spoken:
            meta = {**dialogue.meta, "speaker": name}
            yield dataclasses.replace(dialogue, id=f"{options.task}-{options.seed}-{number}", meta=meta)
            number += 1


def _counted(dialogues: Iterator[Dialogue], totals: list[float]) -> Iterator[Dialogue]:
    for dialogue in dialogues:
        totals.append(sum(turn.reward or 0.0 for turn in dialogue.turns))
        yield dialogue


@dataclass(frozen=True, kw_only=True)
class SpokenIn:
    """What a run speaks in, where it is not its own."""

    task: str = ""
    """Another task than the run's."""
    task_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Other arguments of the task, KEY=VALUE."""
    prompts: str = ""
    """Or a log of dialogues: what was said before each of its agent's turns is a prompt to answer."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSpeaker(SpokenIn):
    """Let a trained speaker talk to the task that it was trained on, or another of the same vocabulary.

    Or let it answer a log's prompts, with --reward; or without, see how well it foretells the log's own answers.
    """

    num_dialogues: Annotated[int, tyro.conf.arg(aliases=["--num-episodes"])] = 100
    """Conversations to have."""
    seed: int = 10_000
    """Seed of the conversations."""
    sample: bool = False
    """Draw tokens from the probabilities, as runs of chai always do; else the likeliest one is taken."""
    beta: float = -1.0
    """β by which values steer, of a run of ilql; 0 for the cloned policy, below 0 for the run's own."""
    prompts: str = ""
    """Or a log of dialogues: without --reward, how likely its answers are, all of them; with it, what was said before
    each is a prompt to answer."""
    reward: tuple[str, ...] = ()
    """What is earned in place of the task's reward, NAME or NAME=WEIGHT each, such as own_sentiment=1 length=-0.01, or
    the run folder of a reward model. A run that was trained with one answers --prompts for its own."""
    show: int = 0
    """Conversations to print, besides."""
    output: str = ""
    """File to write each conversation's return and number of utterances to as JSON; by default none."""


def evaluate_speaker(run: str, args: list[str]) -> int:
    """`seqrl evaluate` for a run of what speaks."""
    options = parse(EvaluateSpeaker, args, EvaluateSpeaker(), "seqrl evaluate RUN")
    require(options.num_dialogues >= 1, f"--num-dialogues is {options.num_dialogues}: it must be at least 1")
    require(math.isfinite(options.beta), f"--beta is {options.beta}: it must be a number, 0 or more")
    check_output(options.output)
    config: LanguageConfig = read_config(run)
    agent = load_speaker(run)
    prompts = prompts_for(config, options)
    own = config.reward if isinstance(config, rlhf.Config) and not options.task else ()
    if prompts and not options.reward and own in ((), ("task",)):
        return _foretell(run, config, agent, options)
    task, name = problem(run, config, options, agent.tokenizer, ways(run, config))
    reward = options.reward or own or ("task",)
    if prompts:
        check_prompted(reward)
        check_answers(prompts, agent, config)
    voice, steering = _voice(agent, options.beta)
    draws = options.sample or hasattr(voice, "speak")  # of utterances that are all the likeliest none can be chosen
    played = play(
        task, voice, options.num_dialogues, tokenizer=agent.tokenizer, seed=options.seed,
        sampling=Sampling(temperature=1.0 if draws else 0.0), max_tokens=config.max_tokens,
    )  # fmt: skip
    totals = [each.total for each in played]
    if reward != ("task",):
        totals = [sum(each) for each in make_scorer(reward, agent.tokenizer)(played)]
        steering += f", scored by {' '.join(reward)}"
    lengths = [len(each.dialogue.rewards) for each in played]
    mean, half_width = mean_and_half_width(totals)
    columns = {
        "dialogues": str(len(totals)),
        "return (95 %)": mean_and_interval(mean, half_width),
        "lowest": f"{min(totals):.4g}",
        "highest": f"{max(totals):.4g}",
        "mean utterances": f"{sum(lengths) / len(lengths):.1f}",
    }
    print_row(f"{run} on {name}{steering}", columns)
    if alike := no_proof(totals, "dialogues"):
        print(alike)
    for each, total in list(zip(played, totals, strict=True))[: options.show]:
        print(*_lines(each), f"return {total:g}\n", sep="\n")
    own_beta = agent.beta if isinstance(agent, SteeredAgent) else None
    figures = {
        "run": run, "problem": name, "reward": reward, "beta": own_beta if options.beta < 0 else options.beta,
        "seed": options.seed, "sample": draws, "num_dialogues": len(totals),
        "returns": totals, "lengths": lengths, "mean": mean, "half_width": half_width,
    }  # fmt: skip
    write_output(options.output, figures)
    return 0


def _foretell(run: str, config: LanguageConfig, agent: LanguageAgent, options: EvaluateSpeaker) -> int:
    """How likely the answers of a log are; --show prints what the run would say in their place."""
    log, tokenizer = options.prompts, agent.tokenizer
    _check_one_problem(options)
    dialogues = list(read_dialogues(log))
    check_read(agent.policy, dialogues, tokenizer)
    voice, steering = _voice(agent, options.beta)
    if hasattr(voice, "speak"):  # how likely it says an utterance is not known
        voice, steering = Plain(agent.policy), ", by the policy that proposes"
    with progress_bar() as progress:
        bar = progress.add_task(f"evaluate {run}", total=len(dialogues), episode_return=None, steps_per_second=0.0)
        found = foretold(voice, dialogues, tokenizer, lambda number: progress.advance(bar, number))
    columns = {
        "dialogues": f"{found.num_dialogues:,}", "answers": f"{found.num_turns:,}", "tokens": f"{found.num_tokens:,}",
        "loss (nats a token)": f"{found.loss:.4g}", "perplexity": f"{found.perplexity:.4g}",
        "likeliest token": percent(found.accuracy),
    }  # fmt: skip
    print_row(f"{run} on the answers of {shown(log, 1000)}{steering}", columns)
    if options.show:
        task = Prompted(prompts_of(dialogues), tokenizer)
        sampling = Sampling(temperature=float(options.sample))
        for each in play(
            task, voice, options.show, tokenizer=tokenizer, seed=options.seed, sampling=sampling,
            max_tokens=config.max_tokens,
        ):  # fmt: skip
            print(*_lines(each), "", sep="\n")
    write_output(options.output, {"run": run, "prompts": log, **found._asdict()})
    return 0


def _lines(played: Played) -> Iterator[str]:
    """What was said by whom, in order, the history of a prompt too."""
    said = [*played.history, *((bool(k % 2), text) for k, text in enumerate(played.dialogue.texts) if k % 2 or text)]
    return (f"{AGENT if agent else OTHER}> {shown(text, 1000)}" for agent, text in said)


def _check_one_problem(options: SpokenIn) -> None:
    require(not (options.task and options.prompts), "--task and --prompts: give one of them")


def prompts_for(config: LanguageConfig, options: SpokenIn) -> str:
    """The log whose prompts are answered: the options', else the run's own."""
    return options.prompts or ("" if options.task else getattr(config, "prompts", ""))


def check_answers(prompts: str, agent: LanguageAgent, config: LanguageConfig) -> None:
    """Raise UserError where the run's model cannot read the prompts of a log and an answer."""
    check_prompts(agent.policy, prompts, agent.tokenizer, config.max_tokens, "shorten what is said before")


def problem(
    run: str, config: LanguageConfig, options: SpokenIn, tokenizer: Tokenizer, way_out: str
) -> tuple[TextTask[Any], str]:
    """What is spoken in, and how it is called: what the options name, else the run's own. Raises UserError, which ends
    with `way_out`, where there is none."""
    _check_one_problem(options)
    prompts = prompts_for(config, options)
    if prompts:
        return Prompted(prompts_of(read_dialogues(prompts)), tokenizer), f"prompts of {prompts}"
    name, kwargs = options.task or config.task, options.task_kwargs or ((), config.task_kwargs)[not options.task]
    require(bool(name), f"{run} {NO_TASK}: name one of the same words with --task, or {way_out}")
    task = make_task(name, **parse_env_kwargs(kwargs, "--task-kwargs"))
    check_reads(tokenizer, task, run)
    return task, " ".join([name, *kwargs])


def _voice(agent: LanguageAgent, beta: float) -> tuple[Any, str]:
    if isinstance(agent, SteeredAgent):
        beta = agent.beta if beta < 0 else beta
        return agent.voice(beta), f", β = {beta:g}"
    if beta >= 0:
        raise UserError("--beta steers by values, which this run does not have: give a run of ilql")
    return agent.voice(), ""
