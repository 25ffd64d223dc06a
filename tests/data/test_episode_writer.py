"""EpisodeWriter: episodes that do not fit are refused in one line, and there is never half a dataset."""

import os
import resource
import signal
import tracemalloc

import gymnasium as gym
import numpy as np
import pytest

from seqrl.data import Episode, EpisodeDataset, EpisodeWriter
from seqrl.errors import UserError

VECTOR = gym.spaces.Box(-np.inf, np.inf, (2,))
DISCRETE = gym.spaces.Discrete(3)
MASKED = gym.spaces.Dict(observation=VECTOR, action_mask=gym.spaces.MultiBinary(3))
PARTS = gym.spaces.MultiDiscrete([2, 3])
T = 4


def good(**changes):
    episode = Episode(np.zeros((T + 1, 2), np.float32), np.zeros(T, np.int64), np.ones(T, np.float32), True, False)
    return episode._replace(**changes)


def masked(mask=None, **changes):
    observation = {
        "observation": np.zeros((T + 1, 2)),
        "action_mask": np.ones((T + 1, 3), bool) if mask is None else mask,
    }
    return good(observation=observation)._replace(**changes)


def put(array, place, value):
    array = np.array(array)
    array[place] = value
    return array


OBSERVATION, ACTION, REWARD = np.zeros((T + 1, 2)), np.zeros(T, np.int64), np.ones(T)
IMAGE = gym.spaces.Box(0, 255, (2, 2, 3), np.uint8)
BOX = gym.spaces.Box(-1.0, 1.0, (2,))
ONES = np.ones((T + 1, 3), bool)

