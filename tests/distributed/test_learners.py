"""Several learners are one: the gradient, weights and statistics of the joined batch, and one end for all."""

import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_faults import alive, wait_until
from torch import nn

from seqrl.algorithms import impala, resume, train
from seqrl.checkpoint import load_checkpoint, save_checkpoint
from seqrl.cli import main
from seqrl.distributed import Group, launch, spawn
from seqrl.errors import UserError
from seqrl.learner import Learner
from seqrl.nets import RewardScale, RunningNorm
from seqrl.objectives import masked_mean
from seqrl.run import Run
from seqrl.run_folder import CHECKPOINT, read_metrics
from seqrl.trajectory import tree_flatten

pytestmark = pytest.mark.usefixtures("quick_start")

NUM_UPDATES = 8
ROWS = (11, 4)  # of the two learners: their batches do not have equally many


def rows_of(rank, update):
    """Rows [N, 3], a mask [N], and rewards [T, 2] with where episodes begin, of one learner in one update."""
    generator = torch.Generator().manual_seed(10 * update + rank)
    x = torch.randn(ROWS[rank], 3, generator=generator) * (rank + 1) + 5 * rank
    mask = torch.rand(ROWS[rank], generator=generator) < 0.7
    reward = torch.randn(ROWS[rank], 2, generator=generator) * 3
    return x, mask, reward, torch.rand(ROWS[rank], 2, generator=generator) < 0.3


class Parts:
    """A module, its learner and running statistics, as IMPALA has them."""

    def __init__(self, group):
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.learner = Learner(self.module, 0.05, 0.5, group.average)
        self.norm, self.scale = RunningNorm(3), RewardScale(4, 0.9)
        group.join(self.norm, self.scale)

    def update(self, x, mask):
        loss = masked_mean(self.module(self.norm(x)).squeeze(-1).square(), mask)
        return self.learner.update(loss, mask.sum())

    def state(self):
        norm = self.scale.norm.state_dict()
        return {"module": self.module.state_dict(), "norm": self.norm.state_dict(), "scale": norm} | {
            "learner": self.learner.state_dict(),
            "gradient": tuple(p.grad for p in self.module.parameters()),
        }


def one_of_two(group, folder):
    """A learner's work: `NUM_UPDATES` updates, the state after each saved."""
    parts = Parts(group)
    for update in range(NUM_UPDATES):
        x, mask, reward, is_first = rows_of(group.rank, update)
        parts.norm.update(x[mask])
        parts.scale.update(reward, is_first, mask[:, None].expand(-1, 2), 2 * group.rank)
        norm = parts.update(x, mask)
        save_checkpoint(folder / f"{group.rank}_{update}", {**parts.state(), "grad_norm": norm}, {})


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    spawn(one_of_two, 2, folder)
    return [[load_checkpoint(folder / f"{rank}_{k}")[0] for k in range(NUM_UPDATES)] for rank in (0, 1)]


def test_both_learners_hold_the_same_bits(two):
    """Breaks if each learner merges its own rows first, or clips before it averages."""
    for one, other in zip(*two, strict=True):
        one, other = tree_flatten(one), tree_flatten(other)
        assert one.keys() == other.keys()
        assert not [name for name in one if not torch.equal(one[name], other[name])]


# Breaks with weights of 1 in `average` (the two masks leave different numbers of rows), with a norm that is not joined,
# or with an update that averages after clipping.
def test_they_are_one_learner_on_the_joined_batch(two):
    parts, single = Parts(Group()), two[0]
    for update in range(NUM_UPDATES):
        first, second = (rows_of(rank, update) for rank in (0, 1))
        x, mask = torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])
        assert first[1].sum() != second[1].sum()
        parts.norm.update(x[mask])
        for rank, (_, own_mask, reward, is_first) in enumerate((first, second)):
            parts.scale.update(reward, is_first, own_mask[:, None].expand(-1, 2), 2 * rank)
        norm = parts.update(x, mask)
        found, expected = single[update], {**parts.state(), "grad_norm": norm}
        for name, leaf in tree_flatten(expected).items():
            torch.testing.assert_close(tree_flatten(found)[name], leaf, rtol=2e-5, atol=1e-6, msg=name)


