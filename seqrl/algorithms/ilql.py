"""Implicit language Q-learning: values of tokens, learnt from logged dialogues, steer a cloned policy as it speaks.

At each of the agent's tokens a_d in state s_d (all tokens before it), with two Q heads, their target copies, and V:

    Q:    (r_d + γ (1 − terminated) V(s_{d+1}) − Q_i(s_d, a_d))²                         both i
    V:    |τ − 1(u < 0)| u²,   u = min_i Q̄_i(s_d, a_d) − V(s_d)                          an expectile of the targets
    CQL:  α · (−log softmax(Q_i(s_d, ·))[a_d])                                            both i
    Q̄_i ← (1 − ρ) Q̄_i + ρ Q_i after each update

It speaks by log π_b + β min_i Q̄_i, where π_b is a run of `bc` and stays as it is (`seqrl.language.steering`).
With `target` "return", Q_i are regressed on the return-to-go instead, and V on its mean: Monte Carlo returns ("MC" in
LMRL-Gym), steered by in the same way.

Source: Snell et al. 2022, arXiv 2206.11871, per-token variant; MC: Abdulhai et al. 2023, arXiv 2311.18232. Differs:

- Values have a model of their own, and the target heads read its features: only heads are averaged, not the model.
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

from seqrl.config import require, require_not_negative
from seqrl.errors import UserError
from seqrl.language.logged import DialogueDataset, DialogueWindows
from seqrl.language.rows import decisions
from seqrl.language.steering import SteeredAgent, TokenValues
from seqrl.language_config import LanguageConfig, check_shared, configured_task, make_model
from seqrl.language_run import (
    check_reads,
    dialogue_windows,
    load_weights,
    open_run,
    read_dataset,
    read_tokenizer,
    split,
)
from seqrl.objectives import conservative_error, expectile_error, masked_mean
from seqrl.offline_parts import fit
from seqrl.run import config_from_json, read_json
from seqrl.text import Tokenizer

Target = Literal["bootstrap", "return"]
Initial = Literal["policy", "fresh"]


@dataclass(frozen=True, kw_only=True)
class Config(LanguageConfig):
    """Implicit language Q-learning. The defaults serve small tasks."""

    policy: str = ""
    """Run of bc whose policy is steered, and stays as it is; by default one is trained first, as RUN_policy."""
    target: Target = "bootstrap"
    """What Q is learnt from: bootstrap, or return, the Monte Carlo return-to-go."""
    initial: Initial = "policy"
    """What the values' model begins as: a copy of the policy's, which has to be of the same sizes, or fresh."""
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


def loss(agent: SteeredAgent, windows: DialogueWindows, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of the three terms, means over the agent's tokens that are learnt from. The metrics are detached."""
    values = agent.values
    chosen = decisions(windows.mask)
    learnt = chosen.of(windows.learnt) & chosen.valid
    y = chosen.of(values.model(windows.tokens[:-1]))
    action = chosen.of(windows.tokens[1:])[..., None]
    v, both = values.value(y), values.action_values(y)
    if config.target == "return":
        target, v_target, expectile = chosen.of(windows.return_to_go), chosen.of(windows.return_to_go), 0.5
    else:
        # The next decision is the next row, and behind a dialogue's last there is none: its row is not valid.
        follows = torch.cat([chosen.valid[1:], torch.zeros_like(chosen.valid[:1])])
        next_v = torch.cat([v[1:], torch.zeros_like(v[:1])]).detach()
        target = chosen.of(windows.reward) + config.gamma * next_v.masked_fill(~follows, 0.0)
        v_target, expectile = values.least(y).gather(-1, action)[..., 0], config.expectile
    per_scale = values.scale.square()
    said = [q.gather(-1, action)[..., 0] for q in both]
    q_loss = torch.stack([masked_mean((target - q).square(), learnt) for q in said]).sum() / per_scale
    v_loss = masked_mean(expectile_error(v, v_target, expectile), learnt) / per_scale
    cql = torch.stack([masked_mean(conservative_error(q, action[..., 0]), learnt) for q in both]).sum()
    total = q_loss + v_loss + config.cql_weight * cql
    metrics = {"loss": total, "q_loss": q_loss, "v_loss": v_loss, "cql": cql}
    metrics |= {"value": masked_mean(v, learnt), "action_value": masked_mean(said[0], learnt)}
    return total, {name: value.detach() for name, value in metrics.items()}


def check(config: Config) -> None:
    """Raise UserError for settings that make no sense."""
    check_shared(config)
    for name, kind in {"target": Target, "initial": Initial}.items():
        value, known = getattr(config, name), get_args(kind)
        require(value in known, f"--{name} '{value}': choose one of {', '.join(known)}")
    require_not_negative(config, "cql_weight", "beta")
    require(0 < config.gamma <= 1, f"--gamma is {config.gamma}: it must be above 0, and at most 1")
    require(0 < config.expectile < 1, f"--expectile is {config.expectile}: choose between 0 and 1")
    require(0 < config.polyak <= 1, f"--polyak is {config.polyak}: it must be above 0, and at most 1")
    require(bool(config.policy), "no policy to steer: name a run of bc with --policy (seqrl train bc)")


def build(config: Config, tokenizer: Tokenizer, run: Any = None) -> SteeredAgent:
    """The agent with untrained values, of weights that depend on the seed alone, and a policy that is not loaded yet.

    What model the policy is, the run folder `run` of this config says, or the policy's own.
    """
    settings = read_json(Path(run), "policy.json") if run else read_json(Path(config.policy), "config.json")
    known = {field.name for field in dataclasses.fields(LanguageConfig)}
    settings = {key: value for key, value in settings.items() if key in known} | {"device": config.device}
    policy = make_model(config_from_json(settings, LanguageConfig, Path("policy.json")), tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        values = TokenValues(make_model(config, tokenizer))
    return SteeredAgent(tokenizer, policy, values.to(policy.device), config.beta)


def train(config: Config, resume: bool = False) -> SteeredAgent:
    """Train values on the log in `config.dialogues`, and return the agent. With `resume`, continue, bit for bit.

    Raises UserError for bad settings, a log or a policy that cannot be read, an existing run folder, or a loss that is
    not finite.
    """
    check(config)
    tokenizer = read_tokenizer(config.run_dir if resume else config.policy)
    agent = build(config, tokenizer, config.run_dir if resume else None)
    files = {}
    if not resume:
        load_weights(agent.cloned(), config.policy)
        if config.initial == "policy":
            _copy_policy(agent, config)
        files["policy.json"] = read_json(Path(config.policy), "config.json")
    if config.task:
        check_reads(tokenizer, configured_task(config), config.policy)
    dataset, _ = read_dataset(config, tokenizer, config.gamma)
    dataset, held_out = split(dataset, config)
    with open_run("ilql", config, tokenizer, resume, files) as run:
        fit(
            config, agent, dataset, held_out, run, loss, _describe, dialogue_windows,
            after_update=lambda agent: agent.values.follow(config.polyak),
        )  # fmt: skip
    return agent.eval()


def _copy_policy(agent: SteeredAgent, config: Config) -> None:
    try:
        agent.values.model.load_state_dict(agent.policy.state_dict())
    except RuntimeError:
        raise UserError(
            f"the values' model ({config.model} of {config.hidden_size}) is not of the sizes of the policy's in "
            f"{config.policy}: give --model and its sizes as there, or --initial fresh"
        ) from None


def _describe(agent: SteeredAgent, dataset: DialogueDataset) -> None:
    agent.values.describe(dataset.return_to_go[dataset.mask])
