"""An actor that speaks: a copy of the policy, what it speaks in, and what scores it."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from seqrl.data import Episodes
from seqrl.distributed import Shipment, Weights
from seqrl.distributed.engine import Unsaved
from seqrl.language.play import Played, play
from seqrl.language.rows import rows_of
from seqrl.language.scoring import Weighted
from seqrl.language.spoken import Spoken, to_tree
from seqrl.language.tuned import TunedSpeaker
from seqrl.language.tuning import said_by
from seqrl.language_runs.rlhf_config import Config
from seqrl.seeds import derived_seed
from seqrl.text import TextTask
from seqrl.trajectory import Tree

SPEAKS = 6
"""Tells the seeds of rollouts apart from others of the run."""


@torch.no_grad()
def converse(speaker: TunedSpeaker, task: TextTask[Any], config: Config, seed: int) -> list[Played]:
    """A rollout: conversations that depend on the seed and the policy alone."""
    return play(
        task, speaker.voice(), config.num_conversations, tokenizer=speaker.tokenizer, seed=seed,
        max_tokens=config.max_tokens, device=speaker.device, group_size=speaker.group_size,
    )  # fmt: skip


def minibatches(rows: Sequence[Any], config: Config) -> list[Sequence[Any]]:
    """The conversations that are learnt from together, through all epochs. What an actor says of their
    log-probabilities is computed of the same ones: it then differs by the policy, and by nothing else."""
    return [rows[first : first + config.batch_size] for first in range(0, len(rows), config.batch_size)]


class SpeakingActor:
    """Speaks a rollout at a time.

    Rollout k of actor i of N is number k N + i of the run: taking turns, they say what one speaker would have said.
    """

    state: Tree = ()
    """A rollout's conversations have all ended, so that nothing is remembered from one to the next."""

    def __init__(
        self,
        index: int,
        start: int,
        config: Config,
        speaker: TunedSpeaker,
        task: TextTask[Any],
        scorer: Weighted,
    ) -> None:
        self.index, self.start, self.count = index, start, 0
        self.config, self.speaker, self.task, self.scorer = config, speaker, task, scorer
        self.environment = Unsaved()

    def collect(self, weights: Weights, version: int) -> Shipment:
        """Take up `weights`, speak, and say how likely that was."""
        start, config, speaker = time.perf_counter(), self.config, self.speaker
        speaker.policy.load_state_dict(weights)
        number = self.count * config.num_actors + self.index
        # One that is begun anew, or in a run that goes on, must not say again what has been learnt from.
        anew = (self.start,) if self.start else ()
        played = converse(speaker, self.task, config, derived_seed(config.seed, SPEAKS, number, *anew))
        self.count += 1
        scores = self.scorer(played)
        rows = [rows_of(each.turns, speaker.tokenizer) for each in played]
        log_prob = tuple(said_by(speaker, part).cpu() for part in minibatches(rows, config))
        spoken = Spoken(played=played, scores=scores, disagreement=self.scorer.disagreement, log_prob=log_prob)
        nothing: Any = ()
        return Shipment(
            nothing, Episodes([], []), version, self.index, time.perf_counter() - start, spoken=to_tree(spoken)
        )

    def restart(self, seed: int) -> None:
        raise AssertionError("conversations end with their rollout: there is nothing to begin anew")

    def state_dict(self) -> dict[str, Any]:
        """How often it has spoken: all that its next rollout depends on, besides the weights."""
        return {"count": torch.tensor(self.count)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = int(state["count"])

    def close(self) -> None:
        self.speaker.speak_itself()
