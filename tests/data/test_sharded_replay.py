"""Shards: what an actor knows of its own, and one replay made of several."""

import pytest
import torch
from clock import counting_agent

from seqrl.data import Replay, Rollout
from seqrl.data.sharded_replay import ActedSequences, ShardedReplay, shares
from seqrl.envs import make
from seqrl.trajectory import Trajectory, to_device, tree_flatten, tree_map

NUM_ENVS, NUM_ACTORS = 3, 3
SIZES = [(4, 0, 0), (5, 4, 2), (3, 1, 5), (1, 0, 0), (8, 3, 4), (2, 1, 3)]  # length, overlap, burn-in


class Walker:
    """An actor with a counting memory, which can begin anew as one in a new process does."""

    def __init__(self, index, sizes, rollout_length=5):
        self.index, self.sizes, self.rollout_length, self.life = index, sizes, rollout_length, 0
        self.begin_anew()

    def begin_anew(self):
        environment = make("tests/Clock-v0", NUM_ENVS, vectorization="sync")
        self.rollout = Rollout(environment, counting_agent(), seed=100 * self.index + self.life)
        self.sequences = ActedSequences(*self.sizes, stores_states=True)
        self.life += 1

    def send(self, replay, version=0):
        first_row, kept = self.sequences.rows, self.sequences.state_rows(self.rollout_length)
        trajectory, _ = self.rollout.collect(self.rollout_length, kept)
        actor = torch.full_like(trajectory.behaviour_log_prob, self.index)
        priority = self.sequences.add(trajectory)
        replay.add(trajectory._replace(behaviour_log_prob=actor), version, self.index, first_row, priority)
        return trajectory


def sharded(sizes=(4, 1, 2), capacity=300, num_shards=NUM_ACTORS, **options):
    options = {"priority_exponent": 1.0, "slack": 100} | options
    shards = [Replay(capacity, NUM_ENVS, *sizes, **options, seed=k) for k in range(num_shards)]
    return ShardedReplay(shards, seed=7)


def filled(turns=6, **options):
    replay = sharded(**options)
    walkers = [Walker(k, (4, 1, 2)) for k in range(len(replay.shards))]
    for version in range(turns):
        for walker in walkers:
            walker.send(replay, version)
    return replay, walkers


