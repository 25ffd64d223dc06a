"""Sequences cut from rollouts: every row and every state in its place, over several rollouts."""

import pytest
import torch
from clock import counting_agent, in_sequence

from seqrl.agent import Agent
from seqrl.data import Batch, Rollout, Sequences
from seqrl.envs import make
from seqrl.memory import GRU
from seqrl.nets import Encoder, PolicyHead, ValueHead
from seqrl.trajectory import to_device, tree_cat, tree_flatten, tree_leaves, tree_map

NUM_ENVS = 3
# Rollout length, BPTT length, burn-in: shorter than a sequence, longer than one, as long as the whole rollout.
LENGTHS = [(6, 6, 0), (6, 3, 0), (6, 1, 0), (6, 2, 1), (6, 6, 2), (6, 3, 4), (6, 2, 5), (6, 2, 6), (6, 6, 6), (6, 1, 3)]


def rows_of(trajectory, number):
    """What a learner reads of a rollout. The advantage numbers the rows, and the target the rollouts."""
    inputs = tree_map(lambda leaf: leaf[:-1], trajectory.inputs)
    T, B = trajectory.mask.shape
    index = (torch.arange(T * B) + 1000 * number).view(T, B).float()
    rows = (inputs, trajectory.action, trajectory.behaviour_log_prob, index, torch.full((T, B), float(number)))
    return Batch(*rows, trajectory.mask, trajectory.states)


def collect(sequences, num_rollouts, agent=None):
    """The rows of each rollout, and its sequences."""
    rollout = Rollout(make("tests/Clock-v0", NUM_ENVS, vectorization="sync"), agent or counting_agent(), seed=0)
    for number in range(num_rollouts):
        trajectory, _ = rollout.collect(sequences.rollout_length, sequences.state_rows)
        rows = rows_of(trajectory, number)
        yield rows, sequences.cut(rows)


def check_counts(agent, batch):
    """Before each sequence the counter holds the rows since `is_first`, and after each of its rows as well."""
    step = batch.inputs.observation[..., 1]
    going_on = ~batch.inputs.is_first[0]
    assert torch.equal(batch.state[going_on], step[0, going_on].long())
    outputs, _ = agent.unroll(batch.inputs, batch.state)
    assert torch.equal(outputs["value"], step + 1)


# Breaks if `state_rows` are those of burn-in 0, `kept` or `used` is one too many, or the states are not carried over.
@pytest.mark.parametrize(("rollout_length", "length", "burn_in"), LENGTHS)
def test_a_counting_memory_through_the_sequences(rollout_length, length, burn_in):
    sequences, agent = Sequences(rollout_length, length, burn_in, seed=0), counting_agent()
    for _, batch in collect(sequences, 4, agent):
        assert len(batch.mask) == burn_in + length
        check_counts(agent, batch)
        for minibatch in sequences.minibatches(batch, 2):
            check_counts(agent, minibatch)
        refreshed = sequences.refresh(agent, batch, NUM_ENVS)
        check_counts(agent, refreshed)
        going_on = ~batch.inputs.is_first[0]
        assert torch.equal(refreshed.state[going_on], batch.state[going_on])


