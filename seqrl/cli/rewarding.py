"""seqrl reward: a log of dialogues with other rewards."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean

from seqrl.cli.arguments import parse, positional
from seqrl.data.dialogues import Dialogue, read_dialogues, shown, write_dialogues
from seqrl.errors import UserError, quoted
from seqrl.language.rewards import UnknownOutcomeError, combined, outcome_of, with_rewards
from seqrl.language.scoring import weights_of
from seqrl.language.word_list import WordList


@dataclass(frozen=True, kw_only=True)
class Reward:
    """Write a log of dialogues again, its rewards made anew: the sum of what is named here, each by its weight.

    Rewards that the log had are dropped, unless --logged weighs them. What is known at the end alone comes on the
    agent's last turn.
    """

    output: str = ""
    """File to write; must not exist yet."""
    logged: float | None = None
    """Weight of the rewards that the log has; 0 where it has none."""
    points: float | None = None
    """… of outcome.points."""
    agreement: float | None = None
    """… of outcome.agreement, 1 or 0."""
    satisfaction: float | None = None
    """… of outcome.satisfaction: a number, or CaSiNo's words as 1 to 5."""
    outcome: tuple[str, ...] = ()
    """… of any other number or boolean that outcome or meta has, KEY=WEIGHT each, such as resolved=5 csat=1."""
    thumbs: float | None = None
    """… of thumbs, 1 up, -1 down: the turn's, and those on what others say before the agent's next."""
    clicks: float | None = None
    """… of clicks, likewise."""
    turns: float | None = None
    """… of each of the agent's turns, 1."""
    length: float | None = None
    """… of how many words a turn of the agent has."""
    sentiment: float | None = None
    """… of how friendly the answer is, -1 to 1; English. Needs vaderSentiment."""
    toxicity: float | None = None
    """… of turns that have a word of --words, 1. A weight below 0 keeps them from being learnt."""
    skip_unknown: bool = False
    """Leave out dialogues whose log does not know points, agreement, satisfaction or the --outcome that is weighed."""
    words: str = ""
    """File of words not to be said, one a line; with * at its end, also what begins with it."""


def reward(args: list[str]) -> int:
    log, args = positional(args)
    options = parse(Reward, args, Reward(), "seqrl reward LOG")
    if log is None:
        raise UserError("reward needs a log of dialogues, named first: seqrl reward LOG --points 1 --output FILE")
    if not options.output:
        raise UserError("where to? Give --output FILE")
    if Path(options.output).exists():
        raise UserError(f"{shown(options.output, 1000)} exists already: choose another file")
    chosen = _chosen(options)
    returns: list[float] = []
    skipped: list[UnknownOutcomeError] = []

    def rewarded() -> Iterator[Dialogue]:
        for dialogue in read_dialogues(log):
            try:
                result = with_rewards(dialogue, chosen)
            except UnknownOutcomeError as error:
                if not options.skip_unknown:
                    raise UserError(f"{error}; --skip-unknown leaves out such dialogues") from None
                skipped.append(error)
                continue
            returns.append(sum(turn.reward or 0.0 for turn in result.turns))
            yield result
        if skipped and not returns:
            raise UserError(f"--skip-unknown would leave no dialogue: {skipped[0]}")

    number = write_dialogues(options.output, rewarded())
    path, left_out = shown(options.output, 1000), f" ({len(skipped):,} left out)" if skipped else ""
    print(f"{path}: {number:,} dialogues{left_out}, returns {min(returns):.4g} to {max(returns):.4g}, mean "
          f"{fmean(returns):.4g}. Look at them first: seqrl audit {quoted(path)}")  # fmt: skip
    return 0


def _chosen(options: Reward) -> Callable[[Dialogue], list[float]]:
    """The rewards that are weighed, added up."""
    names = [field.name for field in fields(Reward) if field.type == float | None]
    weights = {name: value for name in names if (value := getattr(options, name)) is not None}
    outcomes = weights_of(options.outcome, "--outcome") if options.outcome else {}
    if not weights and not outcomes:
        flags = ", ".join(f"--{name}" for name in [*names, "outcome"])
        raise UserError(f"no reward is weighed: give some of {flags}, such as --points 1")
    if options.words and "toxicity" not in weights:
        raise UserError("--words is for --toxicity: weigh it, such as --toxicity -5")
    return combined(
        weights | {f"outcome.{key}": weight for key, weight in outcomes.items()},
        judge=WordList.of_file(options.words) if options.words else None,
        own={f"outcome.{key}": outcome_of(key) for key in outcomes},
    )
