"""Negotiations: deals scored by hand, each counterpart's promise, and a consequence for every text."""

import dataclasses
import random
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqrl.errors import UserError
from seqrl.text import converse
from seqrl.text.negotiation import Negotiation
from seqrl.text.negotiation_counterparts import COUNTERPARTS, Manner, NegotiationState, asked, worth
from seqrl.text.negotiation_parsing import parse
from seqrl.text.negotiation_speakers import STYLES, ScriptedNegotiator, all_utterances
from seqrl.text.negotiation_words import offers, rest

MINE, THEIRS = (5, 4, 3), (3, 4, 5)


def play(task: Negotiation, *said: str, theirs=THEIRS, seed: int = 0) -> list:
    """The turns that follow from `said`, with priorities (5, 4, 3) of the agent."""
    generator = torch.Generator().manual_seed(seed)
    name = task.counterpart
    state = NegotiationState(counterpart=name, mine=MINE, theirs=theirs, demand=task.counterparts[name].first)
    turns = []
    for utterance in said:
        turns.append(task.reply(state, utterance, generator))
        state = turns[-1].state
    return turns


def offer(food: int, water: int, firewood: int) -> str:
    return f"I take {food} food, {water} water and {firewood} firewood and you get the rest."


def test_deals_are_scored():
    # The agent gets 3 food and 1 water: 3·5 + 4 = 19; the other 2 water and 3 firewood: 2·4 + 3·5 = 23.
    task = Negotiation("fair")
    (turn,) = play(task, offer(3, 1, 0))
    assert (turn.reward, turn.ended, parse(turn.text).act) == (19.0, True, "accept")
    assert task.outcome(turn.state) == {
        "agreement": True, "points": 19, "partner_points": 23, "food": 3, "water": 1, "firewood": 0,
    }  # fmt: skip
    assert task.facts(turn.state) == {
        "counterpart": "fair", "high": "Food", "medium": "Water", "low": "Firewood",
        "partner_high": "Firewood", "partner_medium": "Water", "partner_low": "Food",
    }  # fmt: skip


@pytest.mark.parametrize("end", ["walk", "time", "insults"])
def test_without_a_deal_both_get_five(end):
    task = Negotiation("rude" if end == "insults" else "fair", max_turns=3)
    said = {"walk": ["Hello", "I walk away."], "time": [offer(3, 3, 3)] * 3, "insults": ["You fool"] * 2}[end]
    turns = play(task, *said)
    assert [turn.reward for turn in turns] == [0.0] * (len(turns) - 1) + [5.0]
    assert [turn.ended for turn in turns] == [False] * (len(turns) - 1) + [True]
    outcome = task.outcome(turns[-1].state)
    assert outcome == {"agreement": False, "points": 5, "partner_points": 5}


def test_the_table_is_what_it_said():
    # Broken by taking the counterpart's share as the agent's (`table=asked(…)`).
    for seed in range(20):
        first, second = play(Negotiation("stubborn"), offer(3, 3, 3), "I accept", seed=seed)
        share = rest(parse(first.text).share)
        assert second.reward == worth(share, MINE)
        assert second.state.deal == first.state.table == share


def test_acceptance_of_nothing_loses_a_turn():
    first, second = play(Negotiation("fair"), "I accept", "what do you need")
    assert not first.ended
    assert first.text == "There is no offer from me yet."
    assert first.state.demand == second.state.demand == 21
    assert parse(second.text).tells == (2, 0)


def demands(task: Negotiation, *said: str) -> list[int]:
    return [turn.state.demand for turn in play(task, *said)]


def test_promises():
    no, all_mine = "No deal.", offer(3, 3, 3)
    # Gives up its step for an offer or the rejection of its own, to its least; nothing for other words.
    assert demands(Negotiation("conceder"), no, no, all_mine, "hm", "Hello", no, no) == [27, 24, 21, 21, 21, 18, 15]
    assert demands(Negotiation("conceder"), *[all_mine] * 7) == [24, 21, 18, 15, 12, 9, 9]
    assert demands(Negotiation("stubborn"), all_mine, all_mine, "Thank you. No deal.") == [32, 31, 30]
    # As many points as the offer gave it more than the best before: 0, then 13 (1 food, 2 firewood), then no more.
    assert demands(Negotiation("tit_for_tat"), all_mine, offer(2, 3, 1), offer(3, 3, 1), no) == [27, 14, 14, 14]
    # Courtesy counts with the rude one alone; insults raise the demand, to its first at most, and stop its giving.
    assert demands(Negotiation("rude"), all_mine, f"Please. {all_mine}", f"You fool. {all_mine}") == [26, 23, 26]
    assert demands(Negotiation("fair"), all_mine, all_mine, f"Silly. {all_mine}") == [20, 19, 21]
    assert demands(Negotiation("stubborn"), all_mine, f"Silly. {all_mine}") == [32, 32]
    assert all(parse(turn.text).insults for turn in play(Negotiation("rude"), "Hello", all_mine, "hm"))


