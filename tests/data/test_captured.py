"""Acting from a CUDA graph equals acting without one, bit for bit; and where it is done at all."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from seqrl.agent import Agent
from seqrl.data import Rollout, captured, rollout
from seqrl.envs import make
from seqrl.envs.wrappers import ObservationWrapper
from seqrl.errors import UserError
from seqrl.memory import make_memory
from seqrl.nets import ActionValueHead, Encoder, PolicyHead, ValueHead
from seqrl.trajectory import tree_flatten, tree_map

NUM_STEPS, NUM_ENVS = 16, 6  # two rollouts of 16 end where an episode of 10 does, on a masked row
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def make_rollout(memory="gru", env="seqrl/TMaze-v0", device="cpu", autocast=None, captures=True, rho=0.0, **options):
    environment = make(env, NUM_ENVS, device=device, **options)
    observation_space, action_space = environment.single_observation_space, environment.single_action_space
    torch.manual_seed(0)
    heads = {"policy": PolicyHead(16, action_space), "value": ValueHead(16)}
    nn.init.normal_(heads["policy"].linear.weight)  # so that actions differ from row to row
    box = hasattr(observation_space, "low")
    encoder = Encoder(observation_space, 16, normalize=box)
    extras = {"use_previous_action": True, "use_previous_reward": True, "autocast": autocast}
    agent = Agent(observation_space, action_space, encoder, make_memory(memory, 16, 16), heads, **extras).to(device)
    made = Rollout(environment, agent, 0, rho)
    made.captures = captures
    return made


def change(agent, trajectory):
    """What an update does: weights and statistics change where they are."""
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.mul_(1.1)
    agent.update_statistics(trajectory)


def collects(made, number, num_steps=NUM_STEPS):
    """The leaves of some trajectories, the episodes, and what the rollout and its environment hold in the end."""
    found = []
    for _ in range(number):
        trajectory, episodes = made.collect(num_steps, (0, 5))
        found.append((tree_flatten(trajectory), episodes))
        change(made.agent, trajectory)
    return [*found, (tree_flatten((made.state_dict(), made.environment.state_dict())), None)]


def assert_same(found, expected):
    for (leaves, episodes), (expected_leaves, expected_episodes) in zip(found, expected, strict=True):
        assert episodes == expected_episodes
        assert leaves.keys() == expected_leaves.keys()
        different = [name for name, leaf in leaves.items() if not torch.equal(leaf, expected_leaves[name])]
        assert not different


class Rerun(captured.Captured):
    """Runs the loop again in place of a graph: into the same memory each time, and unseen by Python's objects."""

    made: Rollout
    number = 0
    generators = ()

    def __init__(self, loop, carry, generators, device):
        type(self).number += 1
        type(self).generators = generators
        self._carry = tree_map(torch.clone, carry)
        self.loop, self._results = loop, None
        environment = captured.on_device(self.made.agent, self.made.environment).environment
        names = {
            self.made: ("inputs", "state", "mask", "noise"),
            environment: ("_ended",),
            environment._env: ("state",),
        }
        self.then = {owner: {name: getattr(owner, name) for name in own} for owner, own in names.items()}

    def _run(self):
        self.as_at_the_capture()
        results = self.loop(self._carry)
        self.as_at_the_capture()
        if self._results is None:
            self._results = results
        else:
            tree_map(lambda static, leaf: static.copy_(leaf), self._results, results)

    def as_at_the_capture(self):
        for owner, attributes in self.then.items():
            vars(owner).update(attributes)


def stand_in(monkeypatch, made):
    """Let `made` capture on the CPU."""
    monkeypatch.setattr(captured, "DEVICES", ("cpu",))
    monkeypatch.setattr(Rerun, "made", made, raising=False)
    monkeypatch.setattr(Rerun, "number", 0)
    monkeypatch.setattr(rollout, "Captured", Rerun)
    return made


