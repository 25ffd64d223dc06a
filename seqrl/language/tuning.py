"""Played conversations as what a policy learns from: the agent's own tokens, what they were worth, how likely."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqrl.language.likelihood import Decided, decided, kl_divergence
from seqrl.language.play import Played
from seqrl.language.rows import TokenRows, TokenTurn, batch_of, rows_of
from seqrl.language.tuned import TunedAgent, TunedSpeaker, spread
from seqrl.objectives import gae, vtrace
from seqrl.objectives.groups import group_standardized_advantage
from seqrl.objectives.kl import kl_k1, kl_k3
from seqrl.text import Tokenizer
from seqrl.trajectory import to_device


class Experience(NamedTuple):
    """B conversations at the agent's own tokens, compact: row d is its d-th one (`Decided`)."""

    tokens: Int[Tensor, "T B"]
    said: Decided
    log_prob: Float[Tensor, "D B"]
    """log π of the tokens by the policy that drew them, as computed for training; 0 where there is none."""
    reference: Float[Tensor, "N H"]
    """The reference's features, of the tokens that there are."""
    kl: Float[Tensor, "D B"]
    """KL(π ‖ π_ref) of the policy that drew, exact over the vocabulary; 0 where there is no token."""
    estimate: Float[Tensor, "D B"]
    """The same as the estimator that is trained on gives it."""
    entropy: Float[Tensor, "D B"]
    value: Float[Tensor, "D B"]
    advantage: Float[Tensor, "D B"]
    target: Float[Tensor, "D B"]
    """For the value."""
    log_p: Float[Tensor, "N V"] | None = None
    """log π of all tokens, with what its gradient needs: where the first loss follows before the policy changes."""
    weight: Float[Tensor, "D B"] | None = None
    """min(ρ̄, π / μ) where an older policy μ spoke, by which the policy's gradient is multiplied."""


def scored_rows(
    played: Sequence[Played], scores: Sequence[Sequence[float]], unfinished_penalty: float, tokenizer: Tokenizer
) -> list[TokenRows]:
    """The conversations in rows, with `scores` as rewards, less the penalty for each turn that was cut off."""
    return [
        rows_of(_scored(each, score, unfinished_penalty), tokenizer) for each, score in zip(played, scores, strict=True)
    ]


def _scored(played: Played, score: Sequence[float], unfinished_penalty: float) -> list[TokenTurn]:
    values = iter(score)
    return [
        dataclasses.replace(turn, reward=next(values) - (0.0 if turn.ended else unfinished_penalty))
        if turn.agent and not turn.given
        else turn
        for turn in played.turns
    ]


@torch.no_grad()
def observe(agent: TunedAgent, rows: Sequence[TokenRows], kl: str = "exact", with_graph: bool = False) -> Experience:
    """What both models say of conversations side by side; of advantages and targets nothing yet.

    `with_graph` keeps what the policy's gradient needs, so that the loss that comes next need not read them again.
    """
    batch, said = batch_of(rows), decided(rows)
    tokens, said = to_device((batch.tokens[:-1], said), agent.device)
    reference = agent.features(agent.reference, tokens, said)
    with torch.set_grad_enabled(with_graph):
        graph = agent.log_probs(agent.policy, agent.features(agent.policy, tokens, said))
    log_p = graph.detach()
    log_q = agent.log_probs(agent.reference, reference)
    log_prob = of_said(log_p, said)
    exact = spread(kl_divergence(log_p, log_q), said)
    estimate = exact if kl == "exact" else ESTIMATORS[kl](log_prob, of_said(log_q, said))
    entropy = spread(-(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1), said)  # 0 log 0 is 0
    nothing = torch.zeros_like(log_prob)
    value = agent.worth(tokens, said)
    return Experience(
        tokens, said, log_prob, reference, exact, estimate, entropy, value, nothing, nothing,
        log_p=graph if with_graph else None,
    )  # fmt: skip


@torch.no_grad()
def said_by(speaker: TunedSpeaker, rows: Sequence[TokenRows]) -> Float[Tensor, "D B"]:
    """log π of the agent's tokens, to the last bit as `observe` computes it of the same conversations."""
    batch, said = batch_of(rows), decided(rows)
    tokens, said = to_device((batch.tokens[:-1], said), speaker.device)
    return of_said(speaker.log_probs(speaker.policy, speaker.features(speaker.policy, tokens, said)), said)


ESTIMATORS = {"k1": kl_k1, "k3": kl_k3}
"""Of the KL, from tokens that were drawn."""


def of_said(log_p: Float[Tensor, "N V"], said: Decided) -> Float[Tensor, "D B"]:
    """log π of the tokens that were said, 0 where there is none."""
    return spread(log_p.gather(-1, said.token[said.valid][:, None])[:, 0], said)


