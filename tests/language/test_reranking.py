"""What speaks by the best of several proposals: one proposal is the language model, and the critic reads the same."""

import pytest
import torch

from seqrl.language.candidates import conversation_ids, propose
from seqrl.language.critic import UtteranceCritic
from seqrl.language.discriminator import Discriminator
from seqrl.language.generation import Plain, sayable
from seqrl.language.gpt2 import GPT2, GPT2Config
from seqrl.language.likelihood import decided, log_probs, of_tokens
from seqrl.language.model import LanguageModel, MemoryModel
from seqrl.language.play import Played, play
from seqrl.language.reranking import Choosing, Reranked, RerankingAgent, draw_proposals
from seqrl.language.rows import TokenTurn, rows_of
from seqrl.language.utterances import turns_of
from seqrl.memory.make import make_memory
from seqrl.text import TextMaze

TASK = TextMaze(max_turns=4)
TOKENIZER = TASK.tokenizer


def model(kind: str) -> LanguageModel:
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(
            vocabulary_size=len(TOKENIZER), hidden_size=8, num_layers=2, num_heads=2, context_length=1024
        )
        made: LanguageModel = GPT2(config)
        torch.nn.init.normal_(made.embedding.weight)  # type: ignore[attr-defined]
        return made
    made = MemoryModel(len(TOKENIZER), make_memory("gru", 8, 8))
    torch.nn.init.normal_(made.head.weight)
    return made


def agent(kind: str = "gru", discriminator: bool = False, **choosing: float) -> RerankingAgent:
    policy = model(kind)
    critic = UtteranceCritic(len(TOKENIZER), "gru", 8, policy.output_size)
    for head in critic.target.q:
        torch.nn.init.normal_(head[-1].weight)  # type: ignore[index]
    guard = Discriminator(len(TOKENIZER), "gru", 8) if discriminator else None
    return RerankingAgent(TOKENIZER, policy, critic, Choosing(**choosing), guard).eval()  # type: ignore[arg-type]


def played(voice: Plain | Reranked, number: int = 3) -> list[Played]:
    return play(TASK, voice, number, seed=3, max_tokens=3)


@pytest.mark.parametrize("kind", ["gru", "gpt2"])
def test_one_proposal_is_the_language_model_bit_for_bit(kind: str) -> None:
    # Breaks if `speak` draws a choice by the generator where there is none to make, or takes other columns.
    speaker = agent(kind)
    plain = played(Plain(speaker.policy))
    assert played(speaker.voice(num_proposals=1)) == plain
    assert played(Reranked(speaker, Choosing(num_proposals=1))) == plain
    assert played(speaker.voice(num_proposals=3)) != plain


@pytest.mark.parametrize("kind", ["gru", "gpt2"])
def test_what_was_said_is_what_the_model_has_read(kind: str) -> None:
    # The context that goes on is the chosen column's: breaks if `speak` keeps the first proposal's instead.
    speaker = agent(kind, num_proposals=3)
    voice = speaker.voice()
    talks = played(voice)
    rows = [rows_of(each.turns, TOKENIZER) for each in talks]
    seen: list[torch.Tensor] = []

    class Watching(Reranked):
        def speak(self, logits, context, **options):  # type: ignore[no-untyped-def]
            tokens = [torch.tensor(ids) for ids in context.tokens]
            count = torch.tensor([len(ids) for ids in tokens])
            y, _ = speaker.policy.read(
                torch.nn.utils.rnn.pad_sequence(tokens), count, speaker.policy.start(len(tokens))
            )
            who = options["speaks"]
            torch.testing.assert_close(logits[who], speaker.policy.logits(y)[who], atol=1e-4, rtol=1e-4)
            seen.append(who)
            return super().speak(logits, context, **options)

    assert played(Watching(speaker, speaker.choosing)) == talks
    assert len(seen) == max(sum(turn.agent for turn in each.turns) for each in talks)
    assert all(bool(each.mask.any()) for each in rows)


def judged(speaker: RerankingAgent, **choosing: float) -> tuple[torch.Tensor, ...]:
    said = [[[*TOKENIZER.encode(text), TOKENIZER.end_of_utterance_id] for text in ("move up", "move left")]] * 2
    conversation = conversation_ids([], TOKENIZER)
    log_prob = torch.tensor([[-1.0, -2.0], [-2.0, -1.0]])
    features = torch.zeros(2, 2, speaker.policy.output_size)
    settings = Choosing(**choosing)  # type: ignore[arg-type]
    answer = speaker.judge([conversation] * 2, said, log_prob, features, settings, torch.Generator().manual_seed(0))
    return answer.q, answer.score, answer.chosen