CPU_CASES = [
    {"memory": "gru"},
    {"memory": "none", "env": "seqrl/MaskedCartPole-v0", "flicker": 0.3, "env_kwargs": {"max_episode_steps": 10}},
    {"memory": "linear", "env": "seqrl/MaskedPendulum-v0", "rho": 0.7, "env_kwargs": {"max_episode_steps": 10}},
]


# Breaks if `_carry` leaves out the memory's state, the inputs, the mask, the noise or the environments, or `replay`
# does not clone its results or copies no carry; or if the wrapper's generator is left out of `generators`.
@pytest.mark.parametrize("case", CPU_CASES, ids=lambda case: case["memory"])
def test_what_a_graph_begins_with_and_hands_on(monkeypatch, case):
    expected = collects(make_rollout(**case), 5)
    made = stand_in(monkeypatch, make_rollout(**case))
    assert_same(collects(made, 5), expected)
    assert Rerun.number == 1
    wrapper = [made.environment.generator] if "flicker" in case else []
    drawn_from = [made.generator, *wrapper, captured.on_device(made.agent, made.environment).environment._env.generator]
    assert all(one is other for one, other in zip(Rerun.generators, drawn_from, strict=True))


# Breaks if the rows or the number of steps are left out of `asked`, or capturing does not wait for a second time.
def test_another_loop_is_captured_anew_the_second_time(monkeypatch):
    asked = [(8, (0,)), (8, (0, 4)), (8, (0,)), (8, (0,)), (4, (0,)), (4, (0,)), (4, (0,))]
    captures = [0, 0, 0, 1, 1, 2, 2]
    expected = make_rollout(captures=False)
    made = stand_in(monkeypatch, make_rollout())
    for (num_steps, rows), number in zip(asked, captures, strict=True):
        leaves, found = (tree_flatten(each.collect(num_steps, rows)[0]) for each in (expected, made))
        assert all(torch.equal(found[name], leaf) for name, leaf in leaves.items())
        assert Rerun.number == number


# Breaks if `places` is left out of `asked`, or holds no buffers.
@pytest.mark.parametrize("kind", ["parameters", "buffers"])
def test_moved_weights_and_statistics_are_captured_anew(monkeypatch, kind):
    made = stand_in(monkeypatch, make_rollout())
    for _ in range(3):
        made.collect(4)
    assert Rerun.number == 1
    moved = next(getattr(made.agent, kind)())
    moved.data = moved.data.clone()
    made.collect(4)
    assert made._captured is None


# Breaks if `on_device` asks for no type of device, or `captures` is not asked.
def test_a_cpu_acts_without_a_graph(monkeypatch):
    def refused(*_):
        raise AssertionError("captured")

    monkeypatch.setattr(rollout, "Captured", refused)
    collects(make_rollout(), 3)
    made = make_rollout(captures=False)
    monkeypatch.setattr(captured, "DEVICES", ("cpu",))
    collects(made, 3)


class Seen(ObservationWrapper):
    def observe(self, observation):
        return observation


# Breaks without the check of the memory, of the heads, of wrappers, of the environment's kind, of its `step`,
# of `reads_back`, or of `explore`, in this order.
def test_what_might_read_a_value_back_is_not_captured(monkeypatch):
    monkeypatch.setattr(captured, "DEVICES", ("cpu",))
    made = make_rollout()
    assert captured.on_device(made.agent, made.environment) is not None
    assert captured.on_device(make_rollout("transformer").agent, made.environment) is None
    greedy = copy.deepcopy(made.agent)
    greedy.heads["policy"] = ActionValueHead(16, greedy.action_space)
    assert captured.on_device(greedy, made.environment) is None
    seen = Seen(made.environment, made.environment.single_observation_space)
    assert captured.on_device(made.agent, seen) is None
    gymnasium = make("seqrl/TMaze-v0", 2, vectorization="sync")
    assert captured.on_device(made.agent, gymnasium) is None
    inner = made.environment._env
    with monkeypatch.context() as patch:
        patch.setattr(type(inner), "step", lambda self, action: None, raising=False)
        assert captured.on_device(made.agent, made.environment) is None
    with monkeypatch.context() as patch:
        patch.setattr(type(inner), "reads_back", True, raising=False)
        assert captured.on_device(made.agent, made.environment) is None
    monkeypatch.setattr(rollout, "Captured", None)
    made.explore = lambda policy: policy
    for _ in range(3):
        made.collect(4)