# Breaks if the rows are counted from 1, or `state_rows` asks for every row.
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("rollout_length", [1, 5, 13])
def test_an_actor_judges_the_sequences_of_its_shard(sizes, rollout_length):
    """The rows that `judge` sees are those of the shard's sequences, however many trajectories they span.

    Golden by the shard's own count; breaks if `kept` is cut a row late, or `first` forgets the rows before.
    """
    length, overlap, burn_in = sizes
    num_rows, stride = burn_in + length + 1, length - overlap
    replay = Replay(10_000, 2, *sizes)
    seen, judged, at, cut = [], [], 0, 0

    def judge(rows):
        assert rows[0].shape == (num_rows, 2)
        assert torch.equal(rows[0].diff(dim=0), torch.ones(num_rows - 1, 2))
        seen.append(int(rows[0][0, 0]))
        return rows[0][0]

    actor = ActedSequences(*sizes, stores_states=True, record=lambda t: (t.reward,), judge=judge)
    for turn in range(12):
        if turn == 7:  # episodes are cut off: a row more in the shard; sequences with rows before it get no priority
            replay.interrupt(torch.zeros(2))
            actor.interrupt()
            cut = at = at + 1
        assert list(actor.state_rows(rollout_length)) == list(replay.state_rows(rollout_length))
        trajectory = numbered_rows(at, rollout_length, stride, begins=at in (0, cut))
        priority = actor.add(trajectory)
        before = replay.complete
        replay.add(trajectory)
        at += rollout_length
        assert len(priority) <= replay.complete - before
        judged += [int(p[0]) // stride for p in priority]
        if len(priority):
            assert judged[-1] == replay.complete - 1
    whole = range(replay.complete)
    expected = [s for s in whole if s * stride >= cut or s * stride + num_rows <= cut - 1]
    assert judged == expected
    assert max((len(k) for k in actor.kept), default=0) < num_rows


# Breaks if `ActedSequences.interrupt` counts a row in any case: the shard, still empty, takes none in.
def test_an_actor_that_is_interrupted_before_its_first_turn():
    replay, walker = sharded(num_shards=1), Walker(0, (4, 1, 2))
    replay.interrupt([torch.zeros(NUM_ENVS)])
    walker.sequences.interrupt()
    assert walker.sequences.rows == replay.shards[0].rows == 0
    walker.send(replay)
    assert walker.sequences.rows == replay.shards[0].rows == walker.rollout_length


# Breaks if `kept` stays where it was loaded.
def test_rows_kept_by_an_actor_go_on_on_the_device_of_the_new_ones():
    """A checkpoint is read to the CPU; "meta" stands for a GPU."""
    acted, resumed = (
        ActedSequences(4, 1, 2, stores_states=False, record=lambda t: (t.reward,), judge=lambda rows: rows[0].sum(0))
        for _ in range(2)
    )
    acted.add(numbered_rows(0, 5, 3, begins=True))
    resumed.load_state_dict(acted.state_dict())
    priority = resumed.add(to_device(numbered_rows(5, 5, 3, begins=False), "meta"))
    assert priority.device.type == "meta"
    assert len(priority) == 2


def numbered_rows(first, num_steps, stride, begins):
    """Rows whose rewards are their numbers, with states where a sequence of the shard begins."""
    reward = torch.arange(first, first + num_steps)[:, None].expand(-1, 2).float()
    no = torch.zeros(num_steps, 2, dtype=torch.bool)
    inputs = counting_agent().initial_input(torch.zeros(2, 3))
    inputs = tree_map(lambda leaf: leaf[None].expand(num_steps + 1, *leaf.shape), inputs)
    is_first = torch.zeros_like(inputs.is_first)
    is_first[0] = begins
    kept = [t for t in range(first, first + num_steps) if t % stride == 0]
    states = torch.zeros(len(kept), 2) if kept else ()
    values = torch.zeros(num_steps + 1, 2)
    return Trajectory(inputs._replace(is_first=is_first), reward.long(), reward, no, no, ~no, reward, values, states)


# Breaks if the offset is left out (always the same shards gain), or added.
def test_shares_by_hand():
    """Golden: of 10, 1 : 2 : 1 is 2.5, 5, 2.5: either 3, 5, 2 or 2, 5, 3, each half of the time."""
    generator = torch.Generator().manual_seed(0)
    found = [tuple(shares(torch.tensor([1.0, 2.0, 1.0]), 10, generator)) for _ in range(400)]
    assert set(found) == {(3, 5, 2), (2, 5, 3)}
    assert 150 < found.count((3, 5, 2)) < 250
    for totals in ([0.0, 3.0, 0.0], [0.0, 0.1, 0.2], [0.3, 0.3, 0.3], [1e-9, 1.0, 0.0], [5.0]):
        total = torch.tensor(totals, dtype=torch.float64)
        drawn = [shares(total, 7, generator) for _ in range(300)]
        expected = 7 * total / total.sum()
        assert all(sum(numbers) == 7 for numbers in drawn)
        assert all(abs(n - e) < 1 for numbers in drawn for n, e in zip(numbers, expected, strict=True))
        assert all(n == 0 for numbers in drawn for n, t in zip(numbers, totals, strict=True) if t == 0)
        torch.testing.assert_close(torch.tensor(drawn).double().mean(0), expected, atol=0.1, rtol=0.0)


# Breaks if the shards' totals are not asked for at each draw, or a shard's number is left out of `slot`.
def test_draws_are_in_proportion_to_priorities_over_all_shards():
    """Golden: the priorities of all sequences are 1 but for one shard's, which are 3."""
    replay, _ = filled()
    everything = replay.sample(2000).slot.unique()
    assert len(everything) == replay.num_sequences
    shard = everything // replay.slots
    priority = torch.where(shard == 1, 3.0, 1.0)
    replay.set_priority(everything, priority)
    drawn = sum(replay.sample(60).slot.bincount(minlength=NUM_ACTORS * replay.slots) for _ in range(200))
    expected = 60 * 200 * priority / priority.sum()
    assert ((drawn[everything] - expected).abs() < 0.2 * expected).all()
    assert drawn.sum() == drawn[everything].sum() == 60 * 200


# Breaks if weights are over each shard's own maximum.
def test_importance_weights_over_all_shards():
    """Golden: priorities 1 and 4 with β ½: weights 1 and ½."""
    replay, _ = filled(importance_exponent=0.5)
    everything = replay.sample(2000).slot.unique()
    replay.set_priority(everything, torch.where(everything // replay.slots == 2, 4.0, 1.0))
    batch = replay.sample(50)
    torch.testing.assert_close(batch.weight, torch.where(batch.slot // replay.slots == 2, 0.5, 1.0))


# Breaks if `join` mixes up the order of what it puts together, or `_by_shard` that of what it takes apart.
def test_all_of_a_batch_is_of_one_shard():
    replay, _ = filled()
    batch = replay.sample(40, version=10)
    actor = batch.slot // replay.slots
    assert set(actor.tolist()) == {0, 1, 2}
    assert torch.equal(batch.behaviour_log_prob, actor.float().expand_as(batch.behaviour_log_prob))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    slot = batch.slot[order]
    replay.set_priority(slot, slot.float() + 1)
    for k, shard in enumerate(replay.shards):
        own = slot[slot // replay.slots == k]
        torch.testing.assert_close(shard.tree.leaves[own - k * replay.slots], own.double() + 1)
    replay.write_back(slot, slot * 10, version=9)
    for k, shard in enumerate(replay.shards):
        own = slot[slot // replay.slots == k]
        local = own - k * replay.slots
        following = (local // NUM_ENVS + 1) % len(shard.version), local % NUM_ENVS
        assert torch.equal(shard.states[following], own * 10)
        assert (shard.version[following] == 9).all()


def test_histories_over_all_shards():
    """A counting memory, unrolled over each history, arrives at the count that the sequence's first row shows."""
    replay, _ = filled(turns=12)
    batch = replay.sample(60)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    batch = batch._replace(slot=batch.slot[order])
    before, whole = replay.history(batch.slot)
    step = batch.inputs.observation[0, order, 1]
    agent = counting_agent()
    _, state = agent.unroll(before, agent.initial_state(60))
    going_on = whole & (step > 0)
    assert going_on.sum() > 20
    assert torch.equal(state[going_on].float(), step[going_on])


# Breaks if `first_row` is not looked at, no row is filled in, or the rows filled in are not to the stride.
@pytest.mark.parametrize("sizes", SIZES)
def test_an_actor_that_begins_anew(sizes):
    """Its sequences hold the states that acting had, and no return reaches from one life into the next."""
    replay = sharded(sizes, num_shards=2)
    walkers = [Walker(k, sizes) for k in range(2)]
    agent, cut = counting_agent(), 0
    for turn in range(40):
        walkers[turn % 2].send(replay, turn)
        if turn in (9, 10, 17, 18, 19, 30):
            walkers[turn % 2].begin_anew()
        if turn < 10:
            continue
        batch = replay.sample(60)
        step = batch.inputs.observation[..., 1]
        bootstraps = batch.mask & ~batch.terminated
        assert torch.equal(step[1:][bootstraps], step[:-1][bootstraps] + 1)
        assert not batch.inputs.is_first[1:][bootstraps].any()
        traced = bootstraps & ~batch.truncated
        assert batch.mask[1:][traced[:-1]].all()
        going_on = ~batch.inputs.is_first[0]
        filled_in = going_on & (batch.state == 0)
        assert torch.equal(batch.state[going_on & ~filled_in], step[0, going_on & ~filled_in].long())
        value = agent.unroll(batch.inputs, batch.state)[0]["value"]
        # A sequence that begins with a row that was filled in is masked up to where its memory resets.
        for n in filled_in.nonzero().flatten().tolist():
            reset = int(batch.inputs.is_first[:, n].long().argmax()) or len(step)
            assert not batch.mask[:reset, n].any()
        counted = batch.mask & ~filled_in
        assert torch.equal(value[:-1][counted], (step[:-1] + 1)[counted])
        cut += int((batch.truncated & ~batch.terminated).sum())
    assert cut > 0


def test_first_priorities_of_the_last_sequences():
    """Golden: an actor's priorities 5, 6, … for the sequences that are whole in its life; others get the largest."""
    replay = sharded((4, 0, 0), num_shards=1)
    walker = Walker(0, (4, 0, 0), rollout_length=8)
    number = iter(range(5, 100))
    for life in range(2):
        walker.begin_anew()
        walker.sequences.record, walker.sequences.judge = (
            keep,
            lambda rows: torch.full((NUM_ENVS,), float(next(number))),
        )
        for _ in range(2 + life):
            walker.send(replay)
    # First life: rows 0–15, sequences 0, 1, 2 whole; row 16 ends it, up to 19. Second: rows 20–43.
    found = replay.shards[0].tree.leaves.view(-1, NUM_ENVS)[:10, 0].tolist()
    assert found == [5.0, 6.0, 7.0, 7.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]
    assert replay.shards[0].complete == 10


def keep(trajectory):
    return (trajectory.reward,)


# Breaks if `next_row` is left out of the state, or a shard's own is.
def test_a_saved_replay_goes_on(tmp_path):
    def fresh():
        shards = [
            Replay(60, NUM_ENVS, 4, 1, 2, folder=tmp_path / f"replay-{k}", slack=20, seed=k) for k in range(NUM_ACTORS)
        ]
        return ShardedReplay(shards, 7, max_unsaved=10)

    replay = fresh()
    assert replay.state_dict()["shards"] == ({}, {}, {})
    fresh().load_state_dict(replay.state_dict())
    walkers = [Walker(k, (4, 1, 2)) for k in range(NUM_ACTORS)]
    for turn in range(24):
        walkers[turn % 2].send(replay)  # nothing comes from the third
        if replay.save_is_due:
            state = tree_map(torch.clone, replay.state_dict())
    replay.state_dict()
    state = tree_map(torch.clone, replay.state_dict())
    expected = [replay.sample(20) for _ in range(2)]
    again = fresh()
    again.load_state_dict(state)
    for batch in expected:
        found = again.sample(20)
        for name, leaf in tree_flatten(tuple(batch)).items():
            assert torch.equal(tree_flatten(tuple(found))[name], leaf), name
    rows = [shard.rows for shard in again.shards]
    walkers[0].send(again)  # goes on
    assert [shard.rows for shard in again.shards] == [rows[0] + 5, *rows[1:]]
    walkers[1].begin_anew()
    walkers[1].send(again)
    assert (again.shards[1].rows - 5) % 3 == 0
    assert not again.save_is_due
    for _ in range(2):
        walkers[0].send(again)
    assert again.save_is_due
    with pytest.raises(ValueError, match="zip"):
        ShardedReplay(again.shards[:2]).load_state_dict(state)