def odd_group(group, folder):
    """Nothing counts on the second learner, then on none; what is gathered differs in length."""
    module = nn.Linear(2, 1)
    nn.init.ones_(module.weight)
    gradients = [torch.full((2,), 3.0 + group.rank), torch.full((1, 3), float(group.rank))]
    group.average(gradients, torch.tensor(2 * (1 - group.rank)))
    assert [gradient.tolist() for gradient in gradients] == [[3.0, 3.0], [[0.0, 0.0, 0.0]]]
    group.average(gradients, 0.0)
    assert not any(gradient.any() for gradient in gradients)
    norm = RunningNorm(2)
    group.join(norm)
    norm.update(torch.ones(3 * group.rank, 2))
    assert (norm.count.item(), norm.mean.tolist(), norm.variance.tolist()) == (3, [1.0, 1.0], [0.0, 0.0])
    norm.update(torch.ones(0, 2))
    assert norm.count == 3
    value = {"rank": group.rank, "text": "ü" * 1000 * group.rank}
    assert group.gather(value) == [{"rank": 0, "text": ""}, {"rank": 1, "text": "ü" * 1000}]
    assert group.collect(b"mine" * group.rank) == ([b"mine"] if group.rank == 0 else [])
    (folder / str(group.rank)).touch()


def test_learners_without_rows_and_messages_of_any_length(tmp_path):
    spawn(odd_group, 2, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def fail(group, kind):
    if group.rank == 1 and kind != "hang":
        {"user": refuse, "bug": crash, "kill": kill, "exit": leave}[kind]()
    group.gather(group.rank)  # in vain


def refuse():
    raise UserError("environment 1 returned NaN: mend it")


def crash():
    raise KeyError("no such\nroom")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(7)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("user", "learner 1: environment 1 returned NaN: mend it"),
        ("bug", r"learner 1 crashed (KeyError: 'no such\nroom'): continue from the last checkpoint with --resume"),
        ("kill", "learner 1 was killed: continue from the last checkpoint with --resume"),
        ("exit", "learner 1 ended with exit code 7: continue from the last checkpoint with --resume"),
    ],
)
def test_an_error_in_one_ends_all_with_one_line(kind, message):
    """Breaks if the loss of the other learner, which follows, is taken for the cause."""
    with pytest.raises(UserError) as caught:
        spawn(fail, 2, kind)
    assert str(caught.value) == message


def config(**changes):
    defaults = {"env": "seqrl/TMaze-v0", "env_kwargs": ("length=3",), "num_envs": 4, "hidden_size": 8, "num_actors": 4}
    defaults |= {"rollout_length": 8, "batch_size": 4, "num_steps": 128 * NUM_UPDATES, "checkpoint_every": 3}
    return impala.Config(**{**defaults, **changes})


def crash_after(number):
    """Let the `number`th update of this process be its last."""
    log = Run.log

    def counting(self, step, metrics, count=[0]):  # noqa: B006
        log(self, step, metrics)
        count[0] += 1
        if count[0] == number:
            os._exit(9)

    Run.log = counting


def train_and_crash(group, settings, number):
    crash_after(number)
    impala.train_share(group, settings, False)


def same(one, other):
    (tree_1, counters_1), (tree_2, counters_2) = (load_checkpoint(path / CHECKPOINT) for path in (one, other))
    leaves_1, leaves_2 = tree_flatten(tree_1), tree_flatten(tree_2)
    assert counters_1 == counters_2
    assert leaves_1.keys() == leaves_2.keys()
    assert not [name for name in leaves_1 if not torch.equal(leaves_1[name], leaves_2[name])]


