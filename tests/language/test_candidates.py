"""Candidates: what is drawn, what the numbers beside them are, and that neighbours do not matter."""

import pytest
import torch

from seqrl.language.candidates import Candidate, Proposals, TokenCritic, conversation_ids, propose
from seqrl.language.generation import Plain, Sampling
from seqrl.language.model import MemoryModel
from seqrl.language.rows import TokenTurn, rows_of
from seqrl.language.steering import Steered, TokenValues
from seqrl.memory.make import make_memory
from seqrl.text import Tokenizer

TOKENIZER = Tokenizer(list("abcd "))
CONVERSATIONS = [
    [TokenTurn(agent=False, ids=tuple(TOKENIZER.encode("ab")))],
    [
        TokenTurn(agent=False, ids=tuple(TOKENIZER.encode("c"))),
        TokenTurn(agent=True, ids=tuple(TOKENIZER.encode("dd a"))),
        TokenTurn(agent=False, ids=tuple(TOKENIZER.encode("b"))),
    ],
    [],
]
IDS = [conversation_ids(turns, TOKENIZER) for turns in CONVERSATIONS]


def model(seed: int, memory: str = "gru") -> MemoryModel:
    torch.manual_seed(seed)
    made = MemoryModel(len(TOKENIZER), make_memory(memory, 16, 16))
    torch.nn.init.normal_(made.head.weight, std=1.0)  # else all tokens are about as likely
    return made


def values() -> TokenValues:
    made = TokenValues(model(1))
    torch.nn.init.normal_(made.target_q[0][-1].weight)
    torch.nn.init.normal_(made.target_q[1][-1].weight)
    torch.nn.init.normal_(made.v[-1].weight)
    return made


class Reading:
    """A voice that counts how many columns it begins to read, and cannot copy a context unless `voice` can."""

    def __init__(self, voice: Plain | Steered, copies: bool) -> None:
        self.voice, self.columns, self.read = voice, 0, voice.read
        if copies:
            self.take = voice.take

    def start(self, batch_size: int) -> object:
        self.columns += batch_size
        return self.voice.start(batch_size)


def drawn(voice: Plain | Steered | Reading, k: int = 4, **options: object) -> Proposals:
    options = {"max_tokens": 6, "generator": torch.Generator().manual_seed(0)} | options
    return propose(voice, IDS, k, tokenizer=TOKENIZER, **options)  # type: ignore[arg-type]


def test_conversation_ends_where_the_agent_speaks() -> None:
    t = TOKENIZER
    a, b = t.encode("ab")
    assert IDS[0] == [t.begin_id, a, b, t.end_of_reply_id, t.agent_id]
    assert IDS[2] == [t.begin_id, t.agent_id]


def test_log_probabilities_are_those_of_training() -> None:
    # Must break: leaving out `.where(counts, 0)` in _propose, so that tokens behind the end count.
    policy = model(0)
    found = drawn(Plain(policy)).candidates(TOKENIZER)
    assert {c.ended for row in found for c in row} == {True, False}  # both kinds are looked at
    for turns, row in zip(CONVERSATIONS, found, strict=True):
        for candidate in row:
            rows = rows_of([*turns, candidate.turn()], TOKENIZER)
            tokens = rows.tokens[:-1, None]
            logits = policy.logits(policy(tokens))[:-1, 0]
            logits[:, [0, 1, 2, 4, 5]] = -torch.inf
            own = rows.turn[:-1] == len(turns)
            if not candidate.ended:
                own[-1] = False  # its <end of utterance> was not drawn
            expected = logits.log_softmax(-1).gather(-1, tokens[1:])[own].sum()
            torch.testing.assert_close(torch.tensor(candidate.log_prob), expected)


