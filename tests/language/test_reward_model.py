"""Scores of turns: where they are read, what they do not depend on, what they are centred by; and what reports say."""

import pytest
import torch

from seqrl.language.gpt2 import GPT2, GPT2Config
from seqrl.language.model import MemoryModel
from seqrl.language.preferences import PreferenceDataset
from seqrl.language.reward_model import RewardAgent, RewardEnsemble, RewardModel, turn_ends
from seqrl.language.reward_report import _calibration, answers, error_by_chance, reward_report
from seqrl.language.rows import TokenTurn, batch_of, rows_of
from seqrl.memory.make import make_memory
from seqrl.text import Tokenizer

TOKENIZER = Tokenizer(list("abxy"))  # 6 … 9


def said(text: str, **options: bool) -> TokenTurn:
    return TokenTurn(agent=True, ids=tuple(TOKENIZER.encode(text)), **options)


def heard(text: str) -> TokenTurn:
    return TokenTurn(agent=False, ids=tuple(TOKENIZER.encode(text)))


TALKS = (
    (heard("xy"), said("ab"), heard("x"), said("bba")),
    (heard("y"), said("a", ended=False), heard("x")),
    (said("bb", given=True), heard("xxyx"), said("")),
    (heard("x"), said("ab", ended=False)),
)


@pytest.fixture(scope="module", params=["gru", "gpt2"])
def agent(request: pytest.FixtureRequest) -> RewardAgent:
    torch.manual_seed(0)
    size = len(TOKENIZER)
    sizes = GPT2Config(vocabulary_size=size, hidden_size=8, num_layers=1, num_heads=2, context_length=32)
    members = [
        RewardModel(GPT2(sizes) if request.param == "gpt2" else MemoryModel(size, make_memory("gru", 8, 8)))
        for _ in range(3)
    ]
    for member in members:
        torch.nn.init.normal_(member.head.weight)
    ensemble = RewardEnsemble(members)
    ensemble.describe(torch.tensor([[0.0, 2.0], [1.0, 3.0], [-1.0, 0.0]]), several=False)
    return RewardAgent(TOKENIZER, ensemble)


def read_last(agent: RewardAgent, tokens: list[int]) -> list[float]:
    """What each model says of a conversation that ends with these tokens, read alone and to its end."""
    ensemble = agent.ensemble
    with torch.no_grad():
        raw = [float(m.head(m.model(torch.tensor(tokens)[:, None])[-1, 0])) for m in ensemble.members]
    return [(r - mu) / float(ensemble.scale) for r, mu in zip(raw, ensemble.mean.tolist(), strict=True)]


# Broken by `row=ends.row` in RewardModel.forward (the score one token early), or `mask` for `mask & ~next_row`.
def test_a_score_is_read_behind_the_turns_last_own_token(agent: RewardAgent) -> None:
    begin, mine, end, reply = (getattr(TOKENIZER, f"{name}_id") for name in (
        "begin", "agent", "end_of_utterance", "end_of_reply"
    ))  # fmt: skip
    a, b, x, y = range(6, 10)
    first = [begin, x, y, reply, mine, a, b, end]
    expected = [
        [first, [*first, x, reply, mine, b, b, a, end]],
        [[begin, y, reply, mine, a]],  # cut off: at the last token of its text
        [[begin, mine, b, b, end, x, x, y, x, reply, mine, end]],  # what was given has none
        [[begin, x, reply, mine, a, b]],
    ]
    score, disagreement = agent.scores(TALKS)
    for talk, each, spread in zip(expected, score, disagreement, strict=True):
        raw = torch.tensor([read_last(agent, tokens) for tokens in talk])
        torch.testing.assert_close(torch.tensor(each), raw.mean(1))
        torch.testing.assert_close(torch.tensor(spread), raw.std(1, correction=0))


# Broken by reading the score at the batch's last row, or by entries that are not valid counting in a sum.
def test_scores_do_not_depend_on_batch_padding_or_what_follows(agent: RewardAgent) -> None:
    together = agent.scores(TALKS)[0]
    for size in (1, 2):
        for one, other in zip(agent.scores(TALKS, batch_size=size)[0], together, strict=True):
            assert one == pytest.approx(other, abs=1e-6)
    batch = batch_of([rows_of(talk, TOKENIZER) for talk in TALKS])
    with torch.no_grad():
        plain = agent.ensemble(batch.tokens, batch.mask)
        pad = torch.randint(6, 10, (4, len(TALKS)))
        padded = agent.ensemble(
            torch.cat([batch.tokens, pad]), torch.cat([batch.mask, torch.zeros(4, len(TALKS), dtype=torch.bool)])
        )
        torch.testing.assert_close(padded.score, plain.score)
        torch.testing.assert_close(
            agent.ensemble.returns(batch.tokens, batch.mask).mean(0), torch.tensor([sum(each) for each in together])
        )
    shorter = agent.scores([TALKS[0][:2], TALKS[1][:2]])[0]
    assert shorter[0][0] == pytest.approx(together[0][0], abs=1e-6)
    assert shorter[1] == pytest.approx(together[1], abs=1e-6)


