"""What a fine-tuning run is made of: what the policy speaks in, what scores it, what a budget goes back to."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqrl.config import require
from seqrl.data.dialogues import read_dialogues
from seqrl.distributed import ALONE, Engine, Group
from seqrl.distributed.sharding import Whole, put_together
from seqrl.language.monitor import Monitor, Verdict
from seqrl.language.play import Played
from seqrl.language.prompted import Prompted, prompts_of
from seqrl.language.rewards import combined
from seqrl.language.scoring import Scorer, Weighted, by_task, of_reward, weights_of
from seqrl.language.spoken import Spoken, of_json, of_tree, to_json
from seqrl.language.tuned import Generator, TunedAgent
from seqrl.language_runs.config import configured_task
from seqrl.language_runs.kl_control import KlControl
from seqrl.language_runs.learners import share_weights
from seqrl.language_runs.lengths import check_prompts
from seqrl.language_runs.rewards import load_reward_model
from seqrl.language_runs.rlhf_actor import SPEAKS, converse
from seqrl.language_runs.rlhf_config import Config
from seqrl.language_runs.run import check_reads
from seqrl.learner import Learner
from seqrl.run import Stateful
from seqrl.seeds import derived_seed
from seqrl.text import TextTask, Tokenizer


class ModelScorer:
    """Scores of a reward model's run, and how far its members disagree about the last batch."""

    def __init__(self, run: str | Path, tokenizer: Tokenizer, device: str = "cpu") -> None:
        self.agent, self.tokenizer = load_reward_model(run, device), tokenizer
        self.disagreement: list[list[float]] = []

    def __call__(self, played: Sequence[Played]) -> list[list[float]]:
        scores, disagreement = self.agent.scores([each.turns for each in played], self.tokenizer)
        self.disagreement = disagreement
        return scores


def make_scorer(specs: Sequence[str], tokenizer: Tokenizer, device: str = "cpu", flag: str = "--reward") -> Weighted:
    """What NAME or NAME=WEIGHT name: task, rewards of `seqrl.language.rewards`, and run folders of reward models.

    Raises UserError for what is none of these.
    """
    parts: list[tuple[Scorer, float]] = []
    for name, weight in weights_of(specs, flag).items():
        if name == "task":
            parts.append((by_task, weight))
        elif Path(name).is_dir():
            parts.append((ModelScorer(name, tokenizer, device), weight))
        else:
            parts.append((of_reward(combined({name: 1.0})), weight))
    return Weighted(parts)


def make_generator(config: Config) -> Generator | None:
    """What speaks for the policy, if it does not itself. Raises UserError for a model for which vLLM cannot."""
    if config.generator == "own":
        return None
    require(
        config.model == "gpt2" or Path(config.model).is_dir(),
        f"--generator vllm with --model {config.model}: vLLM speaks for a gpt2 or a folder's model: clone one of these "
        "with --model, or leave it out",
    )
    from seqrl.language.vllm_voice import VllmVoice  # needs vllm

    return VllmVoice(config.temperature)


