"""Fine-tuning a speaker by rewards, while it keeps near what it began as: PPO, RLOO and GRPO on conversations.

A policy π, which begins as a run of `bc`, speaks in a task or answers prompts; what it said is scored turn by turn,
and its own tokens are learnt from. With π_ref the policy at the beginning, frozen, and KL_d that of π at token d:

    J = E[Σ r_d] − c E[Σ KL_d]                                        both sums over a conversation's own tokens
    loss = −min(ρ_d A_d, clip(ρ_d, 1 − ε, 1 + ε) A_d) + c · KL_d      ρ_d = π(a_d) / π_old(a_d)

    method   A of token d
    ppo      generalised advantage estimation with values V, which are learnt; standardised over the rollout
    rloo     return-to-go of its turn, less the mean of the others of its group that came to that turn
    grpo     return of its conversation, standardised in its group

A group is conversations that began in the same hidden state, or answer the same prompt. The KL is measured

    kl       KL_d                                          kl_in reward             kl_in loss
    exact    Σ_v π(v) log(π(v) / π_ref(v))                 ∇J, by both              ∇J, had it no say in what follows
    k1       log(π(a) / π_ref(a))                          ∇J                       0 in the mean: refused
    k3       π_ref(a) / π(a) − 1 − log(π_ref(a) / π(a))    not ∇J: refused          that of KL(π_ref ‖ π), likewise

Source: Ziegler et al. 2019 (arXiv 1909.08593), Ouyang et al. 2022 (arXiv 2203.02155); RLOO: Ahmadian et al. 2024 (arXiv
2402.14740); GRPO: Shao et al. 2024 (arXiv 2402.03300). Where this differs:

- Log-probabilities that ratios and KLs are made of come from one code path, that of training, on the very conversations
  that are learnt from together: before the first update ratios are 1 and KLs 0, to the last bit.
- The exact KL is the default. In the reward alone it would not depend on the token drawn, so it is in the loss as well.
- PPO's standardised advantages are divided by a spread; the KL in its loss is divided by the same, so that c stays c.
- Values have a model of their own, a copy of the policy's at first (`seqrl.language.tuned`).
- Losses are means over the tokens of a minibatch, GRPO's too: longer answers do not count less a token.
- Traces run on across the other speaker's turns; γ counts the agent's tokens.

With `--num-actors` others speak, and the policy μ that spoke may be some updates older than π_old, as which the policy
begins the update. Then A of `ppo` is V-trace's, and for every method the surrogate of token d is multiplied by
min(ρ̄, π_old(a_d) / μ(a_d)), while ρ_d stays π / π_old: what bounds a step and what allows for age are two numbers.

Source: V-trace, Espeholt et al. 2018 (arXiv 1802.01561); the two policies, Hilton et al. 2021 (arXiv 2110.00641), for
language Fu et al. 2025 (AReaL, arXiv 2505.24298). Differs: ratios of the loss are truncated, of a token each; the KL
and its gradient are π's where μ went; a rollout of the newest weights is not corrected at all, since what differs then
is the last digits.

Several learners (`--num-learners`) are data-parallel: each speaks a share of every rollout, of whole groups, and learns
from it in as many minibatches as the others; what is standardised, budgeted or watched is so over the whole rollout.
A minibatch is then the learners' together, and its gradient the mean over all of its tokens.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seqrl.distributed import ALONE, Group
from seqrl.distributed.sharding import whole
from seqrl.engine_config import learner_threads, make_engine
from seqrl.language.likelihood import kl_divergence
from seqrl.language.play import Played
from seqrl.language.tuned import TunedAgent, TunedSpeaker, spread
from seqrl.language.tuning import (
    ESTIMATORS,
    Experience,
    observe,
    of_said,
    scored_rows,
    with_gae,
    with_group_advantages,
    with_truncated_ratio,
    with_vtrace,
)
from seqrl.language_runs.config import make_model, refuse_unread
from seqrl.language_runs.learners import before_sharing, learn_together, of_all, of_one, open_shared
from seqrl.language_runs.preferences import with_model_of
from seqrl.language_runs.rlhf import Tuning, hear, make_generator, make_scorer, problem, share_models, speak, watch
from seqrl.language_runs.rlhf_actor import SpeakingActor, minibatches
from seqrl.language_runs.rlhf_config import Config, check
from seqrl.language_runs.run import read_tokenizer
from seqrl.objectives import approximate_kl, clipped_surrogate, masked_mean, squared_error
from seqrl.offline.same_log import same_log
from seqrl.run_folder import CHECKPOINT, load_weights
from seqrl.seeds import derived_seed
from seqrl.text import Tokenizer

__all__ = ["Config", "build", "check", "loss", "problem", "speak", "train"]


def loss(agent: TunedAgent, batch: Experience, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate and kl_weight · KL where it counts in the loss: means over the agent's tokens."""
    valid = batch.said.valid
    log_p = batch.log_p
    if log_p is None:
        log_p = agent.log_probs(agent.policy, agent.features(agent.policy, batch.tokens, batch.said))
    log_prob = of_said(log_p, batch.said)
    surrogate = clipped_surrogate(log_prob, batch.log_prob, batch.advantage, config.clip)
    policy_loss = masked_mean(surrogate if batch.weight is None else batch.weight * surrogate, valid)
    total = policy_loss
    if config.kl != "k1" and config.kl_weight > 0:
        log_q = agent.log_probs(agent.reference, batch.reference)
        if config.kl == "exact":
            kl = spread(kl_divergence(log_p, log_q), batch.said)
        else:
            kl = ESTIMATORS[config.kl](log_prob, of_said(log_q, batch.said))
        total = total + config.kl_weight * masked_mean(kl, valid)
    with torch.no_grad():
        metrics = {
            "policy_loss": policy_loss.detach(),
            "clipped_fraction": masked_mean(
                ((log_prob - batch.log_prob).exp() - 1).abs().gt(config.clip).float(), valid
            ),
            "kl_from_old": masked_mean(approximate_kl(log_prob, batch.log_prob), valid),
        }
    return total, metrics


