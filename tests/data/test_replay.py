"""Replay: every row and every state in its place, however often the ring wrapped, and the same again after a save."""

import pytest
import torch
from clock import counting_agent

from seqrl.data import Replay, Rollout
from seqrl.envs import make
from seqrl.errors import UserError
from seqrl.trajectory import Trajectory, tree_cat, tree_flatten, tree_map

NUM_ENVS = 3


class Walk:
    """A counting agent that fills a replay. It keeps all rows and all states itself, and numbers the rows.

    A row's number, NUM_ENVS · (row + 1) + column, stands in `behaviour_log_prob`, so that a drawn row says which it is;
    rows of an interrupt hold 0.
    """

    def __init__(self, *sizes, rollout_length=5, **options):
        self.agent, self.replay = counting_agent(), Replay(sizes[0], NUM_ENVS, *sizes[1:], **options)
        self.rollout = Rollout(make("tests/Clock-v0", NUM_ENVS, vectorization="sync"), self.agent, seed=0)
        self.rollout_length, self.rows, self.states, self.last = rollout_length, [], [], None

    def act(self, version=0):
        T, start = self.rollout_length, self.num_rows + 1
        trajectory, _ = self.rollout.collect(T, range(T))
        number = torch.arange(start * NUM_ENVS, (start + T) * NUM_ENVS).view(T, NUM_ENVS).float()
        trajectory = trajectory._replace(behaviour_log_prob=number)
        kept = self.replay.state_rows(T)
        self.replay.add(trajectory._replace(states=trajectory.states[kept] if len(kept) else ()), version)
        self.rows.append((tree_map(lambda leaf: leaf[:-1], trajectory.inputs), *trajectory[1:7]))
        self.states.append(trajectory.states)
        self.last = tree_map(lambda leaf: leaf[-1:], trajectory.inputs)

    def interrupt(self):
        """Forced new episodes, in the replay and in the rows kept here."""
        self.replay.interrupt(self.rollout.state)
        *_, terminated, truncated, mask, _ = self.rows[-1]
        truncated[-1] |= mask[-1] & ~terminated[-1]
        empty = [torch.zeros_like(leaf[:1]) for leaf in self.rows[-1][1:]]
        self.rows.append((self.last, *empty))
        self.states.append(self.rollout.state[None])
        self.rollout.restart(len(self.rows))

    def replay_of(self, num_rows):
        """The replay, with that many rows in it."""
        while self.num_rows < num_rows:
            self.act()
        return self.replay

    @property
    def num_rows(self):
        return sum(len(rows[-1]) for rows in self.rows)

    def drawable(self):
        """(row, column) of the starts of all sequences that lie whole within the capacity."""
        replay, rows = self.replay, self.num_rows
        starts = range(0, rows - replay.num_rows + 1, replay.stride)
        return {(t, b) for t in starts if t >= rows - replay.capacity for b in range(NUM_ENVS)}

    def check(self):
        """Draw every sequence, and compare all of its rows and its state with those kept here."""
        replay, expected = self.replay, self.drawable()
        assert expected or self.num_rows < replay.num_rows
        assert replay.num_sequences == len(expected)
        assert len(replay) == NUM_ENVS * min(self.num_rows, replay.capacity)
        if not expected:
            return
        batch = replay.sample(2 * len(expected))
        history, states = tree_cat(self.rows), torch.cat(self.states)
        t = torch.arange(replay.num_rows)[:, None]
        number, at = batch.behaviour_log_prob.max(0)  # a row that tells its number, and where it is
        row, column = number.long() // NUM_ENVS - 1 - at, number.long() % NUM_ENVS
        assert set(zip(row.tolist(), column.tolist(), strict=True)) == expected
        inputs, *rest = tree_map(lambda leaf: leaf[row + t, column], history)
        action, reward, terminated, truncated, mask, log_prob = (leaf[:-1] for leaf in rest)
        rest = (action, reward, terminated, truncated, mask & (t[:-1] >= replay.burn_in), log_prob)
        drawn = tree_flatten(tuple(batch[:7]))
        for name, leaf in tree_flatten((inputs, *rest)).items():
            assert torch.equal(drawn[name], leaf), name
        if replay.stores_states:
            assert torch.equal(batch.state, states[row, column])
            self.check_counts(batch)

    def check_counts(self, batch):
        """From the stored state, the counter counts the rows since `is_first`; the clock's step says how many."""
        step = batch.inputs.observation[..., 1]
        going_on = ~batch.inputs.is_first[0]
        assert torch.equal(batch.state[going_on], step[0, going_on].long())
        assert torch.equal(self.agent.unroll(batch.inputs, batch.state)[0]["value"], step + 1)