def with_gae(batch: Experience, reward: Float[Tensor, "D B"], gamma: float, lambda_: float) -> Experience:
    """Advantages by values: the trace runs on across what the other says, and ends with the conversation."""
    next_value = torch.cat([batch.value[1:], torch.zeros_like(batch.value[:1])])  # 0 behind the last token
    target, advantage = gae(reward, torch.full_like(reward, gamma), batch.value, next_value, lambda_)
    valid = batch.said.valid
    return batch._replace(target=target.masked_fill(~valid, 0.0), advantage=advantage.masked_fill(~valid, 0.0))


def with_vtrace(
    batch: Experience,
    reward: Float[Tensor, "D B"],
    behaviour: Float[Tensor, "D B"],
    gamma: float,
    lambda_: float,
    clip_rho: float,
    clip_c: float,
) -> Experience:
    """`with_gae` where an older policy spoke, with log-probabilities `behaviour`: V-trace's targets and advantages.

    V-trace multiplies its advantage by ρ; here ρ stands apart, in `weight`, so that to standardise advantages takes
    nothing from the gradient but a baseline: their mean has to be subtracted before ρ multiplies.
    """  # fmt: skip
    batch = with_truncated_ratio(batch, behaviour, clip_rho)
    assert batch.weight is not None
    next_value = torch.cat([batch.value[1:], torch.zeros_like(batch.value[:1])])  # 0 behind the last token
    target, advantage = vtrace(
        behaviour, batch.log_prob, reward, torch.full_like(reward, gamma), batch.value, next_value, clip_rho, clip_c,
        lambda_,
    )  # fmt: skip
    advantage = advantage / batch.weight.clamp(min=torch.finfo(advantage.dtype).tiny)
    valid = batch.said.valid
    return batch._replace(target=target.masked_fill(~valid, 0.0), advantage=advantage.masked_fill(~valid, 0.0))


def with_truncated_ratio(batch: Experience, behaviour: Float[Tensor, "D B"], clip: float) -> Experience:
    """The weight min(clip, π / μ) of each token, where an older policy μ spoke. Its mean is at most 1.

    Of a token alone: the product over all tokens before would be exact, and of no use, since its variance grows
    exponentially with them.
    """
    return batch._replace(weight=(batch.log_prob - behaviour).exp().clamp(max=clip))


def returns_to_go(said: Decided, reward: Float[Tensor, "D B"]) -> Float[Tensor, "K B"]:
    """Of each of the agent's turns: what it and those after it earned; 0 for turns that there were not."""
    return said.by_turn(reward).flip(0).cumsum(0).flip(0)


def leave_one_out_to_go(
    to_go: Float[Tensor, "K N"], reached: Bool[Tensor, "K N"], group_size: int
) -> Float[Tensor, "K N"]:
    """A_{i,k} = G_{i,k} − mean of G_{j,k} over the others j ≠ i of the group that came to turn k; less nothing if none.

    Unbiased though the policy decides when to stop: the baseline is made of others alone, who know nothing of i. With i
    among them it would be biased: the fewer came as far, the more of the return its own baseline would take away, so
    late turns would be learnt from less (all of it where i came there alone). See verl#7244. With one turn each this is
    `leave_one_out_advantage`.
    """
    x = to_go.masked_fill(~reached, 0.0).unflatten(1, (-1, group_size))
    here = reached.unflatten(1, (-1, group_size)).float()
    others, count = x.sum(-1, keepdim=True) - x, here.sum(-1, keepdim=True) - here
    return ((x - others / count.clamp(min=1)) * here).flatten(1)


def with_group_advantages(
    batches: Sequence[Experience], rewards: Sequence[Float[Tensor, "D B"]], method: str, group_size: int
) -> list[Experience]:
    """Advantages by groups of conversations that began alike, all of a turn's tokens alike.

    rloo: `leave_one_out_to_go`.   grpo: that of whole conversations, standardised in the group, on all of their tokens.
    """
    to_go = [returns_to_go(batch.said, reward) for batch, reward in zip(batches, rewards, strict=True)]
    size = max(len(each) for each in to_go)
    whole = torch.cat([torch.nn.functional.pad(each, (0, 0, 0, size - len(each))) for each in to_go], 1)
    if method == "rloo":
        turns = torch.cat([batch.said.num_turns for batch in batches])
        reached = torch.arange(size, device=turns.device)[:, None] < turns
        advantage = leave_one_out_to_go(whole, reached, group_size)
    else:
        standard = group_standardized_advantage(whole[0].unflatten(0, (-1, group_size)))
        advantage = standard.flatten().expand(size, -1)
    parts = advantage.split([batch.tokens.shape[1] for batch in batches], 1)
    return [
        batch._replace(
            advantage=part.gather(0, batch.said.turn.clamp(min=0)).masked_fill(~batch.said.valid, 0.0)
        )
        for batch, part in zip(batches, parts, strict=True)
    ]  # fmt: skip