# Broken by a head on all of the agent's rows: "none" remembers nothing, so that only what is read has a gradient.
def test_gradient_flows_through_the_last_tokens_of_turns_alone() -> None:
    torch.manual_seed(1)
    model = RewardModel(MemoryModel(len(TOKENIZER), make_memory("none", 8, 8)))
    batch = batch_of([rows_of(talk, TOKENIZER) for talk in TALKS])
    kept = []
    forward = model.model.forward

    def watched(tokens: torch.Tensor) -> torch.Tensor:
        y = forward(tokens)
        y.retain_grad()
        kept.append(y)
        return y

    model.model.forward = watched  # type: ignore[method-assign]
    ends = turn_ends(batch.mask)
    model(batch.tokens, ends).masked_fill(~ends.valid, 0.0).sum().backward()
    touched = kept[0].grad.abs().sum(-1) > 0
    expected = torch.zeros_like(touched)
    for column, rows in enumerate([[7, 14], [4], [11], [5]]):
        expected[rows, column] = True
    assert torch.equal(touched, expected)


# Broken by `centred = last` alone, or `ends.valid` alone.
def test_the_mean_is_taken_off_where_choices_say_nothing_of_it(agent: RewardAgent) -> None:
    ensemble = agent.ensemble
    single = agent.scores(TALKS[:1])[0][0]
    ensemble.several.fill_(True)
    several = agent.scores(TALKS[:1])[0][0]
    ensemble.several.fill_(False)
    shift = float(ensemble.mean.mean() / ensemble.scale)
    assert several == pytest.approx([single[0] + shift, single[1]], abs=1e-6)


def test_what_was_drawn_in_another_vocabulary_is_read_anew(agent: RewardAgent) -> None:
    other = Tokenizer(["xy", "ba", "ab", "b", "a", "x", "y"])
    talk = [TokenTurn(agent=turn.agent, ids=tuple(other.encode(TOKENIZER.decode(turn.ids)))) for turn in TALKS[0]]
    assert agent.scores([talk], other)[0][0] == pytest.approx(agent.scores(TALKS[:1])[0][0], abs=1e-6)


class Told(RewardEnsemble):
    """Scores that are known: a token's number is its worth, in units of log 3."""

    def returns(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        worth = (
            torch.where(mask & (tokens[1:] > 5), tokens[1:] - 6, 0).sum(0) * torch.log(torch.tensor(3.0)) / self.scale
        )
        return torch.stack([worth - 1, worth + 1])


# Broken by a margin that is not multiplied by `scale`, `correction=1`, or a tie that counts as right.
def test_a_report_by_hand() -> None:
    ensemble = Told([RewardModel(MemoryModel(len(TOKENIZER), make_memory("none", 2, 2)))])
    ensemble.scale.fill_(2.0)
    pairs = [("x", "b"), ("x", "b"), ("bb", "x"), ("a", "x"), ("b", "x"), ("a", "a")]  # chosen, rejected
    chosen, rejected = (
        [rows_of([heard("x"), said(pair[k])], TOKENIZER) for pair in pairs] for k in range(2)
    )  # fmt: skip
    report = reward_report(RewardAgent(TOKENIZER, ensemble), PreferenceDataset(chosen, rejected), batch_size=4)
    # Worth: a 0, b 1, x 2. Margins in log 3: 1, 1, 0, −2, −1, 0, so p(chosen) = 3/4, 3/4, 1/2, 1/10, 1/4, 1/2.
    assert report.pairs == 6
    assert report.accuracy == pytest.approx((1 + 1 + 0.5 + 0 + 0 + 0.5) / 6)
    log_loss = -torch.log(torch.tensor([0.75, 0.75, 0.5, 0.1, 0.25, 0.5])).mean()
    assert report.log_loss == pytest.approx(float(log_loss), abs=1e-6)
    told = [(each.pairs, each.foretold, each.right) for each in report.calibration]
    assert told[0] == pytest.approx((2, 0.5, 0.5))
    assert told[2] == pytest.approx((3, 0.75, 2 / 3))
    assert told[4] == pytest.approx((1, 0.9, 0.0))
    assert [each.pairs for each in report.calibration] == [2, 0, 3, 0, 1]
    assert report.calibration_error == pytest.approx((3 * (0.75 - 2 / 3) + 0.9) / 6)
    assert report.longer_chosen == 1.0  # one pair of different lengths, 3 tokens against 2
    assert report.longer_preferred == 0.5
    assert report.disagreement == pytest.approx(1.0)


def test_a_calibration_error_by_chance() -> None:
    """What models that are right about themselves have of 20 and 500 pairs, 15 and 3 %, on average over 200 draws.

    Must break: an error that does not count pairs, or √(p (1 − p) / n), which is a deviation and no mean distance."""
    generator = torch.Generator().manual_seed(0)
    for number in (20, 500):
        errors, told = [], []
        for _ in range(200):
            sure = 0.5 + 0.5 * torch.rand(number, generator=generator, dtype=torch.float64)
            right = torch.rand(number, generator=generator, dtype=torch.float64) < sure
            bins = _calibration(torch.where(right, sure, 1 - sure))
            errors.append(sum(each.pairs * abs(each.right - each.foretold) for each in bins) / number)
            told.append(error_by_chance([vars(each) for each in bins]))
        assert sum(told) / 200 == pytest.approx(sum(errors) / 200, rel=0.07)


def test_answers_side_by_side_are_as_long_as_the_longest() -> None:
    chosen, rejected = ([rows_of([heard("x"), said(text)], TOKENIZER)] for text in ("a", "abab"))
    batch = answers(PreferenceDataset(chosen, rejected).pairs([0]))
    assert batch.tokens.shape == (len(rejected[0].tokens), 2)
    assert batch.mask.sum(0).tolist() == [2, 5]
    assert batch.tokens[len(chosen[0].tokens) :, 0].tolist() == [TOKENIZER.pad_id] * 3
