"""CHAI: a language model proposes utterances, and a critic learnt from logged dialogues chooses among them.

At each of the agent's turns k, with s_k all that was said before, u_k what was logged, r_k what it earned, and P
utterances u'_1 … u'_P drawn by a language model π_b (a run of `bc`, which stays as it is), for two networks Q_i:

    Q:     (r_k + γ W(s_{k+1}) − Q_i(s_k, u_k))²          W = 0 behind the dialogue's last turn
    W(s) = max_p score(s, u'_p),                          or their mean by softmax(score / backup_temperature)
    V:     (mean_p min_i Q̄_i(s_k, u'_p) − V(s_k))²        what is shown beside Q; nothing is learnt from it
    Q̄_i ← (1 − ρ) Q̄_i + ρ Q_i after each update

    critic     score(s, u)                                 besides
    proposals  min_i Q̄_i(s, u)
    cql        min_i Q̄_i(s, u)                             + α (log Σ exp q_i over u'_1 … u'_P and u_k − q_i(s_k, u_k))
    brac       min_i Q̄_i(s, u) + α log π_b(u | s)

q is Q centred and scaled by the log's returns, and squared errors are measured in that scale; α of brac is in units of
the reward for each nat. It speaks by drawing P utterances and saying the one with the highest score
(`seqrl.language.reranking`). A discriminator that tells logged language from bad may keep proposals out.

Source: Verma et al. 2022, "CHAI: a CHatbot AI for task-oriented dialogue with offline reinforcement learning", arXiv
2204.08426; its three critics after EMaQ (Ghasemipour et al. 2021, arXiv 2007.11091), CQL (Kumar et al. 2020, arXiv
2006.04779) and BRAC (Wu et al. 2019, arXiv 1911.11361). Differs:

- The critic has a small memory over turns of its own, beside the frozen language model's features (`features`).
- CQL's sum has the logged utterance too, so that the term is a cross-entropy and bounded from below.
- BRAC's penalty is −α log π_b of the utterance, in the backup and in speaking.
- Prices are no part of it: proposals are texts, as drawn.
- The discriminator is ours.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from seqrl.config import device, require, require_at_least_one, require_not_negative
from seqrl.errors import nearest
from seqrl.language.critic import UtteranceCritic
from seqrl.language.discriminator import BAD, Discriminator, discriminator_loss
from seqrl.language.reranking import Choosing, RerankingAgent
from seqrl.language.utterances import UtteranceBatch, UtteranceDataset
from seqrl.language_runs.config import (
    OF_TRANSFORMERS,
    LanguageConfig,
    check_rewarded,
    check_shared,
    configured_task,
    make_model,
    refuse_unread,
)
from seqrl.language_runs.preferences import check_temperature, settings_of_policy, with_task_of
from seqrl.language_runs.proposals import proposed_dataset
from seqrl.language_runs.run import check_reads, open_run, read_tokenizer
from seqrl.memory.make import MEMORIES
from seqrl.objectives import masked_mean
from seqrl.objectives.value import conservative_error
from seqrl.offline.training import fit
from seqrl.run_folder import CHECKPOINT, config_from_json, load_weights, read_json
from seqrl.text import Tokenizer

Critic = Literal["proposals", "cql", "brac"]


@dataclass(frozen=True, kw_only=True)
class Config(LanguageConfig):
    """CHAI. `model` and `hidden_size` are those of the critic's own memory. The defaults serve small tasks."""

    policy: str = ""
    """Run of bc, dpo, kto or rlhf that proposes, and stays as it is; by default one of bc is trained first, as
    RUN_policy."""
    critic: Critic = "proposals"
    """How the critic is kept to what was logged: proposals, cql or brac."""
    num_proposals: int = 5
    """P, utterances drawn at a turn; may be changed when speaking, where 1 is the language model itself."""
    proposals: str = ""
    """Run of chai with the same policy and log, whose proposals are taken; by default they are drawn."""
    gamma: float = 0.9
    """Discount of one of the agent's turns. The largest of several values is on the whole too high, so with γ near 1
    what is put off looks better than what can be had."""
    alpha: float = 0.1
    """α of cql and brac."""
    backup_temperature: float = 0.0
    """Of the mean over proposals that is bootstrapped from; 0 for the largest."""
    polyak: float = 0.01
    """ρ, by which the targets follow after each update."""
    features: bool = True
    """Whether the critic reads the language model's features after the utterance."""
    temperature: float = 0.0
    """Of the choice among proposals when speaking; 0 for the best."""
    discriminator: bool = False
    """Whether a discriminator is trained that tells logged language from bad."""
    bad: tuple[str, ...] = ("corrupted", "sampled")
    """Where its bad language comes from: corrupted, sampled, flagged."""
    bad_temperature: float = 2.0
    """At which the language model draws bad language."""
    gate: float = 0.1
    """Proposals in which the discriminator's confidence is less are not said, unless all are such."""
    confidence_weight: float = 0.0
    """λ: λ log confidence is added to a proposal's score."""


