"""Dialogues as turns: where a turn begins and ends, what it earned, and how a batch lays turns out."""

import torch

from seqrl.language.rows import TokenTurn, rows_of
from seqrl.language.utterances import Drawn, UtteranceDataset, exchanges, turns_of
from seqrl.text import Tokenizer

TOKENIZER = Tokenizer(list("abcd"))
A, B, C, D = TOKENIZER.encode("abcd")
BEGIN, AGENT = TOKENIZER.begin_id, TOKENIZER.agent_id
SAID, HEARD = TOKENIZER.end_of_utterance_id, TOKENIZER.end_of_reply_id


def agent(text: str, reward: float = 0.0, ended: bool = True) -> TokenTurn:
    return TokenTurn(agent=True, ids=tuple(TOKENIZER.encode(text)), reward=reward, ended=ended)


def other(text: str) -> TokenTurn:
    return TokenTurn(agent=False, ids=tuple(TOKENIZER.encode(text)))


def dataset(*dialogues: list[TokenTurn], proposals: int = 2, gamma: float = 0.5, **more: object) -> UtteranceDataset:
    rows = [rows_of(each, TOKENIZER) for each in dialogues]
    count = sum(len(turns_of(each)) for each in rows)
    said = torch.tensor([C, SAID]).expand(count, proposals, 2)
    drawn = Drawn(
        said,
        torch.full((count, proposals), 2),
        torch.zeros(count, proposals),
        torch.arange(count * (1 + proposals) * 3.0).view(count, 1 + proposals, 3),
    )
    return UtteranceDataset(rows, drawn, gamma, **more)  # type: ignore[arg-type]


def test_each_turn_begins_with_what_was_heard_since_the_last() -> None:
    turns = [other("ab"), agent("c"), agent("d"), other("a"), other("b"), agent("cc"), other("dd")]
    ids = rows_of(turns, TOKENIZER).tokens.tolist()
    assert exchanges(ids) == [
        ((BEGIN, A, B, HEARD, AGENT), (C, SAID)),
        ((AGENT,), (D, SAID)),
        ((A, HEARD, B, HEARD, AGENT), (C, C, SAID)),
    ]


def test_a_conversation_that_goes_on_ends_with_a_turn_that_is_yet_to_be_said() -> None:
    assert exchanges([BEGIN, AGENT, A, SAID, B, HEARD, AGENT])[-1] == ((B, HEARD, AGENT), ())


def test_a_reward_stays_with_its_turn() -> None:
    # Breaks if `turns_of` sums rows from `begin + 1` on: a turn of one token, which was cut off, loses its reward.
    turns = [agent("a", reward=1.0, ended=False), other("b"), agent("", reward=2.0), other("c"), agent("dd", 4.0)]
    assert [reward for _, reward in turns_of(rows_of(turns, TOKENIZER))] == [1.0, 2.0, 4.0]


def test_returns_to_go_count_turns() -> None:
    # 1 + ½ (2 + ½ 4) = 3; breaks if γ is applied once for each token.
    log = dataset([agent("aaaa", 1.0), other("b"), agent("bb", 2.0), agent("c", 4.0)])
    assert sorted(log.returns_to_go.tolist()) == [3.0, 4.0, 4.0]


def test_a_batch_has_what_was_logged() -> None:
    log = dataset([other("a"), agent("b", 1.0)], [other("a"), agent("b"), other("d"), agent("cd", 5.0)])
    batch = log.batch([0, 1, 0])  # type: ignore[arg-type]
    assert batch.valid.tolist() == [[True, True, True], [False, True, False]]
    assert batch.reward.tolist() == [[1.0, 0.0, 1.0], [0.0, 5.0, 0.0]]

    def text(number: torch.Tensor) -> list[int]:
        return batch.segments[: int(batch.length[number]), number].tolist()

    assert text(batch.heard[0, 0]) == text(batch.heard[0, 1]) == [BEGIN, A, HEARD, AGENT]
    assert text(batch.said[1, 1]) == [C, D, SAID]
    assert text(batch.proposals[1, 1, 0]) == [C, SAID]
    assert batch.features[1, 1, 0].tolist() == [18.0, 19.0, 20.0]
    logged = int(torch.maximum(batch.heard.max(), batch.said.max())) + 1
    assert int(batch.proposals.min()) == logged  # nothing proposed here was logged: its texts stand behind


def test_turns_with_thumbs_down_are_bad_and_not_good() -> None:
    log = dataset([agent("a"), agent("b")], flagged=[False, True], bad=[[(C, SAID)], [(D, SAID)]])
    batch = log.batch([0])  # type: ignore[arg-type]
    assert batch.good[:, 0].tolist() == [True, False]
    assert (batch.bad[:, 0] >= 0).tolist() == [[True, False], [True, True]]
    assert batch.bad[1, 0, 1] == batch.said[1, 0]


def test_a_split_shares_out_the_dialogues() -> None:
    log = dataset(*[[agent("a", float(k))] for k in range(10)])
    learnt, held_out = log.split(0.3, seed=1)
    assert (learnt.num_dialogues, held_out.num_dialogues) == (7, 3)
    assert sorted([*learnt.returns_to_go.tolist(), *held_out.returns_to_go.tolist()]) == list(range(10))


def test_a_split_keeps_together_what_belongs_together() -> None:
    # Breaks if `split` counts the keys of all dialogues in those of a part.
    log = dataset(*([other("a"), agent("b" * (1 + k))] for k in range(8)), keys=[k % 4 for k in range(8)])
    learnt, held_out = log.split(0.5, seed=1)
    parts = [{int(k) % 4 for k in part._dialogues} for part in (learnt, held_out)]
    assert (learnt.num_dialogues, held_out.num_dialogues) == (4, 4)
    assert not parts[0] & parts[1]
    first, second = learnt.split(0.5, seed=0)
    assert not {int(k) % 4 for k in first._dialogues} & {int(k) % 4 for k in second._dialogues}
