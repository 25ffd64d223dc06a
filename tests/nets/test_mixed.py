"""The distribution of mixed actions, against torch.distributions, and the head that makes it."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from mixed_actions import ALL, SMALL
from torch import distributions as td

from seqrl.actions import tensor_space
from seqrl.errors import UserError
from seqrl.nets import Categorical, Gaussian, Mixed, MultiCategorical, PolicyHead, ValueHead
from seqrl.nets.functions import side_by_side
from seqrl.nets.heads import is_plain

SIZES = [1, 2, 1, 2]


def example(allowed=None, bound="clip"):
    """Discrete(3), MultiDiscrete([2, 4]), Box of one and Box of two, for [5, 7] rows, and what they are made of."""
    torch.manual_seed(0)
    one, several, mean = torch.randn(5, 7, 3), torch.randn(5, 7, 6), torch.randn(5, 7, 3)
    log_std, low, high = torch.tensor([-0.5, 0.2, 0.1]), torch.tensor([-2.0, 0.0, -1.0]), torch.tensor([2.0, 5.0, 1.0])
    masks = (None, None) if allowed is None else allowed.split([3, 6], -1)
    parts = [Categorical(one, masks[0]), MultiCategorical(several, (2, 4), masks[1])]
    parts += [Gaussian(mean[..., k], log_std[k], low[k], high[k], bound) for k in ([0], [1, 2])]
    return Mixed(parts, SIZES), one, several, mean, log_std


# Breaks if a part is left out of the sum, or Σ log σ of a Gaussian is one number for all entries.
def test_log_prob_and_entropy_in_closed_form():
    policy, one, several, mean, log_std = example()
    normal = td.Independent(td.Normal(mean, log_std.exp().expand_as(mean)), 1)
    chosen = [td.Categorical(logits=part) for part in (one, *several.split([2, 4], -1))]
    raw = policy.sample()
    assert raw.shape == (5, 7, 6)
    assert raw.dtype == torch.float32
    expected = sum(part.log_prob(raw[..., k]) for k, part in enumerate(chosen)) + normal.log_prob(raw[..., 3:])
    torch.testing.assert_close(policy.log_prob(raw), expected)
    torch.testing.assert_close(policy.entropy(), sum(part.entropy() for part in chosen) + normal.entropy())
    likeliest = torch.cat([torch.stack([part.logits.argmax(-1) for part in chosen], -1).float(), mean], -1)
    assert torch.equal(policy.mode(), likeliest)


# Breaks if the tanh of a squashed part is left out of the density.
def test_squashed_parts_have_the_density_of_what_they_do():
    policy, one, several, mean, log_std = example(bound="squash")
    raw = policy.sample()
    inside = td.TransformedDistribution(td.Normal(mean, log_std.exp().expand_as(mean)), td.TanhTransform(cache_size=1))
    chosen = [td.Categorical(logits=part) for part in (one, *several.split([2, 4], -1))]
    expected = sum(part.log_prob(raw[..., k]) for k, part in enumerate(chosen))
    expected = expected + inside.log_prob(torch.tanh(raw[..., 3:])).sum(-1)
    torch.testing.assert_close(policy.log_prob(raw), expected, rtol=1e-3, atol=1e-3)


# Breaks if `from_noise` draws choices before the generator is handed on, or parts share one draw.
def test_draws_follow_the_policy():
    torch.manual_seed(0)
    head = PolicyHead(4, SMALL)
    torch.nn.init.normal_(head.linear.weight)
    policy = head(torch.randn(4).expand(20_000, 4))
    raw = policy.sample(torch.Generator().manual_seed(0))
    shares = torch.bincount(raw[:, 0].long(), minlength=3) / len(raw)
    torch.testing.assert_close(shares, policy.parts[0].log_probs[0].exp(), rtol=0, atol=0.02)
    drawn = raw[:, 1]
    torch.testing.assert_close(drawn.mean(), policy.parts[1].mean[0, 0], rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.std(), torch.tensor(1.0), rtol=0, atol=0.03)
    assert abs(np.corrcoef(*raw[:, :2].detach().numpy().T)[0, 1]) < 0.03
    again = policy.sample(torch.Generator().manual_seed(0))
    assert torch.equal(raw, again)


# Breaks if masks are split by the numbers of an action in place of its choices, or in another order.
@pytest.mark.parametrize("what", ["sample", "mode"])
def test_masks_are_of_the_choices_in_order(what):
    head = PolicyHead(6, ALL)
    allowed = torch.zeros(13, dtype=torch.bool)  # 3, then [2, 4], then two of 2
    allowed[[1, 3, 6, 10, 11]] = True
    policy = head(torch.randn(50, 6), allowed.expand(50, 13))
    raw = getattr(policy, what)()
    assert raw[:, [0, 3, 4, 5, 6]].unique(dim=0).tolist() == [[1, 0, 1, 1, 0]]
    assert policy.log_prob(raw).isfinite().all()
    assert policy.log_prob(torch.zeros(50, 8)).max() < -1e30  # which 0 is not allowed


def test_masks_without_choices_are_refused():
    with pytest.raises(UserError, match=r"action mask needs discrete actions.*remove `action_mask`"):
        PolicyHead(6, spaces.Tuple([spaces.Box(-1, 1, (2,))]))(torch.zeros(6), torch.ones(2, dtype=torch.bool))


# Breaks if a part's action is not brought into its own box, or choices are scaled with it.
@pytest.mark.parametrize("squash", [False, True])
def test_what_the_environment_takes(squash):
    head = PolicyHead(6, ALL, squash=squash)
    torch.nn.init.normal_(head.linear.weight)
    policy = head(2 * torch.randn(200, 6))
    raw = policy.sample()
    action = policy.to_environment(raw)
    assert all(tensor_space(ALL).contains(row) for row in action.detach().numpy())
    assert torch.equal(action[:, [0, 3, 4, 5, 6]], raw[:, [0, 3, 4, 5, 6]])
    inside = policy.to_environment(policy.from_environment(action))
    torch.testing.assert_close(inside, action, rtol=1e-4, atol=1e-4)
    assert {part.bound for part in policy.parts if isinstance(part, Gaussian)} == {"squash" if squash else "clip"}


# Breaks if the parts have layers of their own, or the head's own `log_std` is shared by all parts.
def test_the_head_is_one_linear_layer():
    torch.manual_seed(0)
    head, value = PolicyHead(6, ALL, initial_log_std=-0.7), ValueHead(6)
    assert head.linear.out_features == 3 + 2 + 6 + 4 + 1
    names = {name: p.tolist() for name, p in head.named_parameters() if "linear" not in name}
    assert names.keys() == {"parts.1.log_std", "parts.4.log_std"}
    assert all(entry == pytest.approx(-0.7) for entries in names.values() for entry in entries)
    assert is_plain(head)
    x = torch.randn(3, 6)
    out, _ = side_by_side(x, [head.linear, value.linear])
    raw = head(x).sample()
    torch.testing.assert_close(head.read(out, None).log_prob(raw), head(x).log_prob(raw))


def test_bad_parts_are_refused():
    with pytest.raises(UserError, match=r"the action\.word space Text"):
        PolicyHead(6, spaces.Dict(word=spaces.Text(5)))
    unbounded = spaces.Dict(hand=spaces.Tuple([spaces.Box(-np.inf, np.inf, (1,))]))
    with pytest.raises(UserError, match=r"squashed policy needs a bounded action space, not Box.* of hand\.0: use cl"):
        PolicyHead(6, unbounded, squash=True)
    assert PolicyHead(6, unbounded)(torch.zeros(6)).parts[0].bound == "none"


# Breaks if `mean` of a policy without Gaussian parts has no leading axes, and a rollout's noise no shape.
def test_parts_may_all_be_choices():
    policy = PolicyHead(6, spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(2)]))(torch.zeros(5, 6))
    assert policy.mean.shape == (5, 0)
    assert policy.sample().shape == policy.from_noise(torch.zeros(5, 0)).shape == (5, 3)
