"""A rollout of conversations on its way from an actor to the learner: a tree of tensors, which any engine can carry."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seqrl.language.play import Played
from seqrl.language.rows import TokenTurn
from seqrl.text import Dialogue
from seqrl.trajectory import Tree


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """Conversations, what they are worth, and how likely their tokens were to the policy that said them."""

    played: list[Played]
    scores: list[list[float]]
    """For each of the agent's turns."""
    disagreement: list[list[float]] | None = None
    """How far the members of a reward model differed, shaped as the scores."""
    log_prob: tuple[Float[Tensor, "D B"], ...] = ()
    """log μ of the agent's own tokens, in the minibatches that are learnt from; 0 where there is none. Empty where the
    policy that learns spoke itself."""
    lag: int = 0
    """Updates that the learner has made since the weights that spoke."""


def to_json(spoken: Spoken) -> dict[str, Any]:
    """Words and scores, which JSON can hold; neither log-probabilities nor the lag."""
    played = [dataclasses.asdict(each) for each in spoken.played]
    return {"played": played, "scores": spoken.scores, "disagreement": spoken.disagreement}


def of_json(content: dict[str, Any], **others: Any) -> Spoken:
    """What `to_json` was made of, and the `others` of its fields."""
    played = [_played(each) for each in content["played"]]
    return Spoken(played=played, scores=content["scores"], disagreement=content["disagreement"], **others)


def to_tree(spoken: Spoken) -> Tree:
    """Words and numbers as the bytes of JSON, log-probabilities as they are. The lag is the shipment's to say."""
    content = json.dumps(to_json(spoken)).encode()
    return {"content": torch.frombuffer(bytearray(content), dtype=torch.uint8), "log_prob": spoken.log_prob}


def of_tree(tree: Tree, lag: int) -> Spoken:
    """What `to_tree` was made of."""
    content = json.loads(tree["content"].numpy().tobytes())
    return of_json(content, log_prob=tuple(tree["log_prob"]), lag=lag)


def _played(content: dict[str, Any]) -> Played:
    said = content["dialogue"]
    turns = [TokenTurn(**{**turn, "ids": tuple(turn["ids"])}) for turn in content["turns"]]
    return Played(
        dialogue=Dialogue(**{**said, "texts": tuple(said["texts"]), "rewards": tuple(said["rewards"])}),
        turns=tuple(turns),
        history=tuple((agent, text) for agent, text in content["history"]),
    )
