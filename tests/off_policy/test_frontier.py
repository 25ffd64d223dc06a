"""Return against KL as steering grows: exact distances, the same conversations, what is enough."""

import io
import math

import matplotlib.image
import numpy as np
import pytest
import torch
from guessing import Guess, random_voice
from rich.console import Console

from seqrl.errors import UserError
from seqrl.language.play import play
from seqrl.language.rows import rows_of
from seqrl.language.steering import SteeredAgent, TokenValues
from seqrl.off_policy.frontier import Frontier, Point, frontier
from seqrl.reports import frontier as report_frontier

TASK = Guess()


@pytest.fixture(scope="module")
def agent() -> SteeredAgent:
    policy, values = (random_voice(TASK.tokenizer, seed).model for seed in range(2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        steering = TokenValues(values)
        for head in steering.target_q:
            torch.nn.init.normal_(head[-1].weight)
    return SteeredAgent(TASK.tokenizer, policy, steering, beta=1.0).eval()


@pytest.fixture(scope="module")
def found(agent: SteeredAgent) -> Frontier:
    return frontier(agent, TASK, (2.0, 0.5), 30, seed=5)


def test_without_steering_nothing_is_paid(agent, found):
    """β = 0 is played unasked, and is the cloned policy. Breaks if the KL is estimated from draws, or `cloned` is
    steered."""
    first = found.points[0]
    assert [point.beta for point in found.points] == [0.0, 0.5, 2.0]
    assert (first.kl == 0).all()
    cloned = play(TASK, agent.cloned().voice(), 30, seed=5)
    assert first.returns.tolist() == [each.total for each in cloned]
    assert first.turns.tolist() == [len(each.dialogue.rewards) for each in cloned]


def test_kl_is_that_of_the_tokens_drawn(agent, found):
    """Against one pass over each conversation alone, and distributions of torch. Breaks if it is KL(π_b ‖ π_β), if a
    token more or less is counted, or specials may be said."""
    played, point = play(TASK, agent.voice(2.0), 30, seed=5), found.points[2]
    never = [0, 1, 2, 4, 5]
    for b, each in enumerate(played[:8]):
        rows = rows_of(each.turns, TASK.tokenizer)
        tokens = rows.tokens[:-1, None]
        base = agent.policy.logits(agent.policy(tokens))[:, 0]
        steered = base + 2.0 * agent.values.least(agent.values.model(tokens))[:, 0]
        base[:, never], steered[:, never] = -1e9, -1e9
        each_kl = torch.distributions.kl_divergence(
            torch.distributions.Categorical(logits=steered), torch.distributions.Categorical(logits=base)
        )
        assert point.kl[b] == pytest.approx(float(each_kl[rows.mask].sum()), rel=1e-4)
        assert point.tokens[b] == int(rows.mask.sum())
    assert point.kl.mean() > found.points[1].kl.mean() > 0


def point(beta: float, returns: list[float], kl: list[float], tokens: list[int]) -> Point:
    return Point(
        beta=beta, returns=np.array(returns), kl=np.array(kl), tokens=np.array(tokens), turns=np.ones(len(returns))
    )


def test_kl_of_a_token_is_a_ratio_of_sums():
    """Golden: (2 + 4) / (1 + 5) = 1, not the mean of 2 and 0.8. Residuals 1 and −1 over the mean of 3 tokens: its
    half-width is 12.706 · √2 / √2 / 3 = 4.2354. Breaks if ratios are averaged."""
    assert point(1.0, [0, 0], [2.0, 4.0], [1, 5]).kl_of_token == pytest.approx((1.0, 12.7062 / 3), rel=1e-4)


def made(*columns: list[float]) -> Frontier:
    points = [point(float(k), column, [float(k * k)] * 4, [2] * 4) for k, column in enumerate(columns)]
    return Frontier(points=points, num_dialogues=4, seed=0)


def test_enough_is_the_least_steered_that_is_as_good():
    """Breaks if differences are not paired, or the best is taken."""
    clear = made([0, 10, 20, 30.0], [1, 11, 21, 31.0], [1, 11, 21.5, 30.9], [1.5, 11.4, 21.6, 31.5])
    assert clear.best.beta == 3
    assert clear.enough.beta == 3  # by ½ in each conversation, though they differ by tens
    noise = made([0, 10, 20, 30.0], [2, 8, 23, 27.5])
    assert noise.best.beta == 1
    assert noise.enough.beta == 0
    equal = made([1, 2, 3, 4.0], [1, 2, 3, 4.0])
    assert equal.best.beta == equal.enough.beta == 0
    assert clear.gain(clear.points[1]) == (1.0, 0.0)


def test_the_best_of_several_that_gain_nothing_gains_nothing():
    """Eight β that are alike, 400 times: 2.5 % may seem to gain, where 95 % is that of each β alone 10 % do.

    Must break: `gain` with the interval of a single β."""
    rng = np.random.default_rng(0)
    luck = [made(*rng.normal(size=(8, 4)).tolist()).enough.beta > 0 for _ in range(400)]
    assert np.mean(luck) < 0.05


def test_what_is_enough_gains():
    """β = 1 differs from the best, and from the cloned policy, by chance. Must break: `enough` that is not asked to."""
    some = made([0, 0, 0, 0.0], [-9, 9, -9, 9.5], [10, 10.5, 10, 10.5])
    assert some.best.beta == some.enough.beta == 2


def test_sentences():
    said = report_frontier.sentence(made([0, 10, 20, 30.0], [1, 11, 21, 31.0]))
    assert said == "β = 1 is enough: it gains 1 ± 0 at a KL of 1 nats a dialogue."
    said = report_frontier.sentence(made([0, 10, 20, 30.0], [2, 12, 22, 32.0], [2, 12, 22, 33.0]))
    assert said.startswith("β = 1 is enough: it gains 2 ± 0")
    assert said.endswith("β = 2 has the highest mean, by no more than chance.")
    said = report_frontier.sentence(made([1, 2, 3, 4.0], [1, 2, 3, 4.0]))
    assert said == "Steering gains nothing that is more than chance: the cloned policy (β = 0) has the highest mean."
    # Must break: a sentence by which four dialogues make the cloned policy as good as what brings 5 more.
    said = report_frontier.sentence(made([0, 0, 0, 0.0], [0, 0, 0, 20.0]))
    assert said.endswith("more than chance: β = 1 has the highest mean, 5 ± 15.9 over the cloned policy (β = 0).")


@pytest.mark.parametrize("betas", [(-1.0,), (math.nan,), (math.inf,)])
def test_bad_betas_are_refused(agent, betas):
    with pytest.raises(UserError, match="beta is"):
        frontier(agent, TASK, betas, 30)


def test_one_dialogue_is_too_few(agent):
    with pytest.raises(UserError, match="at least 2"):
        frontier(agent, TASK, (1.0,), 1)


def test_the_report(found, tmp_path):
    """Table, plot and JSON have every point; a title with $ is no formula."""
    assert [row[0] for row in report_frontier.cells(found)] == ["β", "0", "0.5", "2"]
    # Must break: `no_wrap` columns of rich, which cuts 0.5 to 0…
    for width in (120, 80):
        shown = io.StringIO()
        Console(file=shown, width=width).print(report_frontier.table(found, "x", width))
        assert [line.split()[0] for line in shown.getvalue().splitlines() if "±" in line] == ["0", "0.5", "2"]
        assert "…" not in shown.getvalue()
    written = report_frontier.write(tmp_path, found, {"command": "x"}, "cost $ of $ steering")
    assert [path.name for path in written] == ["frontier.json", "frontier.png"]
    assert matplotlib.image.imread(tmp_path / "frontier.png").shape[:2] == (720, 1125)
    content = report_frontier.as_dict(found, {})
    assert content["points"][0]["kl_of_dialogue"] == {"mean": 0.0, "half_width": 0.0}
    assert not list(tmp_path.glob(".*"))


def test_points_at_one_place_share_a_name(monkeypatch):
    """Breaks if: names that would cover an earlier one are written nonetheless: 16 and 32 are one blot."""
    points = [
        Point(beta=beta, returns=np.array([4.0, 5.0, 6.0]) + gain, kl=np.array([0.9, 1.0, 1.1]) * kl, tokens=np.ones(3),
              turns=np.ones(3))
        for beta, gain, kl in ((0.0, 0.0, 0.0), (1.0, 2.0, 1.0), (8.0, 1.0, 30.0), (16.0, 1.0, 33.5), (32.0, 1.0, 33.6))
    ]  # fmt: skip
    drawn: list[str] = []

    def named(figure):
        drawn.extend(text.get_text() for text in figure.axes[0].texts)
        return b""

    monkeypatch.setattr(report_frontier, "png", named)
    report_frontier.plot(Frontier(points=points, num_dialogues=3, seed=0), "t")
    assert drawn == ["0", "1", "8", "16–32"]