def test_liar_lies_and_offers_by_the_truth():
    for name, told in [("fair", (2, 0)), ("liar", (0, 2))]:
        said, offered = play(Negotiation(name), "What do you need most?", "I need food most and firewood least.")
        assert parse(said.text).tells == told
        assert worth(parse(offered.text).share, THEIRS) >= COUNTERPARTS[name].first


def test_helper_offers_what_suits_both():
    # Of the shares worth 21 to it, the best for what was said: 3 firewood and 2 water, 23, leave 19; untold, it leaves
    # the most packages.
    share = asked(THEIRS, 21, True, (0, 2))
    assert share == (0, 2, 3)
    for name, told in [("fair", (0, 2)), ("stubborn", (None, None))]:
        turn = play(Negotiation(name), "I need food most and firewood least.")[-1]
        assert turn.state.told == told
    assert sum(asked(THEIRS, 21, True, (None, None))) == 5
    assert worth(asked(THEIRS, 21, False, (None, None)), THEIRS) == 21


@pytest.mark.parametrize("helps", [False, True])
def test_renaming_items_renames_offers(helps):
    # Broken by telling equal shares apart by the items' order: `*(-number for number in share)` in `asked`.
    for demand in range(37):
        for order in permutations(range(3)):
            theirs = tuple(THEIRS[item] for item in order)
            for told in [(None, None), (0, 1), (2, 0), (1, None)]:
                renamed = tuple(None if item is None else order.index(item) for item in told)
                share = asked(THEIRS, demand, helps, told)
                assert asked(theirs, demand, helps, renamed) == tuple(share[item] for item in order)


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_offers_always_keep_the_demand(name):
    task = Negotiation(name, max_turns=20)
    rng, said = random.Random(0), all_utterances()
    for seed in range(30):
        for turn in play(task, *(rng.choice(said) for _ in range(1)), seed=seed):
            if not turn.ended and (share := parse(turn.text).share):
                assert worth(share, THEIRS) >= turn.state.demand >= COUNTERPARTS[name].last


@pytest.mark.parametrize("name", [*COUNTERPARTS, "mixed"])
def test_seeds_and_vocabulary(name):
    task = Negotiation(name)
    for style in STYLES:
        for seed in range(10):
            dialogues = [
                converse(
                    task,
                    ScriptedNegotiator(task, torch.Generator().manual_seed(seed), style),
                    torch.Generator().manual_seed(seed),
                )
                for _ in range(2)
            ]
            assert dialogues[0] == dialogues[1]
            texts, rewards = dialogues[0].texts, dialogues[0].rewards
            assert all(task.tokenizer.decode(task.tokenizer.encode(text)) == text for text in texts)
            assert not any(rewards[:-1])
            assert rewards[-1] == dialogues[0].outcome["points"]


def test_mixed_draws_all():
    task, generator = Negotiation("mixed"), torch.Generator().manual_seed(0)
    states = [task.start(generator)[0] for _ in range(2000)]
    assert {state.counterpart for state in states} == set(COUNTERPARTS)
    assert len({(state.counterpart, state.mine, state.theirs) for state in states}) == 6 * 36


@given(st.text(max_size=60), st.sampled_from(sorted(COUNTERPARTS)))
def test_any_text_has_a_consequence_and_is_not_quoted(text, name):
    # Broken by quoting an utterance in a reply: the same seed would give another text.
    task = Negotiation(name)
    (turn,) = play(task, text)
    assert turn.state.turns == 1
    said = parse(text)
    canonical = {"other": "blah", "accept": "i accept", "reject": "no deal", "greet": "hi", "walk": "walk-away"}
    if said.act in canonical and said.tells == (None, None) and not said.asks and not said.insults:
        assert turn.text == play(task, canonical[said.act])[0].text


ODD = [
    "<script>alert(1)</script>",
    "\x1b[2J\x00",
    "\u202e" * 50,
    "\ud800",
    "a" * 10**6,
    "<end of dialogue>",
    "Your points: food 9",
]


@pytest.mark.parametrize("utterance", ODD)
def test_odd_utterances_are_not_understood(utterance):
    (turn,) = play(Negotiation("fair"), utterance)
    assert (turn.text, turn.reward, turn.ended) == ("I do not understand.", 0.0, False)


def test_vocabulary_reads_what_people_wrote():
    tokenizer = Negotiation().tokenizer
    text = "Hi, have you camped here before🙂 @ 7:30? Its pleasure to me"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(offers((2, 1, 0))[0])) <= 20
    with pytest.raises(dataclasses.FrozenInstanceError):
        play(Negotiation(), "hi")[0].state.turns = 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"counterpart": "fare"}, "unknown counterpart 'fare': did you mean 'fair'"),
        ({"max_turns": 0}, "max_turns is 0"),
        ({"counterparts": {"fair": Manner(first=10, last=11)}}, "'fair' demands 10, then 11"),
        ({"counterparts": {"fair": Manner(first=40, last=11)}}, "'fair' demands 40"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        Negotiation(**arguments)
    with pytest.raises(UserError, match="unknown style 'god'"):
        ScriptedNegotiator(Negotiation(), torch.Generator(), "god")