CASES = [
    (memory, env, autocast)
    for memory in ("none", "gru", "lstm", "linear", "frame_stack")
    for env in ("seqrl/MaskedCartPole-v0", "seqrl/TMaze-v0")
    for autocast in (None, torch.bfloat16)
]
CASES += [("linear_attention", "seqrl/TMaze-v0", None), ("gru", "seqrl/RepeatPrevious-v0", None)]


# Breaks if a generator is not registered, or `replay` does not clone its results; with bfloat16, if `minus_one` in the
# kernels comes from the host.
@on_cuda
@pytest.mark.parametrize(("memory", "env", "autocast"), CASES)
def test_a_graph_gives_what_acting_without_one_gives(memory, env, autocast):
    expected = collects(make_rollout(memory, env, "cuda", autocast, captures=False), 4)
    made = make_rollout(memory, env, "cuda", autocast)
    assert_same(collects(made, 4), expected)
    assert made._captured is not None


# Breaks if `_carry` leaves out the noise, or `generators` the wrapper's.
@on_cuda
@pytest.mark.parametrize("options", [{"flicker": 0.3}, {"noise": 0.1}, {"rho": 0.7}, {"hide": (1,)}])
def test_wrappers_and_correlated_noise_in_a_graph(options):
    case = {"env": "seqrl/MaskedPendulum-v0", "device": "cuda", "env_kwargs": {"max_episode_steps": 10}, **options}
    expected = collects(make_rollout(**case, captures=False), 5)
    made = make_rollout(**case)
    assert_same(collects(made, 5), expected)
    assert made._captured is not None


# Breaks if a graph keeps the state, or the generators' state, of its capture: `replay` copies no carry.
@on_cuda
@pytest.mark.parametrize("memory", ["none", "lstm"])
def test_saved_and_loaded_in_between(memory):
    made = make_rollout(memory, device="cuda")
    collects(made, 3)
    saved = copy.deepcopy((made.state_dict(), made.environment.state_dict(), made.agent.state_dict()))
    expected = collects(made, 3)
    for other in (made, make_rollout(memory, device="cuda")):
        for part, state in zip((other, other.environment, other.agent), saved, strict=True):
            part.load_state_dict(state)
        assert_same(collects(other, 3), expected)


# Breaks if a transformer is among `MEMORIES`.
@on_cuda
def test_a_transformer_acts_without_a_graph():
    made = make_rollout("transformer", device="cuda")
    expected = collects(make_rollout("transformer", device="cuda", captures=False), 3)
    assert_same(collects(made, 3), expected)
    assert made._captured is None


# Breaks if the error is not caught, the cause is not told, or too little memory is taken for a value read back.
@pytest.mark.parametrize(
    ("raised", "shown", "message"),
    [
        (RuntimeError, UserError, r"reads a value back from cuda.*not permitted\): let"),
        (torch.OutOfMemoryError, torch.OutOfMemoryError, "not permitted"),
    ],
)
def test_a_step_that_reads_back_is_refused_in_one_line(monkeypatch, raised, shown, message):
    class Refusing:
        def __enter__(self):
            pass

        def __exit__(self, *args):
            raise RuntimeError("invalidated")  # as PyTorch does, while the cause is on its way out

    def loop(carry):
        raise raised("operation not permitted\nand more")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda it: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: Refusing())
    with pytest.raises(shown, match=message) as refused:
        captured.Captured(loop, (torch.zeros(1),), [], torch.device("cuda"))
    assert shown is not UserError or "\n" not in str(refused.value)