class Kept:
    """The weights that learn and the moments of their learners, as they were when last known to hold a budget, and what
    was measured of them then."""

    def __init__(self, agent: TunedAgent, learners: Sequence[Learner]) -> None:
        self.tensors: list[Tensor] = [p for p in agent.parameters() if p.requires_grad]
        for learner in learners:
            self.tensors += [tensor for each in learner.state_dict().values() for tensor in each]
        self.metrics: dict[str, float] = {}
        self.copies = self.copy()

    @torch.no_grad()
    def copy(self) -> list[Tensor]:
        """The weights and moments as they are."""
        return [tensor.detach().clone() for tensor in self.tensors]

    @torch.no_grad()
    def put(self, copies: Sequence[Tensor]) -> None:
        """Let them be as they were when copied."""
        for tensor, copy in zip(self.tensors, copies, strict=True):
            tensor.copy_(copy)

    def keep(self, metrics: dict[str, float]) -> None:
        """Remember them, and what was measured."""
        self.copies, self.metrics = self.copy(), dict(metrics)

    def restore(self) -> None:
        """Go back to what was kept."""
        self.put(self.copies)

    def state_dict(self) -> dict[str, Any]:
        metrics = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.metrics.items()}
        return {"copies": tuple(self.copies), "metrics": metrics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.copies = list(state["copies"])
        self.metrics = {name: float(value) for name, value in state["metrics"].items()}


def share_models(agent: TunedAgent, config: Config) -> None:
    """Leave this learner a part of each weight of the policy, its reference and its values, if `config` says so.

    Raises UserError for a model that is no stack of blocks.
    """
    read = ["logits", "forward_alike"]
    share_weights(agent.policy, agent.policy, config, [*read, "read"])
    share_weights(agent.reference, agent.reference, config, read)
    if agent.values is not None:
        share_weights(agent.values, agent.values.model, config)
    agent.to(config.device)  # what is no weight


def problem(config: Config, tokenizer: Tokenizer) -> TextTask[Any]:
    """What the policy speaks in. Raises UserError where it has no tokens for what is said there."""
    if config.prompts:
        return Prompted(prompts_of(read_dialogues(config.prompts)), tokenizer)
    require(
        bool(config.task),
        f"{config.policy} has no task to speak in: name a log whose prompts are answered with --prompts, or a --task",
    )
    task = configured_task(config)
    check_reads(tokenizer, task, config.policy)
    return task


@dataclass
class Tuning:
    """What an update needs and changes."""

    config: Config
    agent: TunedAgent
    task: TextTask[Any]
    scorer: Weighted
    gold: Weighted | None
    learners: dict[str, Learner]
    control: KlControl
    kept: Kept | None
    monitor: Monitor
    verdict: Verdict = field(default_factory=lambda: Verdict("ok", ""))
    engine: Engine | None = None
    """Runs the actors, where the learner does not speak itself."""
    group: Group = ALONE
    """The learners of which this is one; `config` is then its share."""

    @classmethod
    def of(cls, config: Config, agent: TunedAgent, group: Group = ALONE) -> "Tuning":
        """As `config` says."""
        tokenizer = agent.tokenizer
        if config.prompts:
            check_prompts(agent.policy, config.prompts, tokenizer, config.max_tokens)
        together: dict[str, Any] = {"share": group.share} if config.shard else {"average": group.average}
        models = {"policy_learner": agent.policy, "value_learner": agent.values}
        learners = {
            name: Learner(model, config.learning_rate, config.max_grad_norm, **together)
            for name, model in models.items()
            if model is not None
        }
        return cls(
            config,
            agent,
            problem(config, tokenizer),
            make_scorer(config.reward, tokenizer, config.device),
            make_scorer(config.gold, tokenizer, config.device, "--gold") if config.gold else None,
            learners,
            KlControl(config.kl_control, config.kl_weight, config.kl_target, config.kl_horizon, config.kl_budget),
            Kept(agent, list(learners.values())) if config.kl_budget else None,
            Monitor(),
            group=group,
        )

    def publish(self, version: int) -> None:
        """Offer the policy to the actors, if there are any, as it is after `version` updates."""
        if self.engine is not None:
            self.engine.publish(self.agent.policy.state_dict(), version)

    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds."""
        parts: dict[str, Stateful] = {"agent": self.agent, **self.learners}
        if self.kept is not None:
            parts["kept"] = self.kept
        if self.config.shard:
            parts = {name: Whole(part) for name, part in parts.items()}
        parts |= {"control": self.control, "monitor": self.monitor}
        if self.engine is not None:
            parts["actors"] = self.engine.acting
        self.group.add_others(parts, common=tuple(parts))
        return parts


def hear(tuning: Tuning, step: int) -> Spoken:
    """The next rollout: of the policy as it is after `step` updates, or the next that an actor has said."""
    if tuning.engine is None:
        played, scores = speak(tuning, step)
        return Spoken(played=played, scores=scores, disagreement=tuning.scorer.disagreement)
    shipment = tuning.engine.receive()
    return of_tree(shipment.spoken, step - shipment.version)


def speak(tuning: Tuning, step: int) -> tuple[list[Played], list[list[float]]]:
    """A rollout, and what its conversations are worth: they depend on the run's seed, the update and which learner this
    is alone."""
    config, rank = tuning.config, tuning.group.rank
    seed = derived_seed(config.seed, SPEAKS, step, *((rank,) if rank else ()))
    with put_together(tuning.agent.policy):
        played = converse(tuning.agent, tuning.task, config, seed)
    return played, tuning.scorer(played)


def watch(tuning: Tuning, spoken: Spoken, entropy: float) -> dict[str, float]:
    """What the monitor measures, of what all learners heard; its verdict is said where it is another than before."""
    group = tuning.group
    gold = [each for part in group.gather(tuning.gold(spoken.played)) for each in part] if tuning.gold else None
    metrics = {"gold_return": sum(map(sum, gold)) / len(gold)} if gold is not None else {}
    if tuning.config.monitor == "off":
        return metrics
    parts = [of_json(each) for each in group.gather(to_json(spoken))] if group.size > 1 else [spoken]
    verdict = tuning.monitor.update(
        [each for part in parts for each in part.played],
        [each for part in parts for each in part.scores],
        entropy=entropy,
        disagreement=None if spoken.disagreement is None else [x for part in parts for x in part.disagreement or ()],
        gold=gold,
    )
    if verdict.level != "ok" and verdict.level != tuning.verdict.level and group.rank == 0:
        print(f"seqrl: {verdict.level}: {verdict.line}", file=sys.stderr)
    tuning.verdict = verdict
    measured = {name: verdict.measures[name] for name in WATCHED if name in verdict.measures}
    return metrics | measured | {"monitor": float(LEVELS.index(verdict.level))}


WATCHED = ("repetition", "distinct", "identical", "disagreement", "gold_lost")
LEVELS = ("ok", "warn", "stop")
"""In the log, as 0, 1 and 2."""
