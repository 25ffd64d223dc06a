"""Atari: the rows that ALE's own vector environment gives, flicker on its frames, and a replay that keeps each once."""

import sys

import pytest
import torch
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space

from seqrl.algorithms import r2d2
from seqrl.data import Replay, Rollout
from seqrl.envs.adapters import GymnasiumEnvironment
from seqrl.envs.make import make
from seqrl.envs.wrappers import Flicker
from seqrl.errors import UserError
from seqrl.memory import FrameStack

PONG = "ALE/Pong-v5"
STILL = {"noop_max": 0}  # episodes begin at once, without up to 30 no-ops
SHORT = STILL | {"max_num_frames_per_episode": 24}


@pytest.fixture(autouse=True)
def _needs_ale(request):
    if "without_ale" not in request.node.name:
        pytest.importorskip("ale_py")


def run(env, num_steps, seed=0):
    """Time steps under random actions."""
    actions = batch_space(env.single_action_space, env.num_envs)
    actions.seed(1)
    return [env.reset(seed)] + [env.step(torch.as_tensor(actions.sample())) for _ in range(num_steps)]


def frames(steps):
    return torch.stack([step.observation for step in steps])


def test_without_ale_py_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UserError, match=rf"^'{PONG}' needs ale-py .*pip install 'seqrl\[atari\]'$") as error:
        make(PONG, 1)
    assert "\n" not in str(error.value)


# Must break: in arguments, `"stack_num": 1` left out (ALE's own default stacks four frames).
def test_a_step_shows_one_gray_frame_of_bytes():
    env = make(PONG, 2, env_kwargs=STILL)
    step = run(env, 1)[-1]
    assert isinstance(env, GymnasiumEnvironment)
    assert (step.observation.shape, step.observation.dtype) == ((2, 1, 84, 84), torch.uint8)
    assert env.single_observation_space.shape == (1, 84, 84)
    assert env.single_action_space.n == 6
    assert env.state_dict() is None
    env.close()


# Must break: in arguments, `env_kwargs` put before our defaults.
def test_arguments_of_the_environment_are_passed_on():
    env = make(PONG, 1, env_kwargs=STILL | {"stack_num": 2, "img_height": 40, "full_action_space": True})
    assert env.single_observation_space.shape == (2, 40, 84)
    assert env.single_action_space.n == 18


# Must break: in arguments, `"reward_clipping": False` left out.
def test_rewards_are_the_games_unless_clipped():
    # Skiing counts the hundredths of a second that have gone by, as a loss.
    environments = [make("ALE/Skiing-v5", 1, env_kwargs=STILL | more) for more in ({}, {"reward_clipping": True})]
    game, clipped = (torch.stack([step.reward for step in run(env, 3)[1:]]) for env in environments)
    assert (game < -1).all()
    assert torch.equal(clipped, game.sign())


# Must break: in GymnasiumEnvironment.step, `is_first, mask = was_ended, ~self._ended` with `mask = ~was_ended`.
def test_the_masked_row_shows_the_final_observation_and_the_next_one_begins_an_episode():
    steps = run(make(PONG, 2, env_kwargs=SHORT), 20)
    ended = torch.stack([step.truncated for step in steps])
    mask, is_first = torch.stack([step.mask for step in steps]), torch.stack([step.is_first for step in steps])
    assert not any(step.terminated.any() for step in steps)
    # 24 frames less the one that fires at the start: 6 steps an episode, the last of them truncated.
    assert ended[:, 0].nonzero().flatten().tolist() == [6, 13, 20]
    assert torch.equal(mask, ~ended)
    assert is_first[:, 0].nonzero().flatten().tolist() == [0, 7, 14]
    # The final observation goes on from the frame before it; the first one of the next episode is another screen.
    seen = frames(steps)[:, 0, 0].int()
    changed = (seen[1:] != seen[:-1]).float().mean((1, 2))
    assert changed[5] < 0.05
    assert changed[6] > 0.5


# Must break: in arguments, the autoreset mode left out.
def test_in_both_autoreset_modes_an_episode_is_the_same_row_for_row():
    def episode(mode):
        steps = run(make(PONG, 1, autoreset_mode=mode, env_kwargs=SHORT), 6)
        last = steps[-1]
        final = last.observation if last.final_observation is None else last.final_observation
        assert last.truncated.all()
        assert last.is_first.all() == (mode == "same_step")
        return torch.cat([frames(steps[:-1]), final[None]])

    assert torch.equal(episode("next_step"), episode("same_step"))