def value_loss(agent: TunedAgent, batch: Experience) -> Tensor:
    """½ (V − target)², a mean over the agent's tokens."""
    return masked_mean(squared_error(agent.worth(batch.tokens, batch.said), batch.target), batch.said.valid)


def build(config: Config, tokenizer: Tokenizer, run: Any = None) -> TunedAgent:
    """The agent with a policy that is not loaded yet; the run's config says which model it is."""
    policy = make_model(config, tokenizer)
    agent = TunedAgent(tokenizer, policy, has_values=config.method == "ppo", **speaking(config))
    return agent.to(policy.device)


def speaking(config: Config) -> dict[str, Any]:
    """How the policy speaks, and computes how likely that was."""
    return {
        "temperature": config.temperature,
        "precision": torch.bfloat16 if config.precision == "bfloat16" else torch.float32,
        "group_size": 1 if config.method == "ppo" else config.group_size,
    }


def make_actor(config: Config, index: int, start: int) -> SpeakingActor:
    """The actor `index`, for an engine. The run's folder is there by then."""
    tokenizer = read_tokenizer(config.run_dir)
    policy = make_model(config, tokenizer)
    speaker = TunedSpeaker(tokenizer, policy, **speaking(config)).to(policy.device)
    speaker.generator = make_generator(config)
    scorer = make_scorer(config.reward, tokenizer, config.device)
    return SpeakingActor(index, start, config, speaker, problem(config, tokenizer), scorer)


def train(config: Config, resume: bool = False) -> TunedAgent:
    """Fine-tune in `config.run_dir`, and return the agent. With `resume`, continue what the folder holds, bit for bit.

    With several learners a script needs `if __name__ == "__main__":`.

    Raises UserError for bad settings, a policy, task or log that cannot be read, an existing folder, or a loss that is
    not finite.
    """
    check(config)
    alone = learn_together(train_share, config, resume)
    if alone is not None:
        return alone
    agent = build(with_model_of(config, config.run_dir), read_tokenizer(config.run_dir))
    load_weights(agent, config.run_dir)
    return agent.eval()