# Breaks if pieces overlap by one row, columns and pieces are laid out the other way around, or burn-in rows keep their
# mask.
@pytest.mark.parametrize(("rollout_length", "length", "burn_in"), LENGTHS)
def test_rows_by_hand(rollout_length, length, burn_in):
    sequences = Sequences(rollout_length, length, burn_in, seed=0)
    history = None
    for rows, batch in collect(sequences, 4):
        columns = tuple(rows[:-1])
        if history is None:  # in front of the very first row there is nothing
            inputs, *rest = tree_map(lambda leaf: leaf.new_zeros(burn_in, *leaf.shape[1:]), columns)
            history = (inputs._replace(is_first=~inputs.is_first), *rest)  # but rows that reset the memory
        history = tree_cat([history, columns])
        num_rows = len(history[-1])
        for c in range(rollout_length // length):
            start = num_rows - rollout_length + c * length - burn_in
            expected = tree_map(lambda leaf, s=start: leaf[s : s + burn_in + length], history)
            found = tree_map(lambda leaf, c=c: leaf[:, c * NUM_ENVS : (c + 1) * NUM_ENVS], tuple(batch[:-1]))
            assert not found[-1][:burn_in].any()
            assert torch.equal(found[-1][burn_in:], expected[-1][burn_in:])
            for name, leaf in tree_flatten(expected[:-1]).items():
                assert torch.equal(tree_flatten(found[:-1])[name], leaf), name


# Breaks if minibatches are cut by `chunk`, which gives fewer than it was asked for, or the order is not drawn anew.
@pytest.mark.parametrize("number", [1, 4, 5, 9])
def test_minibatches_are_a_partition(number):
    sequences = Sequences(6, 2, 1, seed=0)
    (_, batch) = next(collect(sequences, 1))
    orders = []
    for _ in range(2):
        minibatches = list(sequences.minibatches(batch, number))
        assert len(minibatches) == number
        sizes = [m.mask.shape[1] for m in minibatches]
        assert max(sizes) - min(sizes) <= 1
        orders.append(torch.cat([m.advantage for m in minibatches], 1)[-1].tolist())
        assert sorted(orders[-1]) == sorted(batch.advantage[-1].tolist())
    assert orders[0] != orders[1]
    again = Sequences(6, 2, 1, seed=0)
    assert torch.cat([m.advantage for m in again.minibatches(batch, number)], 1)[-1].tolist() == orders[0]


def gru_agent(seed):
    torch.manual_seed(seed)
    space, action_space = counting_agent().observation_space, counting_agent().action_space
    heads = {"policy": PolicyHead(8, action_space), "value": ValueHead(8)}
    return Agent(space, action_space, Encoder(space, 8), GRU(8, 8), heads)


# Breaks if `refresh` unrolls the burn-in rows twice, or begins each sequence with the state of the first.
@pytest.mark.parametrize(("length", "burn_in"), [(2, 0), (3, 2), (2, 5)])
def test_refreshed_states_are_todays(length, burn_in):
    agent, sequences = gru_agent(seed=0), Sequences(6, length, burn_in, seed=0)
    *_, (_, batch) = collect(sequences, 3, agent)
    torch.testing.assert_close(sequences.refresh(agent, batch, NUM_ENVS).state, batch.state)
    agent.encoder.load_state_dict(gru_agent(seed=1).encoder.state_dict())  # as if it had learnt
    found = sequences.refresh(agent, batch, NUM_ENVS).state.unflatten(0, (-1, NUM_ENVS))
    state = batch.state[:NUM_ENVS]
    for c in range(6 // length):
        torch.testing.assert_close(found[c], state)
        rows = tree_map(lambda leaf, c=c: leaf[:length, c * NUM_ENVS : (c + 1) * NUM_ENVS], batch.inputs)
        _, state = agent.unroll(rows, state)
    assert not torch.allclose(found[-1], batch.state[-NUM_ENVS:])


@pytest.mark.parametrize("mode", ["same_step", "disabled"])
def test_a_rollout_with_final_observations_put_in_is_one_sequence(mode):
    environment = make("tests/Clock-v0", NUM_ENVS, vectorization="sync", autoreset_mode=mode)
    sequences, agent = Sequences(6, 6, 0, seed=0), counting_agent()
    rollout = Rollout(environment, agent, seed=0)
    for number in range(3):
        trajectory, _ = rollout.collect(6, sequences.state_rows)
        batch = sequences.cut(rows_of(trajectory, number))
        assert batch.mask.shape == trajectory.mask.shape
        assert batch.mask.sum() == 6 * NUM_ENVS
        outputs, _ = agent.unroll(batch.inputs, sequences.refresh(agent, batch, NUM_ENVS).state)
        rows = in_sequence(trajectory, 6)
        assert torch.equal(outputs["value"][rows], batch.inputs.observation[..., 1][rows] + 1)


# Breaks if the carried rows, or the generator, are left out of the saved state.
def test_saved_sequences_go_on():
    sequences = Sequences(6, 3, 4, seed=0)
    other = Sequences(6, 3, 4, seed=9)
    experience = collect(sequences, 3)
    for _ in range(2):
        _, batch = next(experience)
        list(sequences.minibatches(batch, 3))
    other.load_state_dict(sequences.state_dict())
    rows, batch = next(experience)
    found = tree_flatten(tuple(other.cut(rows)))
    for name, leaf in tree_flatten(tuple(batch)).items():
        assert torch.equal(found[name], leaf), name
    order = [m.advantage for m in sequences.minibatches(batch, 3)]
    assert all(torch.equal(a, m.advantage) for a, m in zip(order, other.minibatches(batch, 3), strict=True))


# Breaks if `carried` stays where it was loaded.
def test_rows_carried_go_on_on_the_device_of_the_new_ones():
    """A checkpoint is read to the CPU; "meta" stands for a GPU."""
    sequences, resumed = (Sequences(6, 3, 4, seed=0) for _ in range(2))
    (rows, _), *_ = collect(sequences, 1)
    resumed.load_state_dict(sequences.state_dict())
    batch = resumed.cut(to_device(rows, "meta"))
    assert {leaf.device.type for leaf in tree_leaves(batch)} == {"meta"}