def loss(agent: RerankingAgent, batch: UtteranceBatch, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of the terms, means over turns. The metrics are detached."""
    critic = agent.critic
    network, target = critic.network, critic.target
    texts = batch.segments, batch.length
    if config.critic != "cql":  # what was proposed is not learnt from: its texts stand behind the logged ones
        logged = int(torch.maximum(batch.heard.max(), batch.said.max())) + 1
        texts = batch.segments[:, :logged], batch.length[:logged]
    e = network.encoder(*texts)
    h = network.histories(e[batch.heard], e[batch.said])
    q = network.action_values(h, e[batch.said], batch.features[:, :, 0])
    with torch.no_grad():
        targets = target.encoder(batch.segments, batch.length)
        h_target = target.histories(targets[batch.heard], targets[batch.said])
        each = h_target[:, :, None].expand(-1, -1, batch.proposals.shape[-1], -1)
        both = target.action_values(each, targets[batch.proposals], batch.features[:, :, 1:])
        proposed = critic.mean + critic.scale * torch.minimum(*both)
        wanted = batch.reward + config.gamma * _next(_backed_up(proposed, batch.log_prob, config), batch.valid)
        wanted = (wanted - critic.mean) / critic.scale
    q_loss = torch.stack([masked_mean((wanted - each).square(), batch.valid) for each in q]).sum()
    v = network.v(h.detach())[..., 0]
    v_loss = masked_mean(((proposed.mean(-1) - critic.mean) / critic.scale - v).square(), batch.valid)
    total = q_loss + v_loss
    metrics = {"q_loss": q_loss, "v_loss": v_loss}
    if config.critic == "cql":
        cql = _cql(network, h, q, e, batch)
        total = total + config.alpha * cql
        metrics["cql"] = cql
    metrics["action_value"] = masked_mean(critic.mean + critic.scale * q[0], batch.valid)
    metrics["proposed_value"] = masked_mean(proposed.mean(-1), batch.valid)
    metrics["best_value"] = masked_mean(proposed.amax(-1), batch.valid)
    if agent.discriminator is not None:
        error, more = discriminator_loss(agent.discriminator, batch)
        total, metrics = total + error, metrics | more
    return total, {"loss": total.detach()} | {name: value.detach() for name, value in metrics.items()}


def _backed_up(q: Tensor, log_prob: Tensor, config: Config) -> Tensor:
    """W: what a turn is worth by its proposals, [K, B, P] -> [K, B]."""
    score = q + config.alpha * log_prob if config.critic == "brac" else q
    if config.backup_temperature == 0:
        return score.amax(-1)
    return ((score / config.backup_temperature).softmax(-1) * score).sum(-1)


def _next(worth: Tensor, valid: Tensor) -> Tensor:
    """The next turn's, 0 behind a dialogue's last."""
    return torch.cat([worth[1:].masked_fill(~valid[1:], 0.0), torch.zeros_like(worth[:1])])


def _cql(network: Any, h: Tensor, q: tuple[Tensor, Tensor], e: Tensor, batch: UtteranceBatch) -> Tensor:
    """The cross-entropy of softmax(q) over the logged utterance and the proposals on the logged one, of both q."""
    each = h[:, :, None].expand(-1, -1, batch.proposals.shape[-1], -1)
    others = network.action_values(each, e[batch.proposals], batch.features[:, :, 1:])
    logged = torch.zeros_like(batch.said)
    errors = [
        conservative_error(torch.cat([mine[..., None], theirs], -1), logged)
        for mine, theirs in zip(q, others, strict=True)
    ]
    return torch.stack([masked_mean(error, batch.valid) for error in errors]).sum()


def check(config: Config) -> None:
    """Raise UserError for settings that make no sense."""
    check_shared(config)
    require(
        config.critic in get_args(Critic), f"--critic '{config.critic}': choose one of {', '.join(get_args(Critic))}"
    )
    require(config.model in MEMORIES, f"unknown memory '{config.model}' (--model): {nearest(config.model, MEMORIES)}")
    for kind in config.bad:
        require(kind in BAD, f"unknown bad language '{kind}' (--bad): {nearest(kind, BAD)}")
    require(not config.discriminator or bool(config.bad), f"--bad is empty: name some of {', '.join(BAD)}")
    require_at_least_one(config, "num_proposals")
    require_not_negative(config, "alpha", "backup_temperature", "temperature", "confidence_weight", "bad_temperature")
    require(0 <= config.gate < 1, f"--gate is {config.gate}: it must be from 0 to below 1")
    require(0 < config.gamma <= 1, f"--gamma is {config.gamma}: it must be above 0, and at most 1")
    require(0 < config.polyak <= 1, f"--polyak is {config.polyak}: it must be above 0, and at most 1")
    require(bool(config.policy), "no language model that proposes: name a run of bc with --policy (seqrl train bc)")


def build(config: Config, tokenizer: Tokenizer, run: Any = None) -> RerankingAgent:
    """The agent with an untrained critic, of weights that depend on the seed alone, and a policy not loaded yet.

    What model the policy is, the run folder `run` of this config says, or the policy's own.
    """
    settings = read_json(Path(run), "policy.json") if run else settings_of_policy(config.policy)
    known = {field.name for field in dataclasses.fields(LanguageConfig)}
    settings = {key: value for key, value in settings.items() if key in known} | {"device": config.device}
    policy = make_model(config_from_json(settings, LanguageConfig, Path("policy.json")), tokenizer)
    size, memory, width = len(tokenizer), config.model, config.hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        critic = UtteranceCritic(size, memory, width, policy.output_size if config.features else 0)
        discriminator = Discriminator(size, memory, width) if config.discriminator else None
    choosing = Choosing(
        num_proposals=config.num_proposals,
        temperature=config.temperature,
        log_prob_weight=config.alpha if config.critic == "brac" else 0.0,
        confidence_weight=config.confidence_weight,
        gate=config.gate,
    )
    return RerankingAgent(tokenizer, policy, critic, choosing, discriminator).to(device(config))


def train(config: Config, resume: bool = False) -> RerankingAgent:
    """Train a critic on the log in `config.dialogues`, and return the agent. With `resume`, continue, bit for bit.

    What the policy proposes is drawn once, before the first update, and kept in the run folder.

    Raises UserError for bad settings, a log or a policy that cannot be read, an existing run folder, or a loss that is
    not finite.
    """
    check(config)
    if not resume and config.policy != f"{config.run_dir}_policy":  # which was cloned with these settings
        unread = (*OF_TRANSFORMERS, "gradient_checkpointing", "context_turns")
        refuse_unread(config, unread, "the policy is there, and the critic's memory has a width alone, --hidden-size")
    if not resume:
        check_temperature(config.policy)
        config = with_task_of(config, config.policy)
        check_rewarded(config)
    tokenizer = read_tokenizer(config.run_dir if resume else config.policy)
    agent = build(config, tokenizer, config.run_dir if resume else None)
    files = {} if resume else {"policy.json": read_json(Path(config.policy), "config.json")}
    if not (Path(config.run_dir) / CHECKPOINT).exists():  # else the policy is there
        load_weights(agent.policy, config.policy, "policy")
    if config.task:
        check_reads(tokenizer, configured_task(config), config.policy)
    with open_run(config, tokenizer, resume, files) as run:
        dataset = proposed_dataset(
            config, agent.policy, tokenizer, run.folder, num_proposals=config.num_proposals, gamma=config.gamma,
            features=config.features, bad=config.bad if config.discriminator else (),
            bad_temperature=config.bad_temperature, other=config.proposals,
        )  # fmt: skip
        learnt, held_out = dataset, None
        if config.held_out > 0 and dataset.num_dialogues > 1:
            learnt, held_out = dataset.split(config.held_out, config.seed)
        fit(
            config, agent, learnt, held_out, run, loss, _describe, _draw,
            after_update=lambda agent: agent.critic.follow(config.polyak),
        )  # fmt: skip
    return agent.eval()


def _draw(dataset: UtteranceDataset, count: int, config: Config, generator: torch.Generator) -> UtteranceBatch:
    return dataset.draw(count, generator)


def _describe(agent: RerankingAgent, dataset: UtteranceDataset) -> None:
    agent.critic.describe(dataset.returns_to_go)
