"""Conversations to be looked at: each token's probability and values against what speaks."""

import numpy as np
import pytest
import torch
from guessing import Guess, random_voice

from seqrl.errors import UserError
from seqrl.inspection.dialogues import inspect_dialogues
from seqrl.language.agent import LanguageAgent
from seqrl.language.critic import UtteranceCritic
from seqrl.language.prompted import Prompted
from seqrl.language.reranking import Choosing, RerankingAgent
from seqrl.language.steering import SteeredAgent, TokenValues
from seqrl.language.utterance_steering import UtteranceAgent

TASK = Guess()
CHOICES = 5  # what the agent may say: a, b, h, t, <end of utterance>


def model(seed):
    return random_voice(TASK.tokenizer, seed).model


def values(num_actions=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        made = TokenValues(model(1), num_actions)
        for head in (*made.target_q, made.v):
            torch.nn.init.normal_(head[-1].weight)
    return made


def ids_of(talk):
    """The conversation's tokens again: each is one piece."""
    pieces = {TASK.tokenizer.decode([index]): index for index in range(len(TASK.tokenizer))}
    return torch.tensor([pieces[text] for text in talk.tokens])


# Break: a place off by one; probabilities of the row after; specials that the agent may not say among them.
def test_each_token_has_its_probability():
    agent = LanguageAgent(TASK.tokenizer, model(0)).eval()
    talks = inspect_dialogues(agent, TASK, 3, seed=4, sample=True, max_tokens=3)
    assert len(talks) == 3
    for talk in talks:
        ids = ids_of(talk)
        logits = agent.policy.logits(agent.policy(ids[:, None]))[:, 0]
        logits[:, [0, 1, 2, 4, 5]] = -torch.inf
        probs = logits.softmax(-1).detach()
        assert talk.tokens[0] == "<begin>"
        assert talk.tokens[-1] == "<end of dialogue>"
        for token in talk.said:
            assert talk.speakers[token.place] == "agent"
            assert token.prob == pytest.approx(float(probs[token.place - 1, ids[token.place]]), rel=1e-4)
            assert sum(option.prob for option in token.options) == pytest.approx(1, abs=1e-5)
            assert len(token.options) == CHOICES
            assert (token.q, token.v, token.cloned_prob) == (None, None, None)
        assert sum(token.reward for token in talk.said) == talk.total
        assert [who for who in talk.speakers if who == "agent"] == ["agent"] * len(talk.said)
        others = [text for text, who in zip(talk.tokens, talk.speakers, strict=True) if who == "other"]
        assert set(others) <= {"h", "t"}


def test_what_a_token_rests_on():
    """Breaks if weights are of the row of another token, or tokens after it count."""
    agent = LanguageAgent(TASK.tokenizer, model(0)).eval()
    talk = inspect_dialogues(agent, TASK, 1, sample=True, max_tokens=3)[0]
    assert [len(row) for row in talk.recall.weights] == [token.place for token in talk.said]
    assert all(row[-1] > 0 for row in talk.recall.weights)


def test_steering_shows_values_and_the_cloned_policy():
    agent = SteeredAgent(TASK.tokenizer, model(0), values(), beta=2.0).eval()
    talk = inspect_dialogues(agent, TASK, 1, sample=True, max_tokens=3)[0]
    ids = ids_of(talk)
    y = agent.values.model(ids[:, None])[:, 0]
    q, v = agent.values.least(y), agent.values.value(y)
    for token in talk.said:
        row = token.place - 1
        assert token.q == pytest.approx(float(q[row, ids[token.place]]), rel=1e-4)
        assert token.v == pytest.approx(float(v[row].detach()), rel=1e-4)
        best = max(token.options, key=lambda option: option.prob)
        assert best.q is not None
        assert token.cloned_prob != pytest.approx(token.prob)


@pytest.mark.parametrize("kind", ["values", "critic"])
def test_whole_utterances_have_their_value_at_their_end(kind):
    policy = model(0)
    if kind == "values":
        agent = UtteranceAgent(TASK.tokenizer, policy, values(1), beta=1.0, num_proposals=3)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            critic = UtteranceCritic(len(TASK.tokenizer), "gru", 8, policy.output_size)
            for head in critic.target.q:
                torch.nn.init.normal_(head[-1].weight)
        agent = RerankingAgent(TASK.tokenizer, policy, critic, Choosing(num_proposals=3))
    talk = inspect_dialogues(agent.eval(), TASK, 1, seed=2, max_tokens=3)[0]
    turns = sum(text == "<agent>" for text in talk.tokens)
    assert sum(token.q is not None for token in talk.said) == turns
    assert sum(token.v is not None for token in talk.said) == turns
    assert talk.said[0].v is not None
    assert talk.said[-1].q is not None
    assert np.isfinite(talk.said[-1].q)
    if kind == "values":  # Q after the last token was read, V before the first was said
        y = agent.values.model(ids_of(talk)[:, None])[:, 0]
        first, last = talk.said[0], talk.said[-1]
        assert last.q == pytest.approx(float(agent.values.least(y[last.place])[0]), rel=1e-4)
        assert first.v == pytest.approx(float(agent.values.value(y[first.place - 1]).detach()), rel=1e-4)


# Break: rewards of the task that the conversation was had in, which has none of its own where prompts are answered.
def test_rewards_are_those_of_the_scorer():
    agent = LanguageAgent(TASK.tokenizer, model(0)).eval()

    def scorer(played):
        return [[10.0 + k for k in range(len(each.dialogue.rewards))] for each in played]

    prompted = Prompted([((True, "a"), (False, "h"))], TASK.tokenizer)
    for task in (TASK, prompted):
        talk = inspect_dialogues(agent, task, 1, sample=True, max_tokens=3, scorer=scorer)[0]
        earned = [token.reward for token in talk.said if token.reward]
        assert earned == [10.0 + k for k in range(len(earned))]
        assert talk.total == sum(earned) > 0


def test_bad_input():
    with pytest.raises(UserError, match="at least 1"):
        inspect_dialogues(LanguageAgent(TASK.tokenizer, model(0)), TASK, 0)