def share(config: Config, group: Group) -> Config:
    """What one learner of `config` has of each rollout, and its device."""
    number, size = config.num_conversations // group.size, config.batch_size // group.size
    return replace(of_one(group, config), num_conversations=number, batch_size=size)


def train_share(group: Group, config: Config, resume: bool) -> TunedAgent:
    """What one learner of `group` does of `train`."""
    if not resume:
        names = ("dialogues", "context_turns", "held_out", "weight_decay")
        refuse_unread(config, names, "rlhf learns from what the policy says, in a --task or to --prompts")
        taken = with_model_of(config, config.policy)
        config = replace(taken, task="", task_kwargs=()) if config.prompts else taken
    tokenizer = read_tokenizer(config.run_dir if resume else config.policy)
    own = share(config, group)
    agent = build(before_sharing(own), tokenizer)
    if not (Path(config.run_dir) / CHECKPOINT).exists():  # else the policy is there
        load_weights(agent.policy, config.policy, "policy")
        agent.begin()
    share_models(agent, own)
    agent.generator = make_generator(own)
    tuning = Tuning.of(own, agent, group)
    with open_shared(group, config, tokenizer, resume) as run, contextlib.ExitStack() as until_the_end:
        until_the_end.callback(agent.speak_itself)
        if config.num_actors:
            until_the_end.enter_context(learner_threads(config))
            tuning.engine = until_the_end.enter_context(contextlib.closing(make_engine(config, make_actor)))
        counters = run.restore({})
        step, log = counters.get("step", 0), same_log(run, config, counters)
        run.restore(tuning.parts() if step else {})
        run.begin(step)
        tuning.publish(step)
        interrupted = stopped = False
        while step < config.num_steps and not interrupted and not stopped:
            metrics = update(tuning, step)
            step += 1
            tuning.publish(step)  # before the checkpoint, which holds all weights but these
            run.log(step, metrics)
            stopped = config.monitor == "stop" and tuning.verdict.level == "stop"
            interrupted = any(group.gather(run.interrupted))
            if step % config.checkpoint_every == 0 or step == config.num_steps or interrupted or stopped:
                run.save(tuning.parts(), {"step": step, "log": log})
    return agent.eval()


def update(tuning: Tuning, step: int) -> dict[str, float]:
    """One rollout, and what is learnt from it. Returns what is logged: of the policy that spoke, before it learnt.

    With a budget, a rollout may find that the update before has led beyond it, which is then taken back: the log has
    once more what was measured of the policy that is gone back to.
    """
    config, control, group = tuning.config, tuning.control, tuning.group
    learning = config.learning_rate * min((step + 1) / (config.warmup + 1), 1 - step / config.num_steps)
    for learner in tuning.learners.values():
        learner.learning_rate = learning
    spoken = hear(tuning, step)
    batches, metrics = experience(
        tuning.agent, spoken.played, spoken.scores, control.weight, config, spoken.log_prob, spoken.lag, group
    )
    if not control.allows(metrics["kl"], metrics["kl_error"]):
        assert tuning.kept is not None
        tuning.kept.restore()
        control.refuse()
        back = {**tuning.kept.metrics, "taken_back": 1.0, "kl_weight": control.weight}
        return back | {"final_kl": back["kl"]} if step + 1 == config.num_steps else back
    metrics |= watch(tuning, spoken, metrics["entropy"])
    if tuning.kept is not None:
        tuning.kept.keep(metrics)
    metrics |= learn(tuning, batches, step)
    control.follow(metrics["kl"], config.num_conversations * group.size)
    if tuning.kept is not None and step + 1 == config.num_steps:
        metrics |= confirm(tuning, step + 1)
    if tuning.engine is not None and config.engine != "sync":  # who takes turns waits for nobody
        metrics |= tuning.engine.metrics()
    return metrics


