"""Heads: the distribution that fits each action space."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from seqrl.errors import UserError
from seqrl.nets import ActionValueHead, Categorical, Gaussian, MultiCategorical, PolicyHead, ValueHead
from seqrl.objectives import unrescale

BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
UNBOUNDED = spaces.Box(-np.inf, np.inf, (2,), np.float32)


# Breaks if a bound of an entry is ignored where another has none, or the width of a box overflows.
@pytest.mark.parametrize(
    ("space", "kind", "shape"),
    [
        (spaces.Discrete(4), Categorical, ()),
        (spaces.MultiDiscrete([2, 3]), MultiCategorical, (2,)),
        (spaces.MultiBinary(3), MultiCategorical, (3,)),
        (BOX, Gaussian, (2,)),
        (UNBOUNDED, Gaussian, (2,)),
        (spaces.Box(np.array([0.0, -np.inf], np.float32), np.array([np.inf, 0.0], np.float32)), Gaussian, (2,)),
        (spaces.Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (2,)), Gaussian, (2,)),
    ],
)
def test_a_distribution_for_each_space(space, kind, shape):
    distribution = PolicyHead(6, space)(torch.randn(4, 3, 6))
    action = distribution.sample()
    assert isinstance(distribution, kind)
    assert action.shape == (4, 3, *shape)
    assert distribution.log_prob(action).shape == distribution.entropy().shape == (4, 3)
    for row in distribution.to_environment(action).flatten(0, 1):
        assert space.contains(row.detach().numpy().astype(space.dtype))


# Breaks if the gain of the policy's last layer is 1.
def test_the_first_policy_is_nearly_uniform():
    distribution = PolicyHead(64, spaces.Discrete(4))(torch.randn(100, 64).clamp(-1, 1))
    assert (distribution.log_probs.exp() - 0.25).abs().max() < 0.05


# Breaks if `bound` does not follow `squash`, or an unbounded space is clipped.
@pytest.mark.parametrize(
    ("space", "squash", "bound"), [(BOX, False, "clip"), (BOX, True, "squash"), (UNBOUNDED, False, "none")]
)
def test_how_an_action_gets_into_its_box(space, squash, bound):
    distribution = PolicyHead(6, space, squash=squash, initial_log_std=-0.5)(torch.zeros(6))
    assert distribution.bound == bound
    assert distribution.log_std.tolist() == [-0.5, -0.5]
    middle = torch.tensor([0.0, 0.0 if bound == "none" else 0.5])
    assert torch.equal(distribution.to_environment(distribution.mode()), middle)


# Breaks if `allowed` is not handed to the distribution.
def test_a_mask_restricts_discrete_actions():
    allowed = torch.tensor([True, False, False, False, True])
    assert PolicyHead(6, spaces.Discrete(5))(torch.zeros(6), allowed).log_probs.exp()[[1, 2, 3]].sum() == 0
    several = PolicyHead(6, spaces.MultiDiscrete([2, 3]))(torch.zeros(6), allowed)
    assert several.mode().tolist() == [0, 2]


def test_bad_spaces_are_refused():
    with pytest.raises(
        UserError, match=r"no policy head for the action space Text.* of one axis, .*wrap the environment"
    ):
        PolicyHead(6, spaces.Text(5))
    with pytest.raises(UserError, match=r"squashed policy needs a bounded action space.*clipped actions"):
        PolicyHead(6, UNBOUNDED, squash=True)
    with pytest.raises(UserError, match=r"action mask needs discrete actions.*remove `action_mask`"):
        PolicyHead(6, BOX)(torch.zeros(6), torch.ones(2, dtype=torch.bool))


def test_a_value_is_one_number():
    assert ValueHead(6)(torch.zeros(4, 3, 6)).shape == (4, 3)


def dueling(features, allowed=None):
    """A head with weights that matter, its action values, and the state's value."""
    torch.manual_seed(0)
    head = ActionValueHead(6, spaces.Discrete(4))
    torch.nn.init.normal_(head.advantage.weight)
    values = head(features, allowed).values
    return values, head.value(torch.relu(head.hidden(features))[..., :6])


# Breaks if the mean is over all actions, or is added.
@pytest.mark.parametrize("allowed", [None, [True, False, True, True], [False, False, True, False]])
def test_the_mean_advantage_is_zero(allowed):
    """Of the allowed actions: v is their mean value."""
    allowed = None if allowed is None else torch.tensor(allowed).expand(5, 3, 4)
    values, v = dueling(torch.randn(5, 3, 6), allowed)
    counted = torch.ones_like(values) if allowed is None else allowed.float()
    torch.testing.assert_close((values * counted).sum(-1) / counted.sum(-1), v.squeeze(-1))
    assert values.std() > 0.1


# Breaks if the values of forbidden actions are not masked, or the mask does not reach the distribution.
def test_a_mask_restricts_action_values():
    allowed = torch.tensor([False, True, False, True]).expand(200, 4)
    values, _ = dueling(torch.randn(200, 6), allowed)
    assert (values[:, [0, 2]] == torch.finfo(values.dtype).min).all()
    distribution = ActionValueHead(6, spaces.Discrete(4))(torch.randn(200, 6), allowed).with_epsilon(1.0)
    assert set(distribution.sample().tolist()) == {1, 3}
    assert set(distribution.mode().tolist()) <= {1, 3}


# Breaks if the mean divides by 0 where no action is allowed: 0 · NaN then spoils the target of the row before.
def test_a_final_row_where_nothing_is_allowed_has_finite_values():
    allowed = torch.zeros(2, 3, 4, dtype=torch.bool)
    features = torch.randn(2, 3, 6, requires_grad=True)
    distribution = ActionValueHead(6, spaces.Discrete(4))(features, allowed)
    assert unrescale(distribution.values).isfinite().all()
    assert distribution.log_prob(distribution.sample()).isfinite().all()


def test_only_discrete_spaces_have_a_value_for_each_action():
    for space in (BOX, spaces.MultiDiscrete([2, 3])):
        with pytest.raises(UserError, match=r"no value for each action of .*use a Discrete action space"):
            ActionValueHead(6, space)
