"""How well a voice foretells what was said in logged dialogues, token by token."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from seqrl.data.dialogues import Dialogue
from seqrl.errors import UserError
from seqrl.language.generation import Voice
from seqrl.language.likelihood import decided, log_probs, of_tokens
from seqrl.language.rows import rows_of, token_turns
from seqrl.text import Tokenizer

MAX_NUMBERS = 2**26
"""Probabilities that are held at once: 256 MiB."""


class Foretold(NamedTuple):
    """Means over the agent's tokens, those that end its turns too: as `bc`'s held_out_loss, of all dialogues."""

    num_dialogues: int
    num_turns: int
    num_tokens: int
    loss: float
    """−log of the probability of what was said, in nats a token."""
    perplexity: float
    accuracy: float
    """Share of the tokens that were the likeliest."""


def foretold(
    voice: Voice,
    dialogues: Sequence[Dialogue],
    tokenizer: Tokenizer,
    watch: Callable[[int], None] = lambda number: None,
) -> Foretold:
    """Of the turns of each dialogue's agent. Raises UserError where it never speaks, or a text has no tokens."""
    logs = [rows_of(token_turns(dialogue, tokenizer), tokenizer) for dialogue in dialogues]
    logs = sorted((log for log in logs if log.mask.any()), key=lambda log: int(log.mask.sum()))
    if not logs:
        raise UserError("the agent never speaks in these dialogues: give another log; see seqrl audit")
    size = max(1, min(256, MAX_NUMBERS // (int(logs[-1].mask.sum()) * len(tokenizer))))
    surprise, right, turns, tokens = 0.0, 0, 0, 0
    for first in range(0, len(logs), size):
        part = logs[first : first + size]
        said = decided(part)
        log_prob = log_probs(voice, part, torch.ones(len(tokenizer), dtype=torch.bool))
        surprise -= float(of_tokens(log_prob, said).double().sum())
        right += int(((log_prob.argmax(-1) == said.token) & said.valid).sum())
        turns, tokens = turns + int(said.num_turns.sum()), tokens + int(said.valid.sum())
        watch(len(part))
    loss = surprise / tokens
    return Foretold(len(logs), turns, tokens, loss, math.exp(min(loss, 700.0)), right / tokens)
