"""Implicit language Q-learning: values of tokens, learnt from logged dialogues, steer a cloned policy as it speaks.

At each of the agent's tokens a_d in state s_d (all tokens before it), with two Q heads, their target copies, and V:

    Q:    (r_d + γ (1 − terminated) V(s_{d+1}) − Q_i(s_d, a_d))²                         both i
    V:    |τ − 1(u < 0)| u²,   u = min_i Q̄_i(s_d, a_d) − V(s_d)                          an expectile of the targets
    CQL:  α · (−log softmax(Q_i(s_d, ·))[a_d])                                            both i
    Q̄_i ← (1 − ρ) Q̄_i + ρ Q_i after each update

It speaks by log π_b + β min_i Q̄_i, where π_b is a run of `bc` and stays as it is (`seqrl.language.steering`).
With `level` "utterance" an action is a whole turn u of n tokens: V(s) is read before it and Q_i(s, u) behind it, with
γⁿ⁻¹ (r + γ V(s')) to learn from and no CQL term; of several u drawn from π_b one is said, by exp(β min_i Q̄_i)
(`seqrl.language.utterance_steering`). With `target` "return" Q_i are regressed on the return-to-go instead, and V on
its mean: Monte Carlo returns ("MC" in LMRL-Gym), steered by in the same way. With `horizon` "turn" Q of a token is
regressed on the rest of its logged turn and V behind it, γⁿ (r + γ V(s')) with n tokens to the turn's last: as the
other's turn comes no earlier, only what V would choose inside the turn is lost, and values have as far to spread as
there are turns, not tokens.

Source: Snell et al. 2022, arXiv 2206.11871, per token and, by choosing among proposals, per utterance; MC: Abdulhai et
al. 2023, arXiv 2311.18232. Differs:

- Values have a model of their own, and the target heads read its features: only heads are averaged, not the model.
  With `heads_only` it stays a copy of the policy's, and only V and Q learn.
- s_{d+1} of a turn's last token is where the agent speaks next, after the other's turn: γ counts its own tokens.
- Values are centred and scaled by the log's returns, and the squared errors measured in that scale.
- π_b is trained before, not beside: no term of its likelihood stands in this loss.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from seqrl.config import require, require_at_least_one, require_not_negative
from seqrl.language.logged import DialogueDataset, DialogueWindows
from seqrl.language.rows import decisions
from seqrl.language.steering import SteeredAgent, TokenValues
from seqrl.language.utterance_steering import UtteranceAgent, last_of_turns, utterance_rows
from seqrl.language_runs.config import (
    LanguageConfig,
    check_rewarded,
    check_shared,
    check_sizes,
    configured_task,
    make_model,
)
from seqrl.language_runs.lengths import check_windows
from seqrl.language_runs.preferences import check_temperature, settings_of_policy, with_model_of, with_task_of
from seqrl.language_runs.run import (
    check_reads,
    dialogue_windows,
    open_run,
    read_dataset,
    read_tokenizer,
    split,
)
from seqrl.objectives import conservative_error, expectile_error, masked_mean
from seqrl.offline.training import fit
from seqrl.run_folder import CHECKPOINT, config_from_json, load_weights, read_json
from seqrl.text import Tokenizer

Target = Literal["bootstrap", "return"]
Level = Literal["token", "utterance"]
Horizon = Literal["token", "turn"]
Initial = Literal["policy", "fresh"]


@dataclass(frozen=True, kw_only=True)
class Config(LanguageConfig):
    """Implicit language Q-learning. The defaults serve small tasks."""

    policy: str = ""
    """Run of bc, dpo, kto or rlhf whose policy is steered, and stays as it is; by default one of bc is trained first,
    as RUN_policy."""
    target: Target = "bootstrap"
    """What Q is learnt from: bootstrap, or return, the Monte Carlo return-to-go."""
    horizon: Horizon = "token"
    """Where Q of a token bootstraps: at the next token, or behind the turn, whose later tokens count as logged."""
    level: Level = "token"
    """What an action is: a token, or an utterance, of which `num_proposals` are drawn and one is chosen."""
    num_proposals: int = 8
    """Utterances that are drawn where they are actions."""
    initial: Initial = "policy"
    """What the values' model begins as: a copy of the policy's, whose sizes it then has, or fresh, of its own."""
    heads_only: bool = False
    """Whether the values' model stays as the policy's, and V and Q alone learn: far quicker where the policy has learnt
    to read what matters."""
    gamma: float = 0.99
    """Discount of one of the agent's tokens."""
    expectile: float = 0.8
    """τ of V: ½ for the mean over logged tokens, towards 1 for the best of them."""
    cql_weight: float = 1e-4
    """α, how strongly tokens that were not logged are held below those that were."""
    polyak: float = 0.005
    """ρ, by which the targets follow after each update."""
    beta: float = 16.0
    """β, how strongly values steer; may be changed when speaking."""