def test_q_is_that_of_the_last_token_and_v_that_of_the_first_state() -> None:
    # Must break: `last` instead of `last - 1` in TokenCritic.appraise.
    judge = values()
    found = drawn(Plain(model(0)), critic=TokenCritic(judge)).candidates(TOKENIZER)
    for turns, row in zip(CONVERSATIONS, found, strict=True):
        for candidate in row:
            ids = [*conversation_ids(turns, TOKENIZER), *candidate.ids]
            ids += [TOKENIZER.end_of_utterance_id] if candidate.ended else []
            y = judge.model(torch.tensor(ids)[:, None])[:, 0]
            q = judge.least(y[-2])[ids[-1]]
            v = judge.value(y[len(conversation_ids(turns, TOKENIZER)) - 1])
            torch.testing.assert_close(torch.tensor([candidate.q, candidate.v]), torch.stack([q, v]).detach())


@pytest.mark.parametrize("memory", ["gru", "transformer"])
def test_neighbours_and_batch_size_do_not_matter(memory: str) -> None:
    voice, likeliest = Plain(model(0, memory)), Sampling(temperature=0)
    together = drawn(voice, 2, sampling=likeliest).candidates(TOKENIZER)
    few = drawn(voice, 2, sampling=likeliest, batch_size=2).candidates(TOKENIZER)
    alone = [propose(voice, [ids], 1, tokenizer=TOKENIZER, max_tokens=6, sampling=likeliest) for ids in IDS]
    for row, other, single in zip(together, few, alone, strict=True):
        expected = single.candidates(TOKENIZER)[0][0]
        for candidate in (*row, *other):
            assert candidate.ids == expected.ids
            assert candidate.log_prob == pytest.approx(expected.log_prob, abs=1e-5)


@pytest.mark.parametrize("steered", [False, True])
def test_a_voice_that_copies_contexts_reads_each_conversation_once(steered: bool) -> None:
    # Must break: `index` in another order, such as torch.arange(B * K) % B.
    policy = model(0)
    voice = Steered(policy, values(), 2.0) if steered else Plain(policy)
    reading, copying = Reading(voice, copies=False), Reading(voice, copies=True)
    for one, other in zip(drawn(reading)[:4], drawn(copying)[:4], strict=True):
        torch.testing.assert_close(one, other)
    assert (reading.columns, copying.columns) == (4 * len(IDS), len(IDS))


def test_steering_draws_what_is_worth_more() -> None:
    # Must break: Steered that subtracts beta Q.
    policy, judge = model(0), values()
    options = {"critic": TokenCritic(judge), "max_tokens": 1}  # of longer ones, only each token's Q is raised
    plain = drawn(Plain(policy), 256, **options)
    steered = drawn(Steered(policy, judge, 4.0), 256, **options)
    assert plain.q is not None
    assert steered.q is not None
    assert (steered.q.mean(1) > plain.q.mean(1) + 0.1).all()


def test_draws_are_independent_and_as_likely_as_they_say() -> None:
    policy = model(0)
    found = propose(
        Plain(policy), [IDS[0]], 4000, tokenizer=TOKENIZER, max_tokens=1, batch_size=10_000,
        generator=torch.Generator().manual_seed(3),
    ).candidates(TOKENIZER)[0]  # fmt: skip
    for kind in {c.ids for c in found}:
        same = [c for c in found if c.ids == kind]
        assert len(same) / len(found) == pytest.approx(float(torch.tensor(same[0].log_prob).exp()), abs=0.03)


def test_only_the_end_of_an_utterance_is_drawn_of_the_special_tokens() -> None:
    for row in drawn(Plain(model(0)), 50).candidates(TOKENIZER):
        for candidate in row:
            assert all(token > TOKENIZER.end_of_dialogue_id for token in candidate.ids)
            assert TOKENIZER.encode(candidate.text) == list(candidate.ids)


def test_without_a_critic_nothing_is_said_of_worth() -> None:
    candidate = drawn(Plain(model(0))).candidates(TOKENIZER)[0][0]
    assert candidate == Candidate(
        ids=candidate.ids, ended=candidate.ended, text=candidate.text, log_prob=candidate.log_prob
    )
