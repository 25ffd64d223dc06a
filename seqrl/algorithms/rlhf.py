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
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from seqrl.config import require, require_above_zero, require_at_least_one, require_not_negative
from seqrl.data.dialogues import read_dialogues
from seqrl.kl_control import Control, KlControl
from seqrl.language.play import Played, play
from seqrl.language.prompted import Prompted, prompts_of
from seqrl.language.rewards import combined
from seqrl.language.scoring import Scorer, by_task, of_reward, weighted, weights_of
from seqrl.language.tuned import TunedAgent
from seqrl.language.tuning import (
    ESTIMATORS,
    Experience,
    observe,
    of_said,
    scored_rows,
    with_gae,
    with_group_advantages,
)
from seqrl.language_config import LanguageConfig, check_shared, configured_task, make_model
from seqrl.language_run import check_reads, open_run, read_tokenizer
from seqrl.learner import Learner
from seqrl.objectives import approximate_kl, clipped_surrogate, masked_mean, squared_error
from seqrl.objectives.kl import kl_divergence
from seqrl.reward_run import load_reward_model
from seqrl.run import CHECKPOINT, Stateful, config_from_json, load_weights, read_json
from seqrl.seeds import derived_seed
from seqrl.text import TextTask, Tokenizer

Method = Literal["ppo", "rloo", "grpo"]
Kl = Literal["exact", "k1", "k3"]
KlIn = Literal["reward", "loss"]
SENSIBLE = {("exact", "reward"), ("exact", "loss"), ("k1", "reward"), ("k3", "loss")}


@dataclass(frozen=True, kw_only=True)
class Config(LanguageConfig):
    """Fine-tuning by rewards. The model is the policy's: --model and its sizes are not read. The defaults serve small
    models; the recipes rlhf_ppo, rloo and grpo hold what differs by method."""

    policy: str = ""
    """Run of bc whose policy is fine-tuned; it is also what the KL is measured from."""
    method: Method = "ppo"
    """ppo, rloo or grpo."""
    prompts: str = ""
    """A log of dialogues, each of whose agent's turns is a prompt to answer, where no --task is given."""
    reward: tuple[str, ...] = ("task",)
    """What is earned, NAME or NAME=WEIGHT each: task, a reward by name, such as sentiment=1 length=-0.01, or the run
    folder of a reward model."""
    unfinished_penalty: float = 1.0
    """What an utterance that is cut off loses."""
    normalize_rewards: bool = False
    """Whether a rollout's rewards are divided by the standard deviation of its conversations' returns."""

    num_conversations: int = 64
    """Conversations of a rollout, of which each update learns."""
    group_size: int = 8
    """Conversations of a group, for rloo and grpo."""
    temperature: float = 1.0
    """Tokens are drawn from softmax(logits / temperature): that is the policy which is trained."""
    num_steps: int = 200
    """Updates to train for, each on a rollout of its own."""
    num_epochs: int = 4
    """Passes over each rollout."""
    batch_size: int = 16
    """Conversations of a minibatch."""
    learning_rate: float = 3e-4
    """Adam's largest step size; it falls linearly to 0 at the last update."""
    warmup: int = 10
    """Updates in which it rises to that."""
    gamma: float = 1.0
    """Discount of one of the agent's tokens, for ppo."""
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation."""
    clip: float = 0.2
    """ε of the clipped surrogate."""

    kl: Kl = "exact"
    """How the KL from the reference is measured: exact, k1 or k3."""
    kl_in: KlIn = "reward"
    """Where it counts: reward, or loss alone."""
    kl_weight: float = 0.05
    """c, its coefficient; at first, where it is not fixed."""
    kl_control: Control = "fixed"
    """fixed, adaptive towards --kl-target, or budget: an update that leads beyond --kl-budget is taken back."""
    kl_target: float = 6.0
    """Nats a conversation that an adaptive coefficient aims at."""
    kl_horizon: float = 10_000.0
    """Conversations in which it changes by a fifth at most."""
    kl_budget: float = 0.0
    """Nats a conversation that the policy may be away from the reference."""
    precision: str = "float32"
    """float32, or bfloat16 for the models' matrix products."""
    log_every: int = 1
    """Updates between two lines of the log."""
    checkpoint_every: int = 20
    """Updates between checkpoints."""