# Must break: in Seeded.reset, `seeds` replaced by `seed`.
def test_any_seed_is_reproduced_and_shared_by_no_other_environment():
    env = make(PONG, 2, env_kwargs=STILL)

    def start(seed):
        return frames([env.reset(seed)] + [env.step(torch.full((2,), 2 + t % 2)) for t in range(25)])

    first = start(5_000_015_000)
    assert torch.equal(start(5_000_015_000), first)
    columns = [column.flatten() for run_ in (first, start(3), start(4)) for column in run_.unbind(1)]
    assert len(torch.stack(columns).unique(dim=0)) == 6


# Must break: in register, the line that gives AtariVectorEnv a dict of its own.
def test_other_vector_environments_keep_their_own_metadata():
    make(PONG, 1, env_kwargs=STILL)
    assert "autoreset_mode" not in VectorEnv.metadata


# Must break: in _show, `leaf * shown` given as `leaf`.
def test_flicker_blanks_whole_frames_and_follows_the_seed():
    blinking = make(PONG, 2, env_kwargs=STILL, flicker=0.5)
    assert isinstance(blinking, Flicker)
    seen, shown = frames(run(blinking.env, 25)), frames(run(blinking, 25))
    assert shown.dtype == torch.uint8
    blank = (shown == 0).flatten(2).all(-1)
    assert torch.equal(shown, seen * ~blank[..., None, None, None])
    assert 0.25 < blank.float().mean() < 0.75  # 52 draws: 3.6 standard deviations
    assert torch.equal(frames(run(blinking, 25)), shown)
    assert not torch.equal((frames(run(blinking, 25, seed=1)) == 0).flatten(2).all(-1), blank)


# Must break: in arguments, `"stack_num": 1` given as 4: four times the bytes.
def test_a_replay_keeps_each_frame_once_and_the_stack_is_made_from_it():
    config = r2d2.Config(env=PONG, num_envs=2, memory="frame_stack", start_state="zero", hidden_size=16)
    env = make(PONG, 2, flicker=0.5, env_kwargs=SHORT)
    agent = r2d2.build(config, env.single_observation_space, env.single_action_space)
    assert isinstance(agent.memory, FrameStack)
    rollout, replay = Rollout(env, agent, seed=0), Replay(40, 2, length=8, stores_states=False, priority_exponent=0)
    trajectory, _ = rollout.collect(20, replay.state_rows(20))
    replay.add(trajectory)
    leaf = replay.storage.leaves.inputs.observation
    assert leaf.shape[2:] == (1, 84, 84)
    assert leaf.dtype == torch.uint8
    rest = replay.storage.leaves._replace(
        inputs=replay.storage.leaves.inputs._replace(observation=leaf[:, :, 0, 0, :0])
    )
    row = sum(part[0, 0].nbytes for part in torch.utils._pytree.tree_leaves(rest))
    assert leaf[0, 0].nbytes == 84 * 84
    assert row < 64
    batch = replay.sample(4)
    assert not batch.mask.all()  # the ends of episodes are among the rows
    # A value depends on the last four frames of its own episode, and on none before.
    inputs = trajectory.inputs._replace(observation=trajectory.inputs.observation.clone())
    before = agent.unroll(inputs, agent.initial_state(2))[0]["policy"].values
    inputs.observation[10] = 255
    after = agent.unroll(inputs, agent.initial_state(2))[0]["policy"].values
    changed = (before != after).any(-1)
    episode = inputs.is_first.cumsum(0)
    expected = torch.zeros_like(changed)
    expected[10:14] = episode[10:14] == episode[10]
    assert torch.equal(changed, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env_id": "ALE/Pongo-v5"}, r"^unknown environment 'ALE/Pongo-v5' \(--env\): did you mean 'ALE/Pong-v5'"),
        ({"autoreset_mode": "disabled"}, "always resets by itself; give next_step or same_step"),
        ({"vectorization": "async"}, "is stepped as one batch by ALE; give auto"),
        ({"env_kwargs": {"batch_size": 1}}, "batch_size=1: 'ALE/Pong-v5' must step all its environments together"),
        ({"env_kwargs": {"colour": 1}}, "^cannot make environment 'ALE/Pong-v5': .*unexpected keyword argument"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(UserError, match=message) as error:
        make(**({"env_id": PONG, "num_envs": 2} | options))
    assert "\n" not in str(error.value)
