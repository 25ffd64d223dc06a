"""What a policy would have brought in logged dialogues, an utterance at a time, with intervals over dialogues."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqrl.data.dialogues import Dialogue, shown
from seqrl.data.held_out import groups_of
from seqrl.errors import UserError
from seqrl.language.generation import Voice, sayable
from seqrl.language.likelihood import Decided, decided, log_probs, of_tokens
from seqrl.language.rows import TokenRows, rows_of, token_turns
from seqrl.objectives import (
    bootstrap_count,
    effective_sample_size,
    log_weights,
    turn_action_value,
    weighted_doubly_robust,
    weighted_importance_sampling,
    weighted_per_decision,
)
from seqrl.off_policy.fitted import FittedConfig, cross_fitted
from seqrl.seeds import derived_seed
from seqrl.text import Tokenizer

WIS, PER_DECISION, ROBUST, FITTED = (
    "weighted importance sampling", "per-turn weights", "weighted doubly robust", "fitted Q evaluation",
)  # fmt: skip
MAX_NUMBERS = 2**29
"""Probabilities that are held at once, of all tokens at all of the agent's decisions: 2 GiB."""


class Turns(NamedTuple):
    """The agent's turns of B logged dialogues, time first: what objectives of off-policy evaluation take."""

    log_ratio: Float[Tensor, "K B"]
    """log π(utterance) − log μ(utterance)."""
    reward: Float[Tensor, "K B"]
    mask: Bool[Tensor, "K B"]


class Interval(NamedTuple):
    """An estimate and its 95 % interval, NaN where it has none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of one policy on one log. Intervals are percentiles over resampled dialogues, 95 %; those that belong
    together, as both sides of a negotiation do, are drawn together."""

    num_dialogues: int
    num_turns: int
    """The agent's."""
    gamma: float
    logged: Interval
    """Mean return of the logged dialogues: of the policy that was logged."""
    estimates: dict[str, Interval]
    """Of the mean return of the policy that is asked about, by estimator; the one to go by comes first. Fitted Q
    evaluation has no interval: how wrong a fit is, resampled dialogues do not tell."""
    gain: Interval
    """The first of the estimates less the logged mean, in the same resamples."""
    effective_size: float
    """Kish's, of the weights of whole dialogues."""
    effective_size_by_turn: list[float]
    mean_weight: Interval
    """Of whole dialogues. 1 is expected, if whatever the policy says is sometimes logged and propensities are right."""
    greatest_share: float
    """Of all weight, that of the heaviest dialogue."""
    shares: list[float]
    """The weights of dialogues as shares of their sum, the heaviest first."""
    num_propensities: int
    """The agent's turns with a logged propensity; of the others it was estimated."""
    num_unrewarded: int
    """Dialogues in which no turn of the agent has a reward: nothing was logged, which is not a 0."""