# Breaks if two learners' actors share seeds or columns of the scale, or a learner takes another share than its own.
def test_training_by_two_is_training_by_one(tmp_path):
    """With engine sync, in which two learners' four actors act what one learner's do: to rounding."""
    agents = [train(config(num_learners=n, run_dir=str(tmp_path / str(n)))) for n in (1, 2)]
    for one, two in zip(*(agent.state_dict().values() for agent in agents), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    lines = [list(read_metrics(tmp_path / str(n))) for n in (1, 2)]
    assert len(lines[0]) == len(lines[1]) == NUM_UPDATES
    for one, two in zip(*lines, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            if name not in ("steps_per_second", "actor_utilisation", "learner_utilisation"):
                assert one[name] == pytest.approx(two[name], rel=1e-3, abs=1e-3), name


# Breaks if the others' parts are left out of a checkpoint, or loaded before those of the first learner.
@pytest.mark.parametrize("env", ["seqrl/TMaze-v0", "CartPole-v1"])
def test_two_learners_resume_bit_for_bit(tmp_path, env):
    kept = {"num_evaluations": 4, "evaluation_episodes": 2, "keep": "best"}
    settings = config(env=env, env_kwargs=(), replay_share=0.5, replay_capacity=5, num_learners=2, **kept)
    straight = replace(settings, run_dir=str(tmp_path / "straight"))
    train(straight)
    crashed = replace(settings, run_dir=str(tmp_path / "crashed"))
    with pytest.raises(UserError, match="learner 0 ended with exit code 9"):
        spawn(train_and_crash, 2, crashed, 5)
    assert json.loads((tmp_path / "crashed" / "config.json").read_text())["num_actors"] == 4
    resume(crashed.run_dir)
    same(tmp_path / "straight", tmp_path / "crashed")


def flags(folder, *more):
    args = ["train", "impala", "--env", "seqrl/TMaze-v0", "--num-envs", "4", "--hidden-size", "8", "--num-actors", "2"]
    return [*args, "--rollout-length", "8", "--num-learners", "2", "--run-dir", str(folder), *more]


def when_it_trains(folder, action):
    def wait():
        while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").stat().st_size:
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


# Breaks if the learners do not agree on when to stop, or Ctrl-C is not handed on.
def test_ctrl_c_ends_both_and_saves(tmp_path, capsys):
    folder = tmp_path / "run"
    thread = when_it_trains(folder, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert main(flags(folder, "--num-steps", "100000000")) == 130
    thread.join()
    step = list(read_metrics(folder))[-1]["step"]
    assert (
        capsys.readouterr().err
        == f"seqrl: interrupted at step {step:,}; continue with: seqrl train --resume {folder}\n"
    )
    assert not multiprocessing.active_children()
    assert main(["train", "--resume", str(folder), "--num-steps", str(step + 640)]) == 0
    assert list(read_metrics(folder))[-1]["step"] == step + 640


def wait_in_vain(group, folder):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    (folder / str(os.getpid())).touch()
    time.sleep(1000)


def test_a_second_ctrl_c_ends_all_at_once(tmp_path):
    """Breaks if it is handed on too: a learner that waits for another in C++ does not hear it."""

    def twice():
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    thread = threading.Thread(target=twice)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        spawn(wait_in_vain, 2, tmp_path)
    thread.join()
    assert not multiprocessing.active_children()


def spawn_here(folder):
    launch.START = "forkserver"
    spawn(wait_in_vain, 2, folder)


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes under /proc")
def test_learners_end_with_the_process_that_started_them(tmp_path):
    """Breaks without `end_with_parent` in a learner's process."""
    process = multiprocessing.get_context("forkserver").Process(target=spawn_here, args=(tmp_path,))
    process.start()
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    process.kill()
    process.join()
    wait_until(lambda: not [path for path in tmp_path.iterdir() if alive(path.name)], 20)


def drift(group, folder):
    module = nn.Linear(2, 1)
    nn.init.constant_(module.weight, 1.0 + group.rank * 1e-7)
    nn.init.zeros_(module.bias)
    parts = {"agent": module, "scale": RewardScale(1, 0.9)}
    group.add_others(parts, common=("agent",))
    parts["others"].state_dict()


def test_learners_that_drift_apart_are_found_out(tmp_path):
    with pytest.raises(UserError, match=r"learner \d crashed \(AssertionError: the learners hold different weights\)"):
        spawn(drift, 2, tmp_path)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--num-actors", "3"], "--num-actors 3 cannot be shared equally by --num-learners 2: choose a multiple"),
        (["--batch-size", "5"], "--batch-size 5 cannot be shared equally by --num-learners 2"),
        (["--num-learners", "0"], "--num-learners is 0: it must be at least 1"),
        (["--replay-share", "0.5"], "--replay-share 0.5 of --batch-size 2"),
        (["--device", "cuda:0"], "--device cuda:0 with several learners: use cuda"),
        (["--device", "cuda"], "--num-learners 2 on --device cuda: there are 0 GPUs here"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(tmp_path, capsys, args, message):
    folder = tmp_path / "run"
    assert main(flags(folder, *args)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not folder.exists()


def test_what_the_first_learner_refuses_is_said_as_it_is(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert main(flags(tmp_path / "run")) == 2
    assert capsys.readouterr().err.startswith(f"seqrl: {tmp_path / 'run'} exists already (--run-dir)")