def confirm(tuning: Tuning, step: int) -> dict[str, float]:
    """Nothing comes after the last update that could take it back: one more rollout says whether it may stay."""
    assert tuning.kept is not None
    tuning.publish(step)
    spoken = hear(tuning, step)
    _, metrics = experience(
        tuning.agent, spoken.played, spoken.scores, tuning.control.weight, tuning.config, group=tuning.group
    )
    if tuning.control.allows(metrics["kl"], metrics["kl_error"]):
        return {"final_kl": metrics["kl"]}
    tuning.kept.restore()
    return {"final_kl": tuning.kept.metrics["kl"], "taken_back": 1.0}


def experience(
    agent: TunedAgent,
    played: Sequence[Played],
    scores: list[list[float]],
    kl_weight: float,
    config: Config,
    behaviour: Sequence[Tensor] = (),
    lag: int = 0,
    group: Group = ALONE,
) -> tuple[list[Experience], dict[str, float]]:
    """The rollout in minibatches, with advantages, and what is logged of it.

    `behaviour` is log μ of each minibatch where actors spoke, with weights that are `lag` updates old. Of a `group`
    each learner has its share of the rollout; what is logged is of all.
    """
    returns = of_all(group, torch.tensor([sum(each) for each in scores], dtype=torch.float64))
    if config.normalize_rewards:
        size = float(returns.std(correction=0).clamp(min=1e-3))
        scores = [[score / size for score in each] for each in scores]
    rows = scored_rows(played, scores, config.unfinished_penalty, agent.tokenizer)
    parts = minibatches(rows, config)
    at_once = config.num_epochs == 1 and len(parts) == 1  # the policy that spoke is the one that is learnt with
    batches = [observe(agent, part, config.kl, with_graph=at_once) for part in parts]
    in_reward = kl_weight if config.kl_in == "reward" else 0.0
    rewards = [batch.said.reward - in_reward * batch.estimate for batch in batches]
    behaviour = [each.to(agent.device) for each in behaviour]
    batches = with_advantages(batches, rewards, behaviour if lag and config.correction != "none" else [], config)
    table = of_all(group, conversation_numbers(batches, played))
    kl, error = mean_and_error(table[:, 0])
    mean = dict(
        zip(("kl", "estimate", "entropy", "tokens", "turns", "unfinished"), table.mean(0).tolist(), strict=True)
    )
    return batches, {
        "episode_return": float(returns.mean()),
        "kl": kl,
        "kl_error": error,
        "kl_estimate": mean["estimate"],
        "kl_weight": kl_weight,
        "entropy": mean["entropy"] / mean["tokens"],
        "tokens": mean["tokens"],
        "turns": mean["turns"],
        "unfinished": mean["unfinished"] / mean["turns"],
        **(aged(batches, behaviour, lag, config) if behaviour else {}),
    }


def conversation_numbers(batches: Sequence[Experience], played: Sequence[Played]) -> Float[Tensor, "B 6"]:
    """Of each conversation: KL, its estimate, entropy and number of the agent's tokens; its turns, and how many were
    cut off."""
    sums = [
        torch.stack([leaf.sum(0) for leaf in (batch.kl, batch.estimate, batch.entropy, batch.said.valid.float())], 1)
        for batch in batches
    ]
    turns = [[turn for turn in each.turns if turn.agent and not turn.given] for each in played]
    counts = torch.tensor([[len(own), sum(not turn.ended for turn in own)] for own in turns])
    return torch.cat([torch.cat(sums).cpu(), counts], 1).double()


def with_advantages(
    batches: Sequence[Experience], rewards: Sequence[Tensor], behaviour: Sequence[Tensor], config: Config
) -> list[Experience]:
    """The minibatches with the method's advantages, and where there are log-probabilities of another policy's, with
    weights that allow for it."""
    if config.method != "ppo":
        weighted = [
            with_truncated_ratio(batch, mu, config.clip_rho) for batch, mu in zip(batches, behaviour, strict=False)
        ]
        return with_group_advantages(weighted or batches, rewards, config.method, config.group_size)
    gamma, lambda_, clips = config.gamma, config.gae_lambda, (config.clip_rho, config.clip_c)
    if behaviour:
        parts = zip(batches, rewards, behaviour, strict=True)
        return [with_vtrace(batch, reward, mu, gamma, lambda_, *clips) for batch, reward, mu in parts]
    return [with_gae(batch, reward, gamma, lambda_) for batch, reward in zip(batches, rewards, strict=True)]