def evaluate_logged(
    dialogues: Sequence[Dialogue],
    tokenizer: Tokenizer,
    voice: Voice,
    behaviour: Voice,
    *,
    gamma: float = 1.0,
    fitted: FittedConfig | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    watch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """How `voice` would have fared in `dialogues`, which it did not learn from.

    An utterance's weight is π(utterance) / μ(utterance): π by `voice`, μ the logged `Turn.propensity`, or where there
    is none, the probability by `behaviour`, a model that was trained to say what was logged. With `fitted`, values of
    the policy are fitted (seqrl.off_policy.fitted), and doubly robust estimates go by them; else the estimate to go by
    is the weighted one per turn. `seed` draws resamples; values are not fitted anew for each.

    Texts are weighed as the tokenizer writes them: another way to spell the same text in tokens does not count.
    Raises UserError for a text that the tokenizer cannot read, a propensity outside (0, 1], an agent that never speaks.
    """
    for each in (voice, behaviour):
        if hasattr(each, "speak"):
            raise UserError(
                f"{type(each).__name__} chooses among whole utterances, with probabilities that are not known: "
                "evaluate a policy that is drawn from token by token (bc, ilql)"
            )
    logs = [rows_of(token_turns(dialogue, tokenizer), tokenizer) for dialogue in dialogues]
    propensity = logged_propensities(dialogues)
    said = decided(logs)
    if said.token.numel() * len(tokenizer) > MAX_NUMBERS:
        raise UserError(
            f"{len(logs):,} dialogues of up to {len(said.token):,} of the agent's tokens, each with {len(tokenizer):,} "
            "probabilities, do not fit: evaluate fewer dialogues at once"
        )
    allowed = sayable(tokenizer)
    log_pi = log_probs(voice, logs, allowed)
    watch()
    known = propensity.isfinite()
    mask = torch.arange(len(propensity))[:, None] < said.num_turns
    log_mu = propensity
    if not known[mask].all():
        estimated = said.by_turn(of_tokens(log_probs(behaviour, logs, allowed), said)).double()
        log_mu = torch.where(known, propensity, estimated)
    watch()
    log_ratio = said.by_turn(of_tokens(log_pi, said)).double() - log_mu
    turns = Turns(log_ratio.masked_fill(~mask, 0.0), said.by_turn(said.reward).double(), mask)
    groups = torch.tensor(groups_of(dialogues))
    values = _turn_values(logs, said, log_pi, gamma, fitted, groups, watch) if fitted else None
    unrewarded = sum(all(turn.reward is None for turn in dialogue.turns) for dialogue in dialogues)
    return estimate(turns, values, gamma, num_resamples, seed, int((known & mask).sum()), unrewarded, groups)


def logged_propensities(dialogues: Sequence[Dialogue]) -> Float[Tensor, "K B"]:
    """Logarithms of what was logged for the agent's turns, −inf where nothing was. Raises UserError as above."""
    columns = []
    for dialogue in dialogues:
        mine = [(k, turn) for k, turn in enumerate(dialogue.turns) if turn.speaker == dialogue.agent]
        if not mine:
            raise UserError(
                f"the agent never speaks in dialogue {shown(dialogue.id)}: leave it out, by "
                "seqrl audit LOG --keep-good FILE"
            )
        for k, turn in mine:
            if turn.propensity is not None and not 0 < turn.propensity <= 1:
                raise UserError(
                    f"dialogue {shown(dialogue.id)}: turns[{k}] has the propensity {turn.propensity:.6g}: what was "
                    "said had a probability above 0 and at most 1; see seqrl audit"
                )
        columns.append([-math.inf if turn.propensity is None else math.log(turn.propensity) for _, turn in mine])
    tensors = [torch.tensor(column, dtype=torch.float64) for column in columns]
    return torch.nn.utils.rnn.pad_sequence(tensors, padding_value=-math.inf)


def _turn_values(
    logs: Sequence[TokenRows],
    said: Decided,
    log_pi: Tensor,
    gamma: float,
    fitted: FittedConfig,
    groups: Int[Tensor, "B"],
    watch: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """Q of each logged utterance, and its mean over what the policy would say there, [K, B] each."""
    q, v = cross_fitted(logs, said, log_pi, gamma, fitted, watch, groups)
    begins = torch.cat([torch.ones_like(said.ends_turn[:1]), said.ends_turn[:-1]])
    of_turn = turn_action_value(q, v, said.ends_turn, said.valid)
    return said.by_turn(of_turn).double(), said.by_turn(v.masked_fill(~begins, 0.0)).double()


def estimate(
    turns: Turns,
    values: tuple[Tensor, Tensor] | None,
    gamma: float = 1.0,
    num_resamples: int = 1000,
    seed: int = 0,
    num_propensities: int = 0,
    num_unrewarded: int = 0,
    groups: Int[Tensor, "B"] | None = None,
) -> Evaluation:
    """All figures, from turns [K, B] and the policy's values (Q of what was said, V) of them, if there are any.

    Dialogues of one of `groups`, counted from 0, are resampled together (Field & Welsh 2007, "Bootstrapping clustered
    data"); by default each alone, and so where all are of one.
    """
    log_ratio, reward, mask = turns
    B = mask.shape[1]
    if groups is None or not groups.any():
        groups = torch.arange(B)
    generator = torch.Generator().manual_seed(derived_seed(seed, 0))
    # The first row is the log itself.
    drawn = bootstrap_count(int(groups.max()) + 1, num_resamples, generator)[:, groups]
    count = torch.cat([torch.ones(1, B, dtype=torch.float64), drawn])
    number = count.sum(1)  # of dialogues, which varies where groups are of different sizes
    found = {}
    if values is not None:
        found[ROBUST] = weighted_doubly_robust(log_ratio, reward, *values, mask, gamma, count)
    found[PER_DECISION] = weighted_per_decision(log_ratio, reward, mask, gamma, count)
    found[WIS] = weighted_importance_sampling(log_ratio, reward, mask, gamma, count)
    if values is not None:
        # Resampled dialogues leave the fit as it is: an interval of them would tell nothing of its error.
        found[FITTED] = torch.full((2,), math.nan).index_fill(0, torch.tensor(0), float(values[1][0].mean()))
    discounted = gamma ** torch.arange(len(reward), dtype=torch.float64) @ reward
    logged = count @ discounted / number
    log_weight = log_weights(log_ratio, mask)
    last = log_weight[-1]
    shares = (last - last.logsumexp(0)).exp().nan_to_num().sort(descending=True).values
    return Evaluation(
        num_dialogues=B,
        num_turns=int(mask.sum()),
        gamma=gamma,
        logged=_interval(logged),
        estimates={name: _interval(values) for name, values in found.items()},
        gain=_interval(next(iter(found.values())) - logged),
        effective_size=float(effective_sample_size(last)),
        effective_size_by_turn=effective_sample_size(log_weight).tolist(),
        mean_weight=_interval(count @ last.clamp(max=700).exp() / number),
        greatest_share=float(shares[0]),
        shares=shares.tolist(),
        num_propensities=num_propensities,
        num_unrewarded=num_unrewarded,
    )


def _interval(values: Float[Tensor, "R"]) -> Interval:
    """The first value, and percentiles of the others."""
    low, high = values[1:].quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return Interval(float(values[0]), low, high)
