"""A critic that sees, while training, what is hidden from the actor; and that nobody else needs what it sees."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from seqrl.actor_critic import ActorCritic, Seeing
from seqrl.algorithms import load, ppo, recurrent_sac, train
from seqrl.cli import main
from seqrl.comparison.config import Config, check
from seqrl.config import make_environment
from seqrl.data.rollout import Rollout
from seqrl.envs import make
from seqrl.envs.privileged import PRIVILEGED, SEEN
from seqrl.errors import UserError
from seqrl.export import export_agent
from seqrl.inspection.episodes import inspect
from seqrl.replay_config import make_replay
from seqrl.trajectory import TimeStep, tree_map
from tests.interrupted import ends_the_same

HIDDEN: dict[str, Any] = {"hide": (1, 3), "flicker": 0.3, "noise": 0.1}


def config(**changes: Any) -> ppo.Config:
    settings = {"env": "CartPole-v1", "hide": (1, 3), "num_envs": 4, "rollout_length": 8, "hidden_size": 8}
    return ppo.Config(**{**settings, "num_steps": 320, "separate_critic": True, "privileged_critic": True, **changes})


def sac(**changes: Any) -> recurrent_sac.Config:
    settings = {"env": "Pendulum-v1", "hide": (2,), "num_envs": 2, "rollout_length": 8, "hidden_size": 8}
    settings |= {"num_steps": 160, "learning_starts": 64, "length": 6, "overlap": 2, "burn_in": 3, "replay_ratio": 12.0}
    return recurrent_sac.Config(**{**settings, "batch_size": 4, "privileged_critic": True, **changes})


def built(settings: ppo.Config) -> ActorCritic:
    with closing(make_environment(settings, privileged=settings.privileged_critic)) as environment:
        agent = ppo.build(settings, environment.single_observation_space, environment.single_action_space)
    assert isinstance(agent, ActorCritic)
    return agent


def played(env_id: str, **options: Any) -> list[TimeStep]:
    with closing(make(env_id, 3, **options)) as env:
        return [env.reset(5), *(env.step(torch.tensor([1, 1, t % 2])) for t in range(30))]


# Break: draws of the wrappers that are not those of the same without `privileged`; the whole of what was seen before an
# end, or what is seen in place of the whole.
@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_both_are_what_they_are_alone(mode: Any) -> None:
    both = played("CartPole-v1", autoreset_mode=mode, privileged=True, **HIDDEN)
    seen, whole = played("CartPole-v1", autoreset_mode=mode, **HIDDEN), played("CartPole-v1", autoreset_mode=mode)
    assert any(step.terminated.any() for step in both)
    for step, one, other in zip(both, seen, whole, strict=True):
        assert torch.equal(step.observation[SEEN], one.observation)
        assert torch.equal(step.observation[PRIVILEGED], other.observation)
        for name in ("reward", "terminated", "truncated", "is_first", "mask"):
            assert torch.equal(getattr(step, name), getattr(one, name))
        assert (step.final_observation is None) == (other.final_observation is None)
        if step.final_observation is not None:
            assert torch.equal(step.final_observation[SEEN], one.final_observation)
            assert torch.equal(step.final_observation[PRIVILEGED], other.final_observation)


def test_what_is_saved_goes_on() -> None:
    def ten(env: Any) -> list[Any]:
        return [env.step(torch.zeros(3, 1)).observation for _ in range(10)]

    with closing(make("seqrl/MaskedPendulum-v0", 3, privileged=True, **HIDDEN | {"hide": (1,)})) as env:
        env.reset(5)
        state = env.state_dict()
        assert state is not None
        straight = ten(env)
        env.load_state_dict(state)
        tree_map(
            lambda one, other: torch.testing.assert_close(one, other, rtol=0, atol=0), tuple(straight), tuple(ten(env))
        )


# Break: hand the actor what the critic reads, or the critic what the actor does.
def test_the_policy_rests_on_what_the_actor_sees_and_the_value_on_all() -> None:
    settings = config()
    agent = built(settings)
    assert [part.encoder.encoders[0].size for part in (agent.actor, agent.critic)] == [2, 4]
    with closing(make_environment(settings, privileged=True)) as environment:
        inputs = agent.initial_input(environment.reset(0).observation)
    for key, moves in ((SEEN, (True, False)), (PRIVILEGED, (False, True))):
        leaf = inputs.observation[key].clone().requires_grad_()
        outputs, _ = agent.step(inputs._replace(observation=inputs.observation | {key: leaf}), agent.initial_state(4))
        for said, moved in zip((outputs["policy"].log_probs[..., 0], outputs["value"]), moves, strict=True):
            gradient = torch.autograd.grad(said.sum(), leaf, retain_graph=True, allow_unused=True)[0]
            assert (gradient is not None and bool(gradient.abs().sum() > 0)) == moved


# Break: hand the actor all rows as they are shown to critics, or critics those of the actor.
def test_critics_of_replayed_rows_judge_by_all_and_the_actor_acts_by_what_it_sees(tmp_path: Path) -> None:
    settings = sac(run_dir=str(tmp_path))
    with closing(make_environment(settings, privileged=True)) as environment:
        spaces = environment.single_observation_space, environment.single_action_space
        networks = recurrent_sac.build_networks(settings, *spaces)
        rollout = Rollout(environment, Seeing(networks.actor), 0)
        replay = make_replay(settings, stores_states=False)
        replay.add(rollout.collect(20)[0])
    assert [part.encoder.encoders[0].size for part in (networks.actor, networks.critic.agent)] == [2, 3]
    batch = replay.sample(4)
    seen, judged = (batch.inputs.observation[key].requires_grad_() for key in (SEEN, PRIVILEGED))
    with torch.no_grad():  # so that the values of an action depend on the action
        for parameter in networks.critic.parameters():
            parameter.add_(0.3)
    losses, _ = recurrent_sac.loss(networks, batch, settings, torch.Generator().manual_seed(0))
    reached = [torch.autograd.grad(part, (seen, judged), retain_graph=True, allow_unused=True) for part in losses[:2]]
    moved = [[leaf is not None and bool(leaf.abs().sum() > 0) for leaf in pair] for pair in reached]
    assert moved == [[True, False], [False, True]]


# Break: standardise what the actor sees by the statistics of all; or leave `split_space` out of `build_networks`.
def test_sac_trained_it_needs_the_actor_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = train(sac(run_dir=str(run), num_evaluations=2, evaluation_episodes=2, keep="best"))
    assert len(trained.encoder.encoders[0].norm.mean) == 2
    assert float(trained.encoder.encoders[0].norm.count) > 0
    observation = np.zeros(2, np.float32)
    assert np.array_equal(load(run).act(observation), trained.act(observation))
    assert main(["evaluate", str(run), "--num-episodes", "2"]) == 0


# Break: let the critics' being shown more change what the actor draws.
def test_sac_acts_at_first_as_without(tmp_path: Path) -> None:
    actions = []
    for privileged in (True, False):
        settings = sac(privileged_critic=privileged)
        with closing(make_environment(settings, privileged=privileged)) as environment:
            spaces = environment.single_observation_space, environment.single_action_space
            actor = recurrent_sac.build(settings, *spaces)
            actions.append(Rollout(environment, Seeing(actor) if privileged else actor, 0).collect(16)[0].action)
    assert torch.equal(*actions)


# Break: draw the critic's weights first, and the actor begins as another.
def test_it_acts_at_first_as_without() -> None:
    actions = []
    for privileged in (True, False):
        settings = config(privileged_critic=privileged)
        with closing(make_environment(settings, privileged=privileged)) as environment:
            actions.append(Rollout(environment, built(settings), 0).collect(16)[0].action)
    assert torch.equal(*actions)


# Break: leave `_parted` out of `update_statistics`, or let `load` build by what the actor sees alone.
def test_trained_it_needs_the_actor_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    settings = config(run_dir=str(run), num_evaluations=2, evaluation_episodes=2, keep="best")
    trained = train(settings)
    norms = [part.encoder.encoders[0].norm for part in (trained.actor, trained.critic)]
    assert [len(norm.mean) for norm in norms] == [2, 4]
    assert float(norms[0].count) == float(norms[1].count) > 0
    agent = load(run)
    observation = np.zeros(2, np.float32)
    assert agent.act(observation) == trained.act(observation)
    assert agent.observation_space.shape == (2,)
    assert main(["evaluate", str(run), "--num-episodes", "2"]) == 0
    exported = export_agent(agent, tmp_path / "agent.pt2", "torch", num_steps=20)
    assert [name for name, *_ in exported.about["inputs"] if name.startswith("observation")] == ["observation"]
    with closing(make_environment(settings, 1)) as environment:
        episode = inspect(agent, environment, 1, seed=5)[0]
    assert episode.value is None
    assert main(["inspect", str(run), "--num-episodes", "1"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("changes", [{}, {"flicker": 0.3, "bptt_length": 4, "burn_in": 2}])
def test_interrupted_it_ends_bit_for_bit_the_same(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_the_same(config(checkpoint_every=3, **changes), tmp_path, monkeypatch, at=7 * 32)


@pytest.mark.parametrize("memory", ["", "none"])
def test_sac_interrupted_ends_bit_for_bit_the_same(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_the_same(sac(checkpoint_every=3, critic_memory=memory), tmp_path, monkeypatch, at=7 * 16)


# Break: give the critics the actor's memory in any case, or its arguments to theirs; or let the actor have theirs.
def test_critics_may_have_another_memory() -> None:
    box, action = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Box(-1, 1, (1,))
    settings = sac(privileged_critic=False, memory="transformer", memory_kwargs=("num_layers=1",))
    memories = []
    for critic in ("", "none", "gru"):
        networks = recurrent_sac.build_networks(replace(settings, critic_memory=critic), box, action)
        memories.append([type(each.memory).__name__ for each in (networks.actor, networks.critic.agent)])
    assert memories == [["Transformer", name] for name in ("Transformer", "NoMemory", "GRU")]
    with pytest.raises(UserError, match=r"unknown memory 'grü' \(--critic-memory\)"):
        train(sac(critic_memory="grü"))


# Break: compare spaces first, whose difference says nothing of the setting that it comes from.
def test_another_run_starts_from_it(tmp_path: Path) -> None:
    earlier = config(run_dir=str(tmp_path / "earlier"))
    train(earlier)
    later = replace(earlier, run_dir=str(tmp_path / "later"), start_from=str(tmp_path / "earlier"))
    train(replace(later, noise=0.1))
    with pytest.raises(UserError, match="has --privileged-critic True, not False: give the same"):
        train(replace(later, run_dir=str(tmp_path / "other"), privileged_critic=False))


class Robot(gym.Env):
    """Its speed is under a key of its own, and decides what it is paid."""

    observation_space = gym.spaces.Dict(
        place=gym.spaces.Box(-1, 1, (2,)), speed=gym.spaces.Box(-1, 1, (1,)), action_mask=gym.spaces.MultiBinary(3)
    )
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.seen(), {}

    def seen(self) -> dict[str, Any]:
        return {
            "place": np.zeros(2, np.float32),
            "speed": np.full(1, self.time / 9, np.float32),
            "action_mask": np.array([1, 0, 1], np.int8),
        }

    def step(self, action: Any) -> Any:
        assert action != 1
        self.time += 1
        return self.seen(), 1.0, self.time == 9, False, {}


gym.register("tests/SpeedingRobot-v0", Robot)


def test_a_key_is_hidden_and_a_mask_is_kept(tmp_path: Path) -> None:
    agent = train(config(env="tests/SpeedingRobot-v0", hide=("speed",), run_dir=str(tmp_path / "run")))
    assert set(agent.observation_space.spaces) == {"place", "action_mask"}
    assert load(tmp_path / "run").act({"place": np.zeros(2), "action_mask": np.array([0, 0, 1])}) == 2


def test_comparisons_check_it() -> None:
    check(Config(memories=("none", "gru"), settings=config(run_dir="runs/none")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"separate_critic": False}, "--privileged-critic without --separate-critic"),
        ({"hide": ()}, "nothing is kept from the policy: give --hide, --flicker or --noise"),
        ({"record": "log"}, "--privileged-critic with --record"),
        (
            {"env": "seqrl/TabularMDP-v0", "hide": (), "flicker": 0.1, "learn_from_regret": True},
            "--privileged-critic with --learn-from-regret",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(replace(config(), **changes))


def test_sac_has_nothing_to_show_where_nothing_is_hidden() -> None:
    with pytest.raises(UserError, match="nothing is kept from the policy"):
        train(sac(hide=()))
