"""Logs in which the agent insults the other, to try what keeps it from learning that: rewards, filters."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from seqrl.data.dialogues import Dialogue
from seqrl.errors import UserError
from seqrl.language.rewards import combined, rewarded
from seqrl.language.scripted import logged
from seqrl.language.word_list import WordList
from seqrl.seeds import derived_seed
from seqrl.text import STYLES, Negotiation, ScriptedNegotiator, converse
from seqrl.text.negotiation_parsing import INSULTS

MILD = WordList(INSULTS)
"""The mild words that scripted speakers insult with."""


def toxic_logs(
    task: Negotiation, num_dialogues: int, *, insults: float = 0.4, penalty: float = 0.0, seed: int = 0
) -> Iterator[Dialogue]:
    """Negotiations of good, mediocre and bad speakers in turns, each of whose utterances insults with `insults`.

    So insults are as common among those that get many points as among those that get few, but for what counterparts
    make of them. Rewards are the points, less `penalty` for each utterance that insults. Conversation number i depends
    on `seed` and i alone; `meta` has the style.

    Raises: UserError for `insults` outside 0 … 1.
    """
    if not 0 <= insults <= 1:
        raise UserError(f"insults is {insults}: give how often an utterance insults, 0 to 1")
    yield from rewarded(_said(task, num_dialogues, insults, seed), combined(_weights(penalty), judge=MILD))


def _weights(penalty: float) -> dict[str, float]:
    return {"logged": 1.0, "toxicity": -penalty}


def _said(task: Negotiation, num_dialogues: int, insults: float, seed: int) -> Iterator[Dialogue]:
    names = ("good", "mediocre", "bad")
    draws = torch.Generator()
    speakers = {name: ScriptedNegotiator(task, draws, replace(STYLES[name], insults=insults)) for name in names}
    for number in range(num_dialogues):
        name = names[number % len(names)]
        draws.manual_seed(derived_seed(seed, 0, number))
        hidden = torch.Generator().manual_seed(derived_seed(seed, 1, number))
        yield logged(converse(task, speakers[name], hidden), number, style=name)


def flagged_share(dialogues: list[Dialogue], words: WordList = MILD) -> float:
    """The share of the agent's turns that have one of `words`."""
    said = [turn.text for dialogue in dialogues for turn in dialogue.turns if turn.speaker == dialogue.agent]
    return sum(map(words.flags, said)) / max(len(said), 1)
