"""What holds for every text task: whatever is said, there is an answer, and states are values."""

import dataclasses
import random

import pytest
import torch

from seqrl.errors import UserError
from seqrl.text import Negotiation, TextMaze, TwentyQuestions, Wordle, converse

TASKS = [Wordle(["crane", "slate", "geese"]), TextMaze(), TextMaze(partly_observed=True), TwentyQuestions()]
TASKS += [Negotiation(), Negotiation("mixed")]
ODD_REWARD = {TextMaze: -4.0, Negotiation: 0.0}
ODD = [
    "",
    " ",
    "\x00",
    "\x1b[31mred",
    "<script>alert(1)</script>",
    "<pad>",
    "<end of dialogue>",
    "é" * 5,
    "\u202ecrane",
]
ODD += ["crane\n", "ＣＲＡＮＥ", "\ud800", "a" * 100_000, "move up\x00", "Is it a dog?\u200b", "𝒸𝓇𝒶𝓃𝑒", "٣٣٣٣٣"]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_odd_utterances_have_consequences(task):
    # Broken by quoting an utterance in a reply: the text would leave the vocabulary.
    generator = torch.Generator().manual_seed(0)
    rng = random.Random(0)
    for utterance in [*ODD, *("".join(map(chr, rng.choices(range(0x250), k=rng.randrange(12)))) for _ in range(200))]:
        state, _ = task.start(generator)
        turn = task.reply(state, utterance, generator)
        assert turn.reward == ODD_REWARD.get(type(task), -1.0)
        assert not turn.ended
        assert turn.state.turns == 1
        assert task.tokenizer.decode(task.tokenizer.encode(turn.text)) == turn.text


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_it_ends_after_max_turns_and_repeats_by_seed(task):
    # Broken by a start that does not draw from the generator given.
    dialogues = [converse(task, lambda texts: "", torch.Generator().manual_seed(seed)) for seed in (3, 3)]
    assert dialogues[0] == dialogues[1]
    assert len(dialogues[0].rewards) == task.max_turns
    openings = {task.start(torch.Generator().manual_seed(seed))[0] for seed in range(20)}
    assert len(openings) > 1


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_states_are_values(task):
    generator = torch.Generator().manual_seed(0)
    state, _ = task.start(generator)
    before = dataclasses.asdict(state)
    same = [task.reply(state, "", torch.Generator().manual_seed(1)) for _ in range(2)]
    assert same[0] == same[1]
    assert dataclasses.asdict(state) == before
    assert len({state, task.reply(state, "", generator).state}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.turns = 5


def test_an_utterance_is_a_text():
    task = TASKS[0]
    state, _ = task.start(torch.Generator())
    with pytest.raises(UserError, match="not list: decode token ids first"):
        task.reply(state, [1, 2], torch.Generator())
