"""An agent that ends with the mean of its last weights: whose they are, and that it is the same when resumed."""

import pytest
import torch

from seqrl.algorithms import load, ppo, train
from seqrl.errors import UserError
from seqrl.learner import WeightAverage
from tests.interrupted import ends_the_same


def config(**changes):
    return ppo.Config(
        **{"env": "seqrl/TMaze-v0", "num_envs": 4, "rollout_length": 8, "hidden_size": 8, "num_steps": 320, **changes}
    )


def last_weights(tmp_path, monkeypatch, share):
    """The weights of a run of ten updates with `share`, the trained agent's and all that were averaged."""
    added, add = [], WeightAverage.add
    monkeypatch.setattr(
        WeightAverage, "add", lambda self: (added.append([p.detach().clone() for p in self.parameters]), add(self))
    )
    agent = train(config(weight_average=share, run_dir=str(tmp_path / f"run{share}")))
    monkeypatch.undo()
    return agent, added


# Breaks if `average.apply` comes after the last checkpoint, or with `>=` at the first of the last steps.
def test_the_agent_ends_with_the_mean_of_the_last_weights(tmp_path, monkeypatch):
    agent, added = last_weights(tmp_path, monkeypatch, 0.3)
    assert len(added) == 3
    for parameter, *several in zip(agent.parameters(), *added, strict=True):
        torch.testing.assert_close(parameter.detach(), torch.stack(several).mean(0))
    stored = load(tmp_path / "run0.3")
    assert all(torch.equal(a, b) for a, b in zip(agent.parameters(), stored.parameters(), strict=True))
    plain = train(config(run_dir=str(tmp_path / "plain")))  # what is averaged has no say in how weights go on
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), added[-1], strict=True))
    _, every = last_weights(tmp_path, monkeypatch, 1.0)
    assert len(every) == 10


# Breaks if `average` is left out of the parts of a checkpoint.
def test_interrupted_while_averaging_it_ends_bit_for_bit_the_same(tmp_path, monkeypatch):
    ends_the_same(config(weight_average=0.6, checkpoint_every=3), tmp_path, monkeypatch, at=7 * 32)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(UserError, match=f"--weight-average is {share}"):
        ppo.check(config(weight_average=share))