def loss(
    agent: SteeredAgent | UtteranceAgent, windows: DialogueWindows, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of the three terms, means over what is learnt from: tokens or utterances. The metrics are detached."""
    return (_token_loss if config.level == "token" else _utterance_loss)(agent.values, windows, config)


def _token_loss(values: TokenValues, windows: DialogueWindows, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    chosen = decisions(windows.mask)
    learnt = chosen.of(windows.learnt) & chosen.valid
    y = values.model.forward_at(windows.tokens[:-1], chosen)
    action = chosen.of(windows.tokens[1:])[..., None]
    v, both = values.value(y), values.action_values(y)
    said = [q.gather(-1, action)[..., 0] for q in both]
    if config.target == "return":
        target = expected = chosen.of(windows.return_to_go)
    else:
        reward = chosen.of(windows.reward)
        target = reward + config.gamma * _next(v, chosen.valid)
        if config.horizon == "turn":
            target = _from_turns_ends(target, reward, chosen.of(last_of_turns(windows.mask)), config.gamma)
        expected = values.least(y).gather(-1, action)[..., 0]
    total, metrics = _errors(v, said, target, expected, learnt, values, config)
    cql = torch.stack([masked_mean(conservative_error(q, action[..., 0]), learnt) for q in both]).sum()
    total = total + config.cql_weight * cql
    return total, {"loss": total.detach(), **metrics, "cql": cql.detach()}


def _utterance_loss(values: TokenValues, windows: DialogueWindows, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """V is read where a turn begins, Q behind its last token. n tokens discount by γⁿ, as they do one by one."""
    turns = utterance_rows(windows.mask)
    learnt = turns.first.of(windows.learnt) & turns.valid
    y = values.model(windows.tokens)
    v = values.value(turns.first.of(y[:-1]))
    behind = turns.last.of(y[1:])
    said = [q[..., 0] for q in values.action_values(behind)]
    if config.target == "return":
        target = expected = turns.first.of(windows.return_to_go)
    else:
        reward = turns.last.of(windows.reward)
        target = config.gamma ** (turns.length - 1) * (reward + config.gamma * _next(v, turns.valid))
        expected = values.least(behind)[..., 0]
    total, metrics = _errors(v, said, target, expected, learnt, values, config)
    return total, {"loss": total.detach(), **metrics}


def _next(v: Tensor, valid: Tensor) -> Tensor:
    """V of the next decision, which is the next row; behind a dialogue's last there is none: its row is not valid."""
    v, follows = v.detach()[1:], valid[1:]
    return torch.cat([v.masked_fill(~follows, 0.0), torch.zeros_like(valid[:1], dtype=v.dtype)])


def _from_turns_ends(target: Tensor, reward: Tensor, last: Tensor, gamma: float) -> Tensor:
    """G_d = r_d + γ G_{d+1} inside a turn, and the `target` at its last token: all [D, B]."""
    rows = [target[-1]]
    for d in range(len(target) - 2, -1, -1):
        rows.append(torch.where(last[d], target[d], reward[d] + gamma * rows[-1]))
    return torch.stack(rows[::-1])


def _errors(
    v: Tensor, said: list[Tensor], target: Tensor, expected: Tensor, learnt: Tensor, values: TokenValues, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """The squared errors of Q_i to `target`, and V's expectile error to `expected`, in the scale of the values."""
    per_scale = values.scale.square()
    expectile = 0.5 if config.target == "return" else config.expectile
    q_loss = torch.stack([masked_mean((target - q).square(), learnt) for q in said]).sum() / per_scale
    v_loss = masked_mean(expectile_error(v, expected, expectile), learnt) / per_scale
    metrics = {"q_loss": q_loss, "v_loss": v_loss}
    metrics |= {"value": masked_mean(v, learnt), "action_value": masked_mean(said[0], learnt)}
    return q_loss + v_loss, {name: value.detach() for name, value in metrics.items()}


def check(config: Config) -> None:
    """Raise UserError for settings that make no sense."""
    check_shared(config)
    for name, kind in {"target": Target, "horizon": Horizon, "level": Level, "initial": Initial}.items():
        value, known = getattr(config, name), get_args(kind)
        require(value in known, f"--{name} '{value}': choose one of {', '.join(known)}")
    require_at_least_one(config, "num_proposals")
    require_not_negative(config, "cql_weight", "beta")
    require(0 < config.gamma <= 1, f"--gamma is {config.gamma}: it must be above 0, and at most 1")
    require(0 < config.expectile < 1, f"--expectile is {config.expectile}: choose between 0 and 1")
    require(0 < config.polyak <= 1, f"--polyak is {config.polyak}: it must be above 0, and at most 1")
    require(
        config.initial == "policy" or not config.heads_only,
        f"--heads-only with --initial {config.initial}: the model would never learn to read; leave one of them out",
    )
    require(bool(config.policy), "no policy to steer: name a run of bc with --policy (seqrl train bc)")


def build(config: Config, tokenizer: Tokenizer, run: Any = None) -> SteeredAgent | UtteranceAgent:
    """The agent with untrained values, of weights that depend on the seed alone, and a policy that is not loaded yet.

    What model the policy is, the run folder `run` of this config says, or the policy's own.
    """
    settings = read_json(Path(run), "policy.json") if run else settings_of_policy(config.policy)
    known = {field.name for field in dataclasses.fields(LanguageConfig)}
    settings = {key: value for key, value in settings.items() if key in known} | {"device": config.device}
    policy = make_model(config_from_json(settings, LanguageConfig, Path("policy.json")), tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        values = TokenValues(make_model(config, tokenizer), 1 if config.level == "utterance" else None)
    values = values.to(policy.device)
    values.model.requires_grad_(not config.heads_only)
    if config.level == "utterance":
        return UtteranceAgent(tokenizer, policy, values, config.beta, config.num_proposals)
    return SteeredAgent(tokenizer, policy, values, config.beta)


def train(config: Config, resume: bool = False) -> SteeredAgent | UtteranceAgent:
    """Train values on the log in `config.dialogues`, and return the agent. With `resume`, continue, bit for bit.

    Raises UserError for bad settings, a log or a policy that cannot be read, an existing run folder, or a loss that is
    not finite.
    """
    check(config)
    if not resume:
        check_temperature(config.policy)
        if config.initial == "policy":
            why = "without --initial fresh the values' model begins as a copy of the policy's in"
            config = with_model_of(config, config.policy, why)
        config = with_task_of(config, config.policy)
        check_sizes(config)
        check_rewarded(config)
    tokenizer = read_tokenizer(config.run_dir if resume else config.policy)
    agent = build(config, tokenizer, config.run_dir if resume else None)
    files = {} if resume else {"policy.json": read_json(Path(config.policy), "config.json")}
    if not (Path(config.run_dir) / CHECKPOINT).exists():  # else the policy is there
        load_weights(agent.policy, config.policy, "policy")
        if config.initial == "policy":
            agent.values.model.load_state_dict(agent.policy.state_dict())
    if config.task:
        check_reads(tokenizer, configured_task(config), config.policy)
    dataset, _ = read_dataset(config, tokenizer, config.gamma)
    dataset, held_out = split(dataset, config)
    besides = int(config.level == "utterance")  # Q is read behind what was said last
    check_windows(agent.values.model, (dataset, held_out), config.context_turns, besides)
    with open_run(config, tokenizer, resume, files) as run:
        fit(
            config, agent, dataset, held_out, run, loss, _describe, dialogue_windows,
            after_update=lambda agent: agent.values.follow(config.polyak),
        )  # fmt: skip
    return agent.eval()


def _describe(agent: SteeredAgent | UtteranceAgent, dataset: DialogueDataset) -> None:
    agent.values.describe(dataset.return_to_go[dataset.mask])