def aged(batches: Sequence[Experience], behaviour: Sequence[Tensor], lag: int, config: Config) -> dict[str, float]:
    """What is logged of a rollout's age: updates, and the share of tokens that have become so likely since that their
    ratio is clipped, or would be."""
    ratios = [(batch.log_prob - mu).exp()[batch.said.valid] for batch, mu in zip(batches, behaviour, strict=True)]
    clipped = torch.cat(ratios) > config.clip_rho + ROUNDING
    return {"policy_lag": float(lag), "clipped_rho": float(clipped.float().mean())}


ROUNDING = 1e-4
"""By which a ratio may exceed its bound though both policies are the same, computed on two machines."""


def learn(tuning: Tuning, batches: Sequence[Experience], step: int) -> dict[str, float]:
    """One update: epochs of minibatches over one rollout, each epoch in an order of its own. Returns metrics' means.

    With a budget the KL is measured after each epoch; one that leads beyond is taken back, and is the last.
    """
    agent, control, kept, group = tuning.agent, tuning.control, tuning.kept, tuning.group
    scale = 1.0
    if tuning.config.method == "ppo":
        batches, scale = standardized(batches, group)
    config = replace(tuning.config, kl_weight=control.weight / scale)
    order = torch.Generator().manual_seed(derived_seed(config.seed, 7, step))
    metrics: dict[str, Tensor] = {}
    history: list[Tensor] = []
    budget = {"taken_back": 0.0} if kept else {}
    for _ in range(config.num_epochs):
        before = kept.copy() if kept else []
        for number in torch.randperm(len(batches), generator=order).tolist():
            total, metrics = loss(agent, batches[number], config)
            tokens = batches[number].said.valid.sum()
            metrics["grad_norm"] = whole(tuning.learners["policy_learner"].update(total, tokens)).to(total.device)
            if agent.values is not None:
                error = value_loss(agent, batches[number])
                tuning.learners["value_learner"].update(error, tokens)
                metrics["value_loss"] = error.detach()
            history.append(torch.stack(list(metrics.values())))
            group.average(history[-1:], tokens)
        if kept and not control.allows(*mean_and_error(of_all(group, conversation_kl(agent, batches)))):
            kept.put(before)
            control.refuse()
            budget = {"taken_back": 1.0}
            break
    return dict(zip(metrics, torch.stack(history).mean(0).tolist(), strict=True)) | budget


@torch.no_grad()
def conversation_kl(agent: TunedAgent, batches: Sequence[Experience]) -> Tensor:
    """KL(π ‖ π_ref) of each conversation, a sum over its tokens, as the policy is now, where the rollout went."""
    found = []
    for batch in batches:
        log_p = agent.log_probs(agent.policy, agent.features(agent.policy, batch.tokens, batch.said))
        kl = kl_divergence(log_p, agent.log_probs(agent.reference, batch.reference))
        found.append(spread(kl, batch.said).sum(0))
    return torch.cat(found)


def mean_and_error(x: Tensor) -> tuple[float, float]:
    """The mean of numbers, and its standard error; 0 for one alone."""
    return float(x.mean()), float(x.std(correction=1)) / len(x) ** 0.5 if len(x) > 1 else 0.0


def standardized(batches: Sequence[Experience], group: Group = ALONE) -> tuple[list[Experience], float]:
    """The batches with advantages standardised over all tokens of all learners, and by what they were divided."""
    every = of_all(group, torch.cat([batch.advantage[batch.said.valid] for batch in batches]))
    mean, scale = every.mean(), float(every.std(correction=0)) + 1e-8
    return [
        batch._replace(advantage=((batch.advantage - mean) / scale).masked_fill(~batch.said.valid, 0.0))
        for batch in batches
    ], scale