def test_the_highest_q_is_said() -> None:
    q, score, chosen = judged(agent())
    assert torch.equal(chosen, q.argmax(-1))
    assert torch.equal(q, score)


def test_a_large_weight_of_log_prob_says_the_likeliest() -> None:
    # What brac speaks by. Breaks if the weight's sign is turned.
    assert judged(agent(), log_prob_weight=1e6)[2].tolist() == [0, 1]


def test_a_gate_keeps_out_what_the_discriminator_does_not_believe() -> None:
    speaker = agent(discriminator=True)
    assert speaker.discriminator is not None
    words = speaker.discriminator.confidence(
        [[*TOKENIZER.encode(text), TOKENIZER.end_of_utterance_id] for text in ("move up", "move left")]
    )
    likely, other = int(words.argmax()), int(words.argmin())
    _, score, chosen = judged(speaker, gate=float(words.mean()))
    assert chosen.tolist() == [likely] * 2
    assert torch.isinf(score[:, other]).all()
    # All are below this one, so the most believed is said.
    assert judged(speaker, gate=0.999)[2].tolist() == [likely] * 2
    q, score, _ = judged(speaker, confidence_weight=2.0)
    torch.testing.assert_close(score, q + 2 * words.log())


def test_proposals_are_likely_as_the_model_says_and_features_are_its_own() -> None:
    # Breaks if features are those after the token before the last.
    policy = model("gru")
    turns = [TokenTurn(agent=False, ids=(7, 8)), TokenTurn(agent=True, ids=(9,)), TokenTurn(agent=False, ids=(6,))]
    logs = [turns, [*turns, TokenTurn(agent=True, ids=(8, 8, 7))]]
    rows = [rows_of(each, TOKENIZER) for each in logs]
    drawn = draw_proposals(
        policy, rows, 4, tokenizer=TOKENIZER, max_tokens=5, generator=torch.Generator().manual_seed(0)
    )
    assert drawn.said.shape[:2] == (3, 4)
    flat = [(before, turn) for each in logs for before, turn in _before_agent(each)]
    for number, (before, logged) in enumerate(flat):
        for k in range(4):
            ids = drawn.said[number, k, : drawn.length[number, k]].tolist()
            ended = ids[-1] == TOKENIZER.end_of_utterance_id
            said = TokenTurn(agent=True, ids=tuple(ids[:-1] if ended else ids), ended=ended)
            whole = [rows_of([*before, said], TOKENIZER)]
            about = decided(whole)
            by_turn = about.by_turn(of_tokens(log_probs(Plain(policy), whole, sayable(TOKENIZER)), about))
            assert float(by_turn[about.num_turns[0] - 1, 0]) == pytest.approx(
                float(drawn.log_prob[number, k]), abs=1e-4
            )
            features = policy(torch.tensor([*conversation_ids(before, TOKENIZER), *ids])[:, None])[-1, 0]
            torch.testing.assert_close(drawn.features[number, 1 + k], features)
        ids = [*conversation_ids(before, TOKENIZER), *logged.ids, TOKENIZER.end_of_utterance_id]
        torch.testing.assert_close(drawn.features[number, 0], policy(torch.tensor(ids)[:, None])[-1, 0])
    assert sum(len(turns_of(each)) for each in rows) == len(flat)


def _before_agent(turns: list[TokenTurn]) -> list[tuple[list[TokenTurn], TokenTurn]]:
    return [(turns[:k], turn) for k, turn in enumerate(turns) if turn.agent]


def test_candidates_show_what_chooses() -> None:
    speaker = agent()
    conversation = conversation_ids([TokenTurn(agent=False, ids=(7, 8))], TOKENIZER)
    shown = propose(
        Plain(speaker.policy), [conversation], 5, tokenizer=TOKENIZER, critic=speaker, max_tokens=4,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    said = [ids[:n] for ids, n in zip(shown.ids[:, 0].T.tolist(), shown.length[0].tolist(), strict=True)]
    features = torch.stack([speaker.policy(torch.tensor([*conversation, *ids])[:, None])[-1, 0] for ids in said])
    q, v = speaker.critic.appraise([conversation], [said], features[None])
    torch.testing.assert_close(shown.q, q)
    torch.testing.assert_close(shown.v, v)
