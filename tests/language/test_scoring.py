"""Scores of batches of conversations, and prompts as conversations that go on."""

import pytest

from seqrl.data.dialogues import Dialogue, Turn
from seqrl.errors import UserError
from seqrl.language.generation import Plain
from seqrl.language.play import play
from seqrl.language.prompted import Prompted, prompts_of
from seqrl.language.rewards import combined
from seqrl.language.rows import rows_of
from seqrl.language.scoring import Weighted, as_dialogue, by_task, of_reward, weights_of
from tests.rated import TOKENIZER, Rated, conversations, tuned

LOG = Dialogue(
    id="d",
    agent="shop",
    turns=(
        Turn(speaker="shop", text="a"),
        Turn(speaker="you", text="b"),
        Turn(speaker="shop", text="ab"),
        Turn(speaker="you", text="ba"),
        Turn(speaker="you", text="bb"),
        Turn(speaker="shop", text="a", reward=1.0),
    ),
)


def test_scorers_give_a_reward_for_each_turn():
    task = Rated({("a",): 0.5, ("a", "b"): 2.0}, max_turns=2)
    played = [each for each in conversations(task, 1) if each.dialogue.utterances == ("a", "b")]
    length = of_reward(combined({"length": 1.0}))
    assert by_task(played) == [[0.5, 2.0]]
    assert length(played) == [[1.0, 1.0]]
    assert Weighted([(by_task, 2.0), (length, -1.0)])(played) == [[0.0, 3.0]]


def test_the_disagreement_of_a_scorer_is_told():
    def unsure(played):
        return [[1.0] for _ in played]

    unsure.disagreement = [[0.25]]
    task = Rated({})
    played = conversations(task, 1)[:1]
    both = Weighted([(by_task, 1.0), (unsure, -2.0)])
    assert both.disagreement is None
    assert both(played) == [[-2.0]]
    assert both.disagreement == [[0.5]]
    alone = Weighted([(by_task, 1.0)])
    alone(played)
    assert alone.disagreement is None


def test_what_is_said_of_weights():
    assert weights_of(["task", "length=-0.01", "runs/a=b=2"]) == {"task": 1.0, "length": -0.01, "runs/a=b": 2.0}
    for specs in ([], ["length="], ["=1"], ["length=nan"], ["task", "task=2"]):
        with pytest.raises(UserError, match=r"--gold|no reward"):
            weights_of(specs, "--gold")


def test_a_prompt_is_all_that_was_said_before_a_turn():
    assert prompts_of([LOG]) == [
        (),
        ((True, "a"), (False, "b")),
        ((True, "a"), (False, "b"), (True, "ab"), (False, "ba"), (False, "bb")),
    ]
    with pytest.raises(UserError, match="no prompts"):
        Prompted([], TOKENIZER)


# Broken by a seed of `number` in `play`, or by draws that a group shares.
def test_a_group_begins_alike_and_goes_on_as_it_likes():
    task = Prompted([((False, text),) for text in ("a", "b", "ab", "ba", "bb")], TOKENIZER)
    played = play(task, Plain(tuned().policy), 12, tokenizer=TOKENIZER, max_tokens=4, group_size=4)
    asked = [each.dialogue.facts["prompt"] for each in played]
    assert [asked[k : k + 4] for k in (0, 4, 8)] == [[asked[k]] * 4 for k in (0, 4, 8)]
    assert len(set(asked)) > 1
    assert all(len({each.dialogue.utterances for each in played[k : k + 4]}) > 1 for k in (0, 4, 8))


# Broken by a history whose turns count as the agent's choices, or by reading it in another order than training does.
def test_answers_to_a_prompt_go_on_from_it():
    task = Prompted(prompts_of([LOG])[2:], TOKENIZER)
    read = []
    voice = Plain(tuned().policy)
    whole = voice.read
    voice.read = lambda tokens, count, context: read.append(tokens) or whole(tokens, count, context)
    (played,) = play(task, voice, 1, tokenizer=TOKENIZER, max_tokens=2)
    t = TOKENIZER
    given = [
        t.begin_id, t.agent_id, 6, t.end_of_utterance_id, 7, t.end_of_reply_id, t.agent_id, 6, 7, t.end_of_utterance_id,
        7, 6, t.end_of_reply_id, 7, 7, t.end_of_reply_id, t.agent_id,
    ]  # fmt: skip
    assert read[0][:, 0].tolist() == given
    rows = rows_of(played.turns, TOKENIZER)
    assert rows.tokens[: len(given)].tolist() == given
    assert not rows.mask[: len(given) - 1].any()
    assert rows.mask[len(given) - 1]
    assert [turn.given for turn in played.turns if turn.agent] == [True, True, False]
    told = as_dialogue(played)
    assert [turn.text for turn in told.turns][:5] == ["a", "b", "ab", "ba", "bb"]
    assert len(of_reward(combined({"turns": 1.0}))([played])[0]) == 1