# Steps kept, then length, overlap and burn-in: whole and half overlaps, strides that divide neither the rollout nor the
# capacity, burn-ins longer than a sequence, a capacity of hardly more than one sequence.
SIZES = [
    (90, 4, 0, 0), (90, 4, 2, 0), (60, 5, 4, 2), (60, 3, 1, 5), (40, 1, 0, 0), (100, 8, 3, 4), (48, 7, 0, 1),
    (27, 6, 4, 2), (200, 2, 1, 3),
]  # fmt: skip


# Breaks if `sample` takes `self.length` for the stride, `_oldest` rounds down, `num_rows` is one less, the ring is
# shorter than the capacity (`self.capacity - self.num_rows + slack`), or the leaves of sequences that left it are not
# set to 0; with (27, 6, 4, 2), if the capacity may be `num_rows` alone, which holds no whole sequence at times.
@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("sizes", SIZES)
def test_rows_and_states_by_hand(tmp_path, sizes, where):
    walk = Walk(*sizes, where=where, folder=tmp_path, rollout_length=5)
    for _ in range(20):
        walk.act()
        walk.check()
    assert walk.num_rows > walk.replay.ring


# Breaks if the state is kept one row late: `(self.rows + t + 1) % self.stride`.
@pytest.mark.parametrize("rollout_length", [1, 3, 11])
def test_rollouts_shorter_and_longer_than_a_sequence(rollout_length):
    walk = Walk(60, 6, 2, 1, rollout_length=rollout_length, slack=rollout_length)
    for _ in range(60 // rollout_length):
        walk.act()
        walk.check()


def test_without_states():
    walk = Walk(60, 4, 1, 2, stores_states=False)
    for _ in range(10):
        walk.act(version=3)
        walk.check()
    batch = walk.replay.sample(4, version=9)
    assert batch.state == ()
    assert not batch.age.any()


# Breaks if `interrupt` writes no row, leaves `truncated` as it was, or `last` keeps its `is_first`.
@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("sizes", [(90, 4, 0, 0), (60, 5, 4, 2), (100, 8, 3, 4)])
def test_episodes_that_are_interrupted(tmp_path, sizes, where):
    """The row that follows a row's bootstrap is always its own episode's next; the traces end where episodes do."""
    walk = Walk(*sizes, where=where, folder=tmp_path, rollout_length=3)
    cut = 0
    for turn in range(30):
        walk.act()
        if turn % 2:
            walk.interrupt()
        walk.check()
        if not walk.drawable():
            continue
        batch = walk.replay.sample(20)
        episode, step = batch.inputs.observation[..., 0], batch.inputs.observation[..., 1]
        bootstraps = batch.mask & ~batch.terminated
        assert torch.equal(step[1:][bootstraps], step[:-1][bootstraps] + 1)
        assert torch.equal(episode[1:][bootstraps], episode[:-1][bootstraps])
        assert not batch.inputs.is_first[1:][bootstraps].any()
        traced = bootstraps & ~batch.truncated
        assert batch.mask[1:][traced[:-1]].all()
        cut += int((batch.truncated & (step[:-1] + 1 < 5)).sum())
    assert cut > 0


# Breaks if the state that `interrupt` stores counts as made by version 0.
def test_the_age_of_states():
    """Golden: rollouts of 2 rows and an interrupt's third; sequence s, of one row, starts at row s."""
    walk = Walk(60, 1, rollout_length=2)
    for version in range(12):
        walk.act(version)
        walk.interrupt()
    batch = walk.replay.sample(200, version=100)
    row = batch.behaviour_log_prob[0].long() // NUM_ENVS - 1
    acted = row >= 0
    assert torch.equal(batch.age[acted], 100 - row[acted] // 3)
    assert set(batch.age[~acted].tolist()) == set(range(90, 96))


def test_a_rollout_that_does_not_go_on_is_refused():
    walk = Walk(60, 4)
    walk.act()
    walk.rollout.restart(1)
    with pytest.raises(ValueError, match=r"does not continue the one before it: call `interrupt`"):
        walk.act()


@pytest.mark.parametrize(("length", "overlap", "burn_in"), [(0, 0, 0), (4, 4, 0), (4, -1, 0), (4, 0, -1)])
def test_impossible_sequences_are_refused(length, overlap, burn_in):
    with pytest.raises(ValueError, match="not possible"):
        Replay(100, NUM_ENVS, length, overlap, burn_in)


# Breaks if `slack` or `restore` is left out, `save` does nothing, or one of `last`, `states`, `version`,
# `leaves`, `max_priority` or `generator` is left out of the saved state.
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_saved_replay_goes_on(tmp_path, where):
    """A killed run goes back to its last checkpoint, though it has acted since, and even saved rows."""
    sizes, options = (60, 5, 2, 2), {"where": where, "folder": tmp_path, "slack": 20, "importance_exponent": 0.5}
    walk = Walk(*sizes, **options)
    for version in range(14):
        walk.act(version)
    batch = walk.replay.sample(9)
    walk.replay.set_priority(batch.slot, torch.arange(2.0, 11.0))
    walk.replay.write_back(batch.slot, torch.arange(100, 109), 77)
    state = tree_map(torch.clone, walk.replay.state_dict())
    expected = [walk.replay.sample(20, version=80) for _ in range(2)]
    for _ in range(4):
        walk.act()
    if where == "memory":
        walk.replay.state_dict()  # brings the files up to date: killed before the checkpoint itself was written

    again = Replay(sizes[0], NUM_ENVS, *sizes[1:], **options)
    again.load_state_dict(state)
    for batch in expected:
        found = again.sample(20, version=80)
        for name, leaf in tree_flatten(tuple(batch)).items():
            assert torch.equal(tree_flatten(tuple(found))[name], leaf), name
    assert len(again) == 60
    rows = tree_map(lambda leaf: leaf[:1], walk.rows[14])
    assert torch.equal(again.last.observation, rows[0].observation[0])
    inputs = tree_map(lambda leaf: torch.cat([leaf, leaf]), rows[0]._replace(is_first=~rows[0].is_first))
    with pytest.raises(ValueError, match="does not continue"):
        again.add(Trajectory(inputs, *rows[1:], torch.zeros(2, NUM_ENVS), ()))


def test_files_of_other_settings_are_refused(tmp_path):
    walk = Walk(60, 5, folder=tmp_path)
    walk.act()
    state = walk.replay.state_dict()
    with pytest.raises(UserError, match=r"\.bin holds .* bytes, not .*: resume with the run's own settings"):
        Replay(90, NUM_ENVS, 5, folder=tmp_path).load_state_dict(state)


def test_nothing_to_save_before_the_first_row(tmp_path):
    replay = Replay(60, NUM_ENVS, 5, folder=tmp_path)
    assert replay.state_dict() == {}
    replay.load_state_dict({})
    replay.interrupt(torch.zeros(NUM_ENVS))
    assert (len(replay), replay.num_sequences) == (0, 0)


# Breaks if the exponent is left out, new sequences get priority 1, or `amax` becomes `sum`.
def test_priorities_by_hand():
    """Golden: priorities 4 and 9 with exponent ½ are drawn as 2 to 3; a new one gets the largest there was."""
    replay = Walk(300, 4, rollout_length=1, priority_exponent=0.5).replay_of(9)
    assert replay.num_sequences == 6
    batch = replay.sample(6)
    slot = batch.slot.sort().values
    replay.set_priority(slot, torch.tensor([4.0, 9.0, 4.0, 9.0, 1e-9, 1e-9]))
    counts = replay.sample(10_000).slot.bincount(minlength=6)[slot]
    expected = torch.tensor([2.0, 3, 2, 3, 1e-3, 1e-3])
    assert (counts - 10_000 * expected / expected.sum()).abs().max() <= 1  # draws are stratified
    replay.set_priority(slot[[0, 0, 0]], torch.tensor([1.0, 16.0, 4.0]))  # drawn three times: the largest counts
    replay.set_priority(slot[1:], torch.zeros(5))
    assert replay.sample(1000).slot.bincount(minlength=6)[slot[0]] > 990
    assert replay.priority_quantiles()["priority_max"].item() == pytest.approx(16)


def test_a_new_sequence_gets_the_largest_priority_so_far():
    walk = Walk(300, 4, rollout_length=1, priority_exponent=1.0)
    replay = walk.replay_of(9)
    slot = replay.sample(6).slot.sort().values
    replay.set_priority(slot, torch.tensor([50.0, 1, 1, 1, 1, 1]))
    replay.set_priority(slot, torch.ones(6))
    for _ in range(4):
        walk.act()
    assert replay.num_sequences == 9
    counts = replay.sample(1560).slot.bincount()
    assert sorted(counts.tolist()) == [10] * 6 + [500] * 3


# Breaks if the weight is not over its maximum, or the sign of the exponent is lost.
def test_importance_weights_by_hand():
    """Golden: drawn as 2 to 3 and β = 1: weights 1 and 2/3."""
    replay = Walk(300, 4, rollout_length=1, priority_exponent=1.0, importance_exponent=1.0).replay_of(9)
    slot = replay.sample(6).slot.sort().values
    replay.set_priority(slot, torch.tensor([2.0, 3.0, 2.0, 3.0, 2.0, 3.0]))
    batch = replay.sample(60)
    third = (batch.slot == slot[1]) | (batch.slot == slot[3]) | (batch.slot == slot[5])
    torch.testing.assert_close(batch.weight, torch.where(third, 2 / 3, 1.0))


def test_exponent_zero_draws_uniformly():
    replay = Walk(300, 4, rollout_length=1, priority_exponent=0.0, importance_exponent=1.0).replay_of(9)
    replay.set_priority(replay.sample(2).slot, torch.tensor([0.0, 100.0]))
    batch = replay.sample(600)
    assert batch.slot.bincount()[batch.slot].eq(100).all()
    assert batch.weight.eq(1).all()
    assert replay.priority_quantiles() == {}


# Breaks if the state goes to the sequence itself, or to the column next to it.
def test_states_written_back_go_to_the_next_sequences():
    walk = Walk(60, 4, 1, rollout_length=5)
    for version in range(12):
        walk.act(version)
    batch = walk.replay.sample(5)
    row = batch.behaviour_log_prob[0].long() // NUM_ENVS - 1
    column = batch.behaviour_log_prob[0].long() % NUM_ENVS
    walk.replay.write_back(batch.slot, 1000 * row + column, version=20)
    written = {(int(r) + walk.replay.stride, int(b)): int(1000 * r + b) for r, b in zip(row, column, strict=True)}
    after, seen = walk.replay.sample(200, version=21), 0
    for n, number in enumerate(after.behaviour_log_prob[0].long().tolist()):
        start = (number // NUM_ENVS - 1, number % NUM_ENVS)
        assert (int(after.state[n]) == written.get(start)) == (start in written)
        assert (int(after.age[n]) == 1) == (start in written)
        seen += start in written
    assert seen > 0


# Breaks if `begins` takes the oldest first row (`amax`), `longest` is one less, or histories that began before the
# oldest row count as whole.
@pytest.mark.parametrize(("capacity", "limit"), [(300, 10_000), (60, 10_000), (300, 2)])
def test_histories_by_hand(capacity, limit):
    walk = Walk(capacity, 3, 0, 1, rollout_length=5)
    for turn in range(16):
        walk.act()
        if turn % 4 == 3:
            walk.interrupt()
        batch = walk.replay.sample(12)
        before, whole = walk.replay.history(batch.slot, limit)
        step = batch.inputs.observation[0, :, 1].long()  # the rows that came before, in the episode
        number, at = batch.behaviour_log_prob.max(0)
        row = number.long() // NUM_ENVS - 1 - at
        oldest = max(walk.num_rows - walk.replay.capacity, 0)
        assert torch.equal(whole, (step <= limit) & (row - step >= oldest))
        if not whole.any():
            continue
        assert len(before.is_first) == step[whole].max()
        for n in whole.nonzero().flatten().tolist():
            rows = before.observation[len(before.is_first) - step[n] :, n]
            assert rows[:, 1].tolist() == list(range(step[n]))
            assert (rows[:, 0] == batch.inputs.observation[0, n, 0]).all()
        if len(before.is_first):
            _, state = walk.agent.unroll(before, walk.agent.initial_state(12))
            going_on = whole & (step > 0)
            assert torch.equal(state[going_on], step[going_on])


# Breaks if only NaN is found, or only infinity.
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_priorities_that_are_not_finite_are_refused(bad):
    replay = Walk(60, 4).replay_of(20)
    batch = replay.sample(3)
    with pytest.raises(UserError, match=rf"a priority is {bad}: the update diverged"):
        replay.set_priority(batch.slot, torch.tensor([1.0, bad, 2.0]))
    replay.sample(3)