# name: the episode, what its message says, the observation space, the action space
MALFORMED = {
    "reward NaN": (good(reward=put(REWARD, 2, np.nan)), "row 2: reward is nan", VECTOR, DISCRETE),
    "reward infinite": (good(reward=put(REWARD, 0, -np.inf)), "row 0: reward is -inf", VECTOR, DISCRETE),
    "reward too large": (good(reward=put(REWARD, 1, 1e300)), "row 1: reward is 1e+300: scale it", VECTOR, DISCRETE),
    "reward strings": (good(reward=np.array(["a"] * T)), "reward is of type <U1: give numbers", VECTOR, DISCRETE),
    "reward objects": (good(reward=np.array([None] * T)), "reward is of type object: give numbers", VECTOR, DISCRETE),
    "reward complex": (good(reward=REWARD * 1j), "reward is of type complex128: give numbers", VECTOR, DISCRETE),
    "reward of pairs": (good(reward=np.ones((T, 2))), "reward has the shape [4, 2]", VECTOR, DISCRETE),
    "reward one number": (good(reward=np.ones(())), "reward has the shape []", VECTOR, DISCRETE),
    "no decision": (good(reward=np.zeros(0), action=np.zeros(0, int)), "is empty", VECTOR, DISCRETE),
    "no flag": (good(terminated=False), "ends neither terminated nor truncated", VECTOR, DISCRETE),
    "action too many": (good(action=np.zeros(T + 1, int)), "action has 5 rows, not 4", VECTOR, DISCRETE),
    "action too few": (good(action=np.zeros(T - 1, int)), "action has 3 rows, not 4", VECTOR, DISCRETE),
    "action out of range": (good(action=put(ACTION, 3, 3)), "row 3: action is 3: give values", VECTOR, DISCRETE),
    "action negative": (good(action=put(ACTION, 1, -1)), "row 1: action is -1: give values from 0", VECTOR, DISCRETE),
    "action fractional": (good(action=put(REWARD, 2, 0.5)), "row 2: action is 0.5: give whole", VECTOR, DISCRETE),
    "action NaN": (good(action=put(REWARD, 2, np.nan)), "row 2: action is nan", VECTOR, DISCRETE),
    "action of pairs": (good(action=np.zeros((T, 2), int)), "action has the shape [2] in a row", VECTOR, DISCRETE),
    "action ragged": (good(action=[[0], [0, 1], [0], [0]]), "action has rows of different shapes", VECTOR, DISCRETE),
    "part out of range": (
        good(action=put(np.zeros((T, 2), int), (1, 0), 2)), "row 1: action is 2 at [0]", VECTOR, PARTS,
    ),
    "box action out of bounds": (
        good(action=put(np.zeros((T, 2)), (3, 1), 1.5)), "row 3: action is 1.5 at [1]: outside", VECTOR, BOX,
    ),
    "box action infinite": (good(action=put(np.zeros((T, 2)), (3, 1), np.inf)), "action is inf at [1]", VECTOR, BOX),
    "final observation missing": (good(observation=OBSERVATION[:-1]), "observation has 4 rows, not", VECTOR, DISCRETE),
    "observation NaN": (
        good(observation=put(OBSERVATION, (4, 1), np.nan)), "row 4: observation is nan at [1]", VECTOR, DISCRETE,
    ),
    "observation shape": (good(observation=np.zeros((T + 1, 3))), "has the shape [3] in a row", VECTOR, DISCRETE),
    "observation one number": (good(observation=np.zeros(())), "observation has the shape []", VECTOR, DISCRETE),
    "observation a dict": (good(observation={"a": OBSERVATION}), "observation is of type object", VECTOR, DISCRETE),
    "discrete observation": (
        good(observation=np.arange(T + 1)), "row 3: observation is 3: give values from 0 to 2", DISCRETE, DISCRETE,
    ),
    "image of floats": (
        good(observation=np.zeros((T + 1, 2, 2, 3))), "observation is float64, not uint8", IMAGE, DISCRETE,
    ),
    "image of integers": (
        good(observation=np.zeros((T + 1, 2, 2, 3), int)), "observation is int64, not uint8", IMAGE, DISCRETE,
    ),
    "key missing": (masked(observation={"observation": OBSERVATION}), "has the keys ['observation']", MASKED, DISCRETE),
    "key unknown": (
        masked(observation=masked().observation | {"x": OBSERVATION}), "'x'], its space [", MASKED, DISCRETE,
    ),
    "no dict": (good(), "observation has the keys ndarray", MASKED, DISCRETE),
    "no tuple": (good(), "observation is no tuple of 1", gym.spaces.Tuple([VECTOR]), DISCRETE),
    "leaf of a dict": (
        masked(observation=masked().observation | {"observation": OBSERVATION[:2]}),
        "observation.observation has 2 rows", MASKED, DISCRETE,
    ),
    "mask no bool": (masked(put(ONES.astype(int), (2, 1), 2)), "row 2: observation.action_mask is 2", MASKED, DISCRETE),
    "mask allows nothing": (masked(put(ONES, 2, False)), "row 2: action_mask allows nothing", MASKED, DISCRETE),
    "action forbidden": (masked(put(ONES, (3, 0), False)), "row 3: action 0 is forbidden", MASKED, DISCRETE),
    "part forbidden": (
        good(
            observation={"observation": OBSERVATION, "action_mask": put(np.ones((T + 1, 5), bool), (1, 2), False)},
            action=np.zeros((T, 2), int),
        ),
        "row 1: part 1 of action 0 is forbidden",
        gym.spaces.Dict(observation=VECTOR, action_mask=gym.spaces.MultiBinary(5)), PARTS,
    ),
    "mask of another size": (
        masked(observation={"observation": OBSERVATION, "action_mask": np.ones((T + 1, 4), bool)}),
        "action_mask has the shape [4] in a row: give one for each action",
        gym.spaces.Dict(observation=VECTOR, action_mask=gym.spaces.MultiBinary(4)), DISCRETE,
    ),
    "mask of box actions": (
        masked(action=np.zeros((T, 2))), "action_mask has the shape [3]", MASKED, BOX,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_episode_is_refused_in_one_line(tmp_path, kind):
    """The second episode is malformed; nothing stays behind."""
    episode, message, observation_space, action_space = MALFORMED[kind]
    writer = EpisodeWriter(tmp_path / "log", observation_space, action_space, about={})
    with pytest.raises(UserError) as caught, writer:
        writer.add(episode, "episode 1")
    text = str(caught.value)
    assert message in text
    assert text.startswith("episode 1")
    assert text.count("\n") == 0
    assert text.count(": ") >= 1 + (", row" in text)
    assert not os.listdir(tmp_path)


def test_where_the_caller_says_it_is(tmp_path):
    with pytest.raises(UserError, match=r"^log\.txt, line 3, row 0: reward is nan"):  # noqa: SIM117
        with EpisodeWriter(tmp_path / "log", VECTOR, DISCRETE, about={}) as writer:
            writer.add(good(reward=REWARD * np.nan), "log.txt, line 3")


def test_masks_of_final_observations_that_allow_nothing(tmp_path):
    """Many environments give such at the end; a policy over it would be none. Decisions keep theirs."""
    mask = put(ONES, 4, False)
    mask[1] = [True, False, True]
    with EpisodeWriter(tmp_path / "log", MASKED, DISCRETE, about={}) as writer:
        writer.add(masked(mask))
    found = EpisodeDataset.open(tmp_path / "log").observation["action_mask"]
    assert found.tolist() == [[True] * 3, [True, False, True], *[[True] * 3] * 3]
    assert not mask[4].any()


def test_what_fits_is_converted(tmp_path):
    """float64 to float32, whole floats and small integers to int64, lists to arrays; both flags may be set."""
    with EpisodeWriter(tmp_path / "log", VECTOR, DISCRETE, about={"env": "x", "hide": [1]}) as writer:
        writer.add(Episode([[0, 1], [2, 3]], np.array([2.0]), [1], True, True))
        writer.add(Episode(np.zeros((2, 2)), np.array([1], np.int8), np.array([1], np.uint8), np.True_, np.False_))
    dataset = EpisodeDataset.open(tmp_path / "log")
    assert dataset.observation.dtype == np.float32
    assert dataset.action.tolist() == [2, 0, 1, 0]
    assert dataset.terminated.tolist() == [True, False, True, False]
    assert dataset.truncated.tolist() == [True, False, False, False]
    assert dataset.about == {"env": "x", "hide": [1]}


def test_actions_at_the_edge_of_the_box(tmp_path):
    """What float64 bounds round to in float32 is inside."""
    box = gym.spaces.Box(-0.1, 0.3, (1,), np.float64)
    with EpisodeWriter(tmp_path / "log", VECTOR, box, about={}) as writer:
        writer.add(good(action=np.array([[-0.1], [0.3], [0.1 + 0.2], [np.float32(0.3)]])))


def test_the_spaces_are_what_agents_see(tmp_path):
    space = gym.spaces.Dict(
        x=gym.spaces.Box(-1e300, 1.0, (1,), np.float64), action_mask=gym.spaces.Box(0, 1, (3,), np.int8)
    )
    episode = good(observation={"x": np.zeros((T + 1, 1)), "action_mask": np.ones((T + 1, 3), np.int8)})
    with EpisodeWriter(tmp_path / "log", space, DISCRETE, about={}) as writer:
        writer.add(episode)
    found = EpisodeDataset.open(tmp_path / "log").observation_space
    assert found["x"] == gym.spaces.Box(-np.inf, 1.0, (1,), np.float32)
    assert found["action_mask"] == gym.spaces.MultiBinary(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((gym.spaces.Text(5), DISCRETE), "the observation space Text is not supported"),
        ((VECTOR, gym.spaces.Text(5)), "the action space Text is not supported"),
    ],
)
def test_spaces_that_no_agent_has(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        EpisodeWriter(tmp_path / "log", *arguments, about={})


@pytest.mark.parametrize("about", [{"x": np.zeros(1)}, {"x": float("nan")}])
def test_about_is_json(tmp_path, about):
    with pytest.raises(UserError, match="cannot be written as JSON"):
        EpisodeWriter(tmp_path / "log", VECTOR, DISCRETE, about=about)


def test_the_folder_exists(tmp_path):
    with pytest.raises(UserError, match="exists already: choose another"):
        EpisodeWriter(tmp_path, VECTOR, DISCRETE, about={})


def test_no_episodes(tmp_path):
    with pytest.raises(UserError, match="no episodes"), EpisodeWriter(tmp_path / "log", VECTOR, DISCRETE, about={}):
        pass
    assert not os.listdir(tmp_path)


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), EpisodeWriter(tmp_path / "log", VECTOR, DISCRETE, about={}) as writer:  # noqa: PT012
        writer.add(good())
        raise KeyError
    assert not os.listdir(tmp_path)


def test_until_the_end_there_is_no_dataset(tmp_path):
    with EpisodeWriter(tmp_path / "deep" / "log", VECTOR, DISCRETE, about={}) as writer:
        writer.add(good())
        assert not (tmp_path / "deep" / "log").exists()
    assert os.listdir(tmp_path / "deep") == ["log"]
    assert os.stat(tmp_path / "deep" / "log").st_mode & 0o777 == 0o755


def test_a_killed_process_leaves_no_dataset(tmp_path):
    child = os.fork()
    if child == 0:
        with EpisodeWriter(tmp_path / "log", VECTOR, DISCRETE, about={}) as writer:
            writer.add(good())
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "log").exists()


def write(folder, num_episodes):
    with EpisodeWriter(folder, VECTOR, DISCRETE, about={}) as writer:
        for _ in range(num_episodes):
            writer.add(good())


@pytest.mark.parametrize("num_episodes", [3, 5000])
def test_a_full_disk(tmp_path, num_episodes):
    """Found out at the end, where the buffers are flushed, or on the way: nothing stays behind."""
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, old[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write episodes to .* free some space"):
            write(tmp_path / "log", num_episodes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert not os.listdir(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write episodes to"):  # noqa: SIM117
        with EpisodeWriter(tmp_path / "file" / "log", VECTOR, DISCRETE, about={}):
            pass


def test_writing_keeps_no_episodes(tmp_path):
    """Memory stays where it is, however many episodes are written: 80 MB of them."""
    observation = np.zeros((1001, 100), np.float32)
    episode = Episode(observation, np.zeros(1000, int), np.zeros(1000), True, False)
    with EpisodeWriter(tmp_path / "log", gym.spaces.Box(-1, 1, (100,)), DISCRETE, about={}) as writer:
        writer.add(episode)
        tracemalloc.start()
        for _ in range(200):
            writer.add(episode)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 5e6