def loss(agent: TunedAgent, batch: Experience, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate and kl_weight · KL where it counts in the loss: means over the agent's tokens."""
    valid = batch.said.valid
    log_p = agent.log_probs(agent.policy, agent.features(agent.policy, batch.tokens, batch.said))
    log_prob = of_said(log_p, batch.said)
    policy_loss = masked_mean(clipped_surrogate(log_prob, batch.log_prob, batch.advantage, config.clip), valid)
    total = policy_loss
    if config.kl != "k1" and config.kl_weight > 0:
        log_q = agent.log_probs(agent.reference, batch.reference)
        if config.kl == "exact":
            kl = kl_divergence(log_p, log_q)
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


def check(config: Config) -> None:
    """Raise UserError for settings that contradict each other or make no sense."""
    check_shared(replace(config, lora_rank=0), needs_log=False)
    choices = {"method": Method, "kl": Kl, "kl_in": KlIn, "kl_control": Control}
    for name, kind in choices.items():
        value, known = getattr(config, name), get_args(kind)
        require(value in known, f"--{name.replace('_', '-')} '{value}': choose one of {', '.join(known)}")
    require(config.precision in ("float32", "bfloat16"), f"--precision '{config.precision}': float32 or bfloat16")
    require_at_least_one(config, "num_conversations", "num_epochs")
    require_above_zero(config, "temperature", "clip", "kl_target", "kl_horizon")
    require_not_negative(config, "kl_weight", "unfinished_penalty", "kl_budget")
    require(0 < config.gamma <= 1, f"--gamma is {config.gamma}: it must be above 0, and at most 1")
    require(0 <= config.gae_lambda <= 1, f"--gae-lambda is {config.gae_lambda}: it must be from 0 to 1")
    require(
        (config.kl, config.kl_in) in SENSIBLE,
        f"--kl {config.kl} with --kl-in {config.kl_in} has not the gradient of a KL: "
        "choose exact for either, k1 for reward, k3 for loss",
    )
    require(
        (config.kl_control == "budget") == (config.kl_budget > 0),
        f"--kl-budget {config.kl_budget:g} with --kl-control {config.kl_control}: give both --kl-control budget and "
        "a --kl-budget above 0, or neither",
    )
    if config.method != "ppo":
        require(
            config.group_size >= 2 and config.num_conversations % config.group_size == 0,
            f"--num-conversations {config.num_conversations} does not part into groups of --group-size "
            f"{config.group_size}: choose 2 or more, and a divisor",
        )
    require(
        bool(config.task) != bool(config.prompts), "give either a --task to speak in or a log of --prompts to answer"
    )
    require(bool(config.policy), "no policy to fine-tune: name a run of bc with --policy (seqrl train bc)")
    scorer_of(config)


def scorer_of(config: Config) -> Scorer:
    """The scorer that `config.reward` names."""
    parts: list[tuple[Scorer, float]] = []
    for name, weight in weights_of(config.reward).items():
        parts.append((_scorer_called(name, config), weight))
    return weighted(parts)


def _scorer_called(name: str, config: Config) -> Scorer:
    """The task's rewards, a reward model of a run folder, or a reward by name."""
    if name == "task":
        return by_task
    if not Path(name).is_dir():
        return of_reward(combined({name: 1.0}))
    begun = (Path(config.run_dir) / "vocabulary.json").is_file()
    return load_reward_model(name, config.device).scorer(read_tokenizer(config.run_dir if begun else config.policy))


def problem_of(config: Config, tokenizer: Tokenizer) -> TextTask[Any]:
    """What the policy speaks in. Raises UserError where it has no tokens for what is said there."""
    if config.prompts:
        return Prompted(prompts_of(read_dialogues(config.prompts)), tokenizer)
    task = configured_task(config)
    check_reads(tokenizer, task, config.policy)
    return task


def build(config: Config, tokenizer: Tokenizer, run: Any = None) -> TunedAgent:
    """The agent with a policy that is not loaded yet: of the model that the run folder `run` says, or the policy's."""
    settings = read_json(Path(run), "policy.json") if run else read_json(Path(config.policy), "config.json")
    known = {field.name for field in dataclasses.fields(LanguageConfig)}
    settings = {key: value for key, value in settings.items() if key in known} | {"device": config.device}
    policy = make_model(config_from_json(settings, LanguageConfig, Path("policy.json")), tokenizer)
    precision = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        agent = TunedAgent(
            tokenizer, policy, has_values=config.method == "ppo", temperature=config.temperature, precision=precision
        )
    return agent.to(policy.device)


def train(config: Config, resume: bool = False) -> TunedAgent:
    """Fine-tune in `config.run_dir`, and return the agent. With `resume`, continue what the folder holds, bit for bit.

    Raises UserError for bad settings, a policy, task or log that cannot be read, an existing folder, or a loss that is
    not finite.
    """
    check(config)
    tokenizer = read_tokenizer(config.run_dir if resume else config.policy)
    agent = build(config, tokenizer, config.run_dir if resume else None)
    if not (Path(config.run_dir) / CHECKPOINT).exists():
        load_weights(agent.cloned(), config.policy)
        agent.begin()
    task, scorer = problem_of(config, tokenizer), scorer_of(config)
    files = {} if resume else {"policy.json": read_json(Path(config.policy), "config.json")}
    learners = {"policy_learner": Learner(agent.policy, config.learning_rate, config.max_grad_norm)}
    if agent.values is not None:
        learners["value_learner"] = Learner(agent.values, config.learning_rate, config.max_grad_norm)
    control = KlControl(config.kl_control, config.kl_weight, config.kl_target, config.kl_horizon, config.kl_budget)
    parts: dict[str, Stateful] = {"agent": agent, "control": control, **learners}
    with open_run("rlhf", config, tokenizer, resume, files) as run:
        step = run.restore({}).get("step", 0)
        if step:
            run.restore(parts)
        run.begin(step)
        while step < config.num_steps and not run.interrupted:
            rate = min((step + 1) / (config.warmup + 1), 1 - step / config.num_steps)
            for learner in learners.values():
                learner.learning_rate = config.learning_rate * rate
            played, scores = speak(agent, task, scorer, config, step)
            batches, metrics = experience(agent, played, scores, control.weight, config)
            metrics |= learn(agent, learners, batches, control.weight, config, step)
            control.follow(metrics["kl"], config.num_conversations)
            step += 1
            run.log(step, metrics)
            if step % config.checkpoint_every == 0 or step == config.num_steps or run.interrupted:
                run.save(parts, {"step": step})
    return agent.eval()


@torch.no_grad()
def speak(
    agent: TunedAgent, task: TextTask[Any], scorer: Scorer, config: Config, step: int
) -> tuple[list[Played], list[list[float]]]:
    """A rollout: conversations that depend on the run's seed and the update alone, and what they are worth."""
    played = play(
        task, agent.voice(), config.num_conversations, tokenizer=agent.tokenizer,
        seed=derived_seed(config.seed, 6, step), sampling=agent.sampling, max_tokens=config.max_tokens,
        device=agent.device, group_size=1 if config.method == "ppo" else config.group_size,
    )  # fmt: skip
    return played, scorer(played)


def experience(
    agent: TunedAgent, played: Sequence[Played], scores: list[list[float]], kl_weight: float, config: Config
) -> tuple[list[Experience], dict[str, float]]:
    """The rollout in minibatches, with advantages, and what is logged of it."""
    returns = torch.tensor([sum(each) for each in scores], dtype=torch.float64)
    if config.normalize_rewards:
        spread = float(returns.std(correction=0).clamp(min=1e-3))
        scores = [[score / spread for score in each] for each in scores]
    rows = scored_rows(played, scores, config.unfinished_penalty, agent.tokenizer)
    parts = [rows[first : first + config.batch_size] for first in range(0, len(rows), config.batch_size)]
    batches = [observe(agent, part, config.kl) for part in parts]
    in_reward = kl_weight if config.kl_in == "reward" else 0.0
    rewards = [batch.said.reward - in_reward * batch.estimate for batch in batches]
    if config.method == "ppo":
        batches = [
            with_gae(batch, reward, config.gamma, config.gae_lambda)
            for batch, reward in zip(batches, rewards, strict=True)
        ]
    else:
        batches = with_group_advantages(batches, rewards, config.method, config.group_size)
    own = [turn for each in played for turn in each.turns if turn.agent and not turn.given]
    tokens = sum(float(batch.said.valid.sum()) for batch in batches)

    def a_conversation(name: str) -> float:
        return sum(float(getattr(batch, name).sum()) for batch in batches) / len(played)

    return batches, {
        "episode_return": float(returns.mean()),
        "kl": a_conversation("kl"),
        "kl_estimate": a_conversation("estimate"),
        "kl_weight": kl_weight,
        "entropy": a_conversation("entropy") * len(played) / tokens,
        "tokens": tokens / len(played),
        "turns": len(own) / len(played),
        "unfinished": sum(not turn.ended for turn in own) / len(own),
    }


def learn(
    agent: TunedAgent,
    learners: dict[str, Learner],
    batches: Sequence[Experience],
    kl_weight: float,
    config: Config,
    step: int,
) -> dict[str, float]:
    """One update: epochs of minibatches over one rollout, each epoch in an order of its own. Returns metrics' means."""
    scale = 1.0
    if config.method == "ppo":
        batches, scale = standardized(batches)
    config = replace(config, kl_weight=kl_weight / scale)
    order = torch.Generator().manual_seed(derived_seed(config.seed, 7, step))
    history: list[dict[str, Tensor]] = []
    for _ in range(config.num_epochs):
        for number in torch.randperm(len(batches), generator=order).tolist():
            total, metrics = loss(agent, batches[number], config)
            metrics["grad_norm"] = learners["policy_learner"].update(total)
            if agent.values is not None:
                error = value_loss(agent, batches[number])
                learners["value_learner"].update(error)
                metrics["value_loss"] = error.detach()
            history.append(metrics)
    means = torch.stack([torch.stack(list(metrics.values())) for metrics in history]).mean(0).tolist()
    return dict(zip(history[0], means, strict=True))


def standardized(batches: Sequence[Experience]) -> tuple[list[Experience], float]:
    """The batches with advantages standardised over all their tokens, and by what they were divided."""
    every = torch.cat([batch.advantage[batch.said.valid] for batch in batches])
    mean, scale = every.mean(), float(every.std(correction=0)) + 1e-8
    return [
        batch._replace(advantage=((batch.advantage - mean) / scale).masked_fill(~batch.said.valid, 0.0))
        for batch in batches
    ], scale
