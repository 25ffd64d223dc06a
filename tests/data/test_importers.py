"""Importers: every format gives the same dataset, and a malformed log is refused in one line that says where."""

import json
import sys
import tracemalloc

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest

from seqrl.data import EpisodeDataset, from_arrays, from_json_lines, from_pandas, import_episodes
from seqrl.errors import UserError
from seqrl.trajectory import tree_flatten

STARTS = [0, 5, 6, 10]  # the first rows of three episodes, and one past the last
GENERATOR = np.random.default_rng(0)
OBSERVATIONS = GENERATOR.normal(size=(10, 3)).astype(np.float32)
NEXT = np.concatenate([OBSERVATIONS[1:], OBSERVATIONS[:1]])
FINAL = GENERATOR.normal(size=(3, 3)).astype(np.float32)
NEXT[[4, 5, 9]] = FINAL
ACTIONS = np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 1])
REWARDS = GENERATOR.normal(size=10).astype(np.float32)
TERMINALS, TIMEOUTS = np.zeros(10, bool), np.zeros(10, bool)
TERMINALS[[4, 5]], TIMEOUTS[9] = True, True


def arrays(**changes):
    whole = {
        "observations": OBSERVATIONS,
        "actions": ACTIONS,
        "rewards": REWARDS,
        "terminals": TERMINALS,
        "timeouts": TIMEOUTS,
    }
    return {name: value for name, value in (whole | changes).items() if value is not None}


def line(k, **changes):
    """Episode k as an object, with its final observation."""
    rows = slice(STARTS[k], STARTS[k + 1])
    whole = {
        "observations": [*OBSERVATIONS[rows].tolist(), FINAL[k].tolist()],
        "actions": ACTIONS[rows].tolist(),
        "rewards": REWARDS[rows].tolist(),
        "terminated": bool(TERMINALS[rows].any()),
        "truncated": bool(TIMEOUTS[rows].any()),
    }
    return {name: value for name, value in (whole | changes).items() if value is not None}


def frame(**changes):
    columns = {"episode": np.repeat(["a", "b", "c"], np.diff(STARTS)), "action": ACTIONS, "reward": REWARDS}
    columns |= {f"observation_{k}": OBSERVATIONS[:, k] for k in range(3)}
    columns |= {f"next_observation_{k}": NEXT[:, k] for k in range(3)}
    columns |= {"terminated": TERMINALS, "truncated": TIMEOUTS} | changes
    return pd.DataFrame({name: value for name, value in columns.items() if value is not None})


def write_lines(path, lines):
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def make_npz(path, **changes):
    np.savez(path / "log.npz", **arrays(next_observations=NEXT, **changes))
    return path / "log.npz"


def make_folder(path):
    (path / "arrays").mkdir()
    for name, array in arrays(next_observations=NEXT).items():
        np.save(path / "arrays" / f"{name}.npy", array)
    return path / "arrays"


def make_json_lines(path):
    return write_lines(path / "log.jsonl", [line(k) for k in range(3)])


def make_csv(path):
    frame().to_csv(path / "log.csv", index=False)
    return path / "log.csv"


def make_parquet(path):
    pytest.importorskip("pyarrow")
    lists = frame(**{f"{n}observation_{k}": None for k in range(3) for n in ("", "next_")})
    lists.assign(observation=list(OBSERVATIONS), next_observation=list(NEXT)).to_parquet(path / "log.parquet")
    return path / "log.parquet"


def make_hdf5(path):
    import h5py

    with h5py.File(path / "log.hdf5", "w") as file:
        for name, array in arrays(next_observations=NEXT).items():
            file[name] = array
        file["infos/qpos"] = file["metadata/algorithm"] = np.zeros(3)
    return path / "log.hdf5"


def assert_is_the_log(dataset, final):
    assert dataset.lengths.tolist() == [5, 1, 4]
    for k in range(3):
        episode, rows = dataset.episode(k), slice(STARTS[k], STARTS[k + 1])
        np.testing.assert_array_equal(episode.observation[:-1], OBSERVATIONS[rows])
        np.testing.assert_array_equal(episode.observation[-1], final[k])
        np.testing.assert_array_equal(episode.action, ACTIONS[rows])
        np.testing.assert_array_equal(episode.reward, REWARDS[rows])
        assert (episode.terminated, episode.truncated) == [(True, False), (True, False), (False, True)][k]


@pytest.mark.parametrize("make", [make_npz, make_folder, make_json_lines, make_csv, make_hdf5, make_parquet])
def test_every_format_gives_the_same_dataset(tmp_path, make):
    source = make(tmp_path)
    dataset = import_episodes(str(source), tmp_path / "log")
    assert_is_the_log(dataset, FINAL)
    assert_is_the_log(EpisodeDataset.open(tmp_path / "log"), FINAL)
    assert dataset.about == {"source": str(source), "inferred_from_the_data": ["observation_space", "action_space"]}
    assert dataset.action_space == gym.spaces.Discrete(4)
    bounds = np.stack([*OBSERVATIONS, *FINAL])
    assert dataset.observation_space == gym.spaces.Box(bounds.min(0), bounds.max(0))


def test_tables(tmp_path):
    assert_is_the_log(from_pandas(tmp_path / "a", frame()), FINAL)
    lists = frame(**{f"{n}observation_{k}": None for k in range(3) for n in ("", "next_")})
    lists = lists.assign(observation=list(OBSERVATIONS), next_observation=[list(row) for row in NEXT])
    assert_is_the_log(from_pandas(tmp_path / "b", lists), FINAL)
    other = frame(height=np.zeros(10), **{f"next_observation_{k}": None for k in range(3)}).rename(
        columns={"episode": "run", "observation_0": "x", "observation_1": "y", "observation_2": "z", "action": "a"}
    )
    chosen = from_pandas(tmp_path / "c", other, episode="run", observation=["x", "y", "z"], action=["a"])
    assert_is_the_log(chosen, OBSERVATIONS[[4, 5, 9]])
    assert chosen.about["final_observation_repeated"] == 3


def test_a_table_saved_with_its_index_and_times(tmp_path):
    frame(step=[0, 1, 2, 3, 4, 0, 0, 2, 5, 6]).to_csv(tmp_path / "log.csv")
    assert_is_the_log(import_episodes(tmp_path / "log.csv", tmp_path / "log"), FINAL)


def test_final_observations(tmp_path):
    assert_is_the_log(from_arrays(tmp_path / "a", arrays(final_observations=FINAL)), FINAL)
    repeated = from_arrays(tmp_path / "b", arrays(), about={"env": "x"})
    assert_is_the_log(repeated, OBSERVATIONS[[4, 5, 9]])
    assert repeated.about["final_observation_repeated"] == 3
    assert repeated.about["env"] == "x"
    lines = [line(0), line(1, observations=[OBSERVATIONS[5].tolist()]), line(2)]
    one = from_json_lines(tmp_path / "c", write_lines(tmp_path / "log.jsonl", lines))
    assert one.about["final_observation_repeated"] == 1


SPACE = gym.spaces.Dict(
    image=gym.spaces.Box(0, 255, (2, 2, 1), np.uint8),
    pair=gym.spaces.Tuple([gym.spaces.Discrete(5, start=2), gym.spaces.MultiBinary(2)]),
    action_mask=gym.spaces.MultiBinary(5),
)
PARTS = gym.spaces.MultiDiscrete([2, 3], start=[0, -1])


def nested():
    """One episode of 3 decisions and its final observation, in the environment's own units."""
    generator = np.random.default_rng(1)
    observation = {
        "image": generator.integers(0, 256, (4, 2, 2, 1), dtype=np.uint8),
        "pair": (np.array([2, 3, 6, 4]), np.array([[0, 1], [1, 1], [0, 0], [1, 0]])),
        "action_mask": np.ones((4, 5), bool),
    }
    return observation, np.array([[0, -1], [1, 1], [0, 0]])


def assert_is_nested(dataset):
    observation, action = nested()
    found = dataset.episode(0)
    expected = observation | {"pair": (observation["pair"][0] - 2, observation["pair"][1].astype(bool))}
    for name, leaf in tree_flatten(expected).items():
        assert tree_flatten(found.observation)[name].dtype == leaf.dtype
        np.testing.assert_array_equal(tree_flatten(found.observation)[name], leaf)
    assert found.action.tolist() == (action - [0, -1]).tolist()


def test_nested_arrays(tmp_path):
    """Trees; and counted from the spaces' own start."""
    observation, action = nested()
    log = {"observations": {k: v[:-1] for k, v in observation.items() if k != "pair"}, "actions": action}
    log["observations"]["pair"] = tuple(leaf[:-1] for leaf in observation["pair"])
    log["final_observations"] = {k: v[-1:] for k, v in observation.items() if k != "pair"}
    log["final_observations"]["pair"] = tuple(leaf[-1:] for leaf in observation["pair"])
    log |= {"rewards": np.ones(3), "terminations": np.array([0, 0, 1])}
    assert_is_nested(from_arrays(tmp_path / "log", log, observation_space=SPACE, action_space=PARTS))


@pytest.mark.parametrize("rows", ["lists", "objects"])
def test_nested_json(tmp_path, rows):
    observation, action = nested()
    lists = {"image": observation["image"].tolist(), "action_mask": observation["action_mask"].tolist()}
    lists["pair"] = [leaf.tolist() for leaf in observation["pair"]]
    log = {"observations": lists, "actions": action.tolist(), "rewards": [1, 1, 1], "terminated": [0, 0, 1]}
    spaces = {"observation_space": SPACE, "action_space": PARTS}
    if rows == "objects":
        del lists["pair"]
        log["observations"] = [{key: lists[key][t] for key in lists} for t in range(4)]
        spaces["observation_space"] = gym.spaces.Dict({key: SPACE[key] for key in lists})
    dataset = from_json_lines(tmp_path / "log", write_lines(tmp_path / "log.jsonl", [log]), **spaces)
    if rows == "lists":
        assert_is_nested(dataset)
    np.testing.assert_array_equal(dataset.observation["image"], observation["image"])


@pytest.mark.parametrize("dot", [".", "/"])
def test_flat_names_of_nested_observations(tmp_path, dot):
    log = arrays(observations=None) | {f"observations{dot}x": OBSERVATIONS, f"observations{dot}deep.y": ACTIONS}
    dataset = from_arrays(tmp_path / "log", log)
    assert set(dataset.observation) == {"x", "deep.y"}


def test_a_table_with_parts(tmp_path):
    parts = {f"observation_{k}": None for k in range(3)} | {f"next_observation_{k}": None for k in range(3)}
    mask = {f"observation.action_mask_{k}": np.ones(10, int) for k in range(4)}
    dataset = from_pandas(tmp_path / "log", frame(**parts, **mask, **{"observation.place": ACTIONS}))
    assert dataset.observation_space["action_mask"] == gym.spaces.MultiBinary(4)
    assert dataset.observation_space["place"] == gym.spaces.Discrete(4)


INFERRED = {
    "floats": (np.array([[0.5], [-1.0]]), gym.spaces.Box(-1.0, 0.5, (1,)), gym.spaces.Box(-1.0, 0.5, (1,))),
    "floats of no dimension": (np.array([0.5, -1]), gym.spaces.Box(-1.0, 0.5, (1,)), gym.spaces.Box(-1.0, 0.5, (1,))),
    "integers": (np.array([3, 0]), gym.spaces.Discrete(4), gym.spaces.Discrete(4)),
    "pairs": (np.array([[3, 0], [0, 1]]), gym.spaces.MultiDiscrete([4, 2]), gym.spaces.MultiDiscrete([4, 2])),
    "bools": (np.array([[True, False]] * 2), gym.spaces.MultiBinary(2), gym.spaces.MultiBinary(2)),
    "one bool": (np.array([True, False]), gym.spaces.Discrete(2), gym.spaces.Discrete(2)),
    "bytes": (np.zeros((2, 3), np.uint8), gym.spaces.Box(0, 255, (3,), np.uint8), gym.spaces.MultiDiscrete([1, 1, 1])),
    "many": (
        np.array([[999, 0], [0, 1]]),
        gym.spaces.Box(np.array([0, 0]), np.array([999, 1]), dtype=np.int64),
        gym.spaces.MultiDiscrete([1000, 2]),
    ),
    "negative": (np.array([[-1], [1]]), gym.spaces.Box(-1, 1, (1,), np.int64), None),
}


@pytest.mark.parametrize("kind", INFERRED)
def test_inferred_spaces(tmp_path, kind):
    values, observation_space, action_space = INFERRED[kind]
    log = {"observations": values, "actions": values, "rewards": [0, 0], "terminals": [0, 1]}
    if action_space is None:
        with pytest.raises(UserError, match="the smallest action is -1: count discrete actions from 0, or give"):
            from_arrays(tmp_path / "log", log)
        log["actions"] = [0, 1]
    dataset = from_arrays(tmp_path / "log", log)
    assert dataset.observation_space == observation_space
    assert dataset.action_space == action_space or action_space is None


def test_inferred_from_all_episodes(tmp_path):
    """The first episode's integers are floats by the third's."""
    lines = [line(k, observations=[[k, k] for _ in line(k)["observations"]], actions=[k] * len(line(k)["actions"]))
             for k in range(3)]  # fmt: skip
    lines[2]["observations"][0] = [0.5, -7]
    dataset = from_json_lines(tmp_path / "log", write_lines(tmp_path / "log.jsonl", lines))
    assert dataset.observation_space == gym.spaces.Box(np.float32([0.0, -7.0]), np.float32([2.0, 2.0]))
    assert dataset.action_space == gym.spaces.Discrete(3)


@pytest.mark.parametrize(("unfinished", "lengths"), [("truncate", [5, 1, 4]), ("drop", [5, 1])])
def test_unfinished_episodes(tmp_path, unfinished, lengths):
    dataset = from_arrays(tmp_path / "log", arrays(timeouts=None), unfinished=unfinished)
    assert dataset.lengths.tolist() == lengths
    assert bool(dataset.truncated.any()) == (unfinished == "truncate")
    assert dataset.about.get("unfinished_episodes_dropped", 0) == (unfinished == "drop")


def npz(**changes):
    return lambda path: make_npz(path, **changes)


def npz_only(**changes):
    """Without next_observations."""

    def make(path):
        np.savez(path / "log.npz", **arrays(**changes))
        return path / "log.npz"

    return make


def lines(*changed, tail=""):
    def make(path):
        made = write_lines(path / "log.jsonl", [line(k, **(changed[k] if k < len(changed) else {})) for k in range(3)])
        made.write_text(made.read_text() + tail)
        return made

    return make


def csv(**changes):
    def make(path):
        frame(**changes).to_csv(path / "log.csv", index=False)
        return path / "log.csv"

    return make


def raw(name, data):
    def make(path):
        (path / name).write_bytes(data)
        return path / name

    return make


def cut(make, size):
    def cut_short(path):
        made = make(path)
        made.write_bytes(made.read_bytes()[:size])
        return made

    return cut_short


def put(array, place, value):
    array = np.array(array)
    array[place] = value
    return array


def empty_folder(path):
    (path / "empty").mkdir()
    return path / "empty"


NO_NEXT = {f"next_observation_{k}": None for k in range(3)}

MALFORMED = {
    "no file": (lambda path: path / "none.npz", "none.npz does not exist"),
    "kind unknown": (raw("log.txt", b""), "log.txt is of no known kind: give .npz"),
    "folder empty": (empty_folder, "empty holds no .npy files"),
    "lengths differ": (npz(actions=ACTIONS[:-1]), "log.npz: actions has 9 rows, rewards have 10"),
    "flags too short": (npz(timeouts=TIMEOUTS[:-1]), "log.npz: truncated has 9 rows, rewards have 10"),
    "part missing": (npz(actions=None), "log.npz has no actions: give them under one of the names ['actions'"),
    "part unknown": (npz(timeout=TIMEOUTS), "has the unknown part 'timeout': did you mean 'timeouts'?"),
    "part twice": (npz(terminations=TERMINALS), "has terminated twice"),
    "flags missing": (npz(terminals=None, timeouts=None), "has neither terminated nor truncated"),
    "flags of 2": (npz(terminals=put(ACTIONS, 0, 2)), "log.npz: terminated holds 2: give true or false"),
    "flags of two dimensions": (npz(terminals=TERMINALS[:, None]), "terminated holds an array of shape [10, 1]"),
    "flags strings": (npz(terminals=np.array(["no"] * 10)), "log.npz: terminated is of type <U2: give numbers"),
    "nothing to observe": (lines(*[{"observations": {}}] * 3), "the observation space Dict() has nothing to observe"),
    "no end": (npz(timeouts=0 * TIMEOUTS), "log.npz, episode 2 (from row 6) ends neither terminated nor truncated"),
    "no rows": (npz(rewards=np.zeros(0)), "log.npz has no rows"),
    "reward NaN": (npz(rewards=put(REWARDS, 7, np.nan)), "log.npz, episode 2 (from row 6), row 1: reward is nan"),
    "rewards of pairs": (npz(rewards=np.ones((10, 2))), "reward has the shape [5, 2]"),
    "rewards strings": (npz(rewards=np.array(["1"] * 10)), "log.npz: rewards is of type <U1"),
    "observation infinite": (npz_only(observations=put(OBSERVATIONS, (6, 2), np.inf)), "(from row 6), row 0: observ"),
    "action NaN": (npz(actions=put(REWARDS, 3, np.nan)), "log.npz, episode 0 (from row 0), row 3: action is nan"),
    "action negative": (npz(actions=put(ACTIONS, 3, -2)), "the smallest action is -2"),
    "next observation of another time": (npz_only(next_obs=OBSERVATIONS), "row 0: next_observations is not the"),
    "next observation of another shape": (npz_only(next_observations=NEXT[:, :2]), "next ones [2]: give the same"),
    "final observations too few": (npz_only(final_observations=FINAL[:2]), "has 2 rows for 3 episodes"),
    "final observation of another shape": (npz_only(final_observations=FINAL[:, :2]), "the final one [2]"),
    "pickle in .npz": (npz(rewards=np.array([{}] * 10)), "log.npz holds a pickle"),
    "pickle as .npz": (raw("log.npz", b"\x80\x04\x95\x00"), "log.npz holds a pickle"),
    ".npz cut short": (cut(make_npz, 700), "log.npz is damaged"),
    ".npz of nothing": (raw("log.npz", b""), "log.npz is damaged"),
    ".hdf5 cut short": (cut(make_hdf5, 900), "log.hdf5 is damaged"),
    "JSON damaged": (lines(tail="{"), "log.jsonl, line 4 is damaged JSON"),
    "JSON too deep": (raw("log.jsonl", b"[" * 100_000), "log.jsonl, line 1 is nested too deeply"),
    "JSON no text": (raw("log.jsonl", b"\xff\xfe"), "log.jsonl, line 1 is no text in UTF-8"),
    "JSON no object": (lines(tail="[1]\n"), "log.jsonl, line 4 is no object"),
    "JSON of nothing": (raw("log.jsonl", b"\n\n"), "there are no episodes"),
    "JSON part missing": (lines({}, {"rewards": None}), "log.jsonl, line 2 has no rewards"),
    "JSON part unknown": (lines({}, {"done": True}), "log.jsonl, line 2 has the unknown part 'done'"),
    "JSON empty episode": (
        lines({}, {"rewards": [], "actions": [], "observations": [[0, 0, 0]]}), "log.jsonl, line 2 is empty",
    ),
    "JSON reward a string": (lines({}, {"rewards": ["1.5"]}), "line 2: rewards is of type <U3: give numbers"),
    "JSON reward null": (lines({}, {"rewards": [None]}), "line 2: rewards is of type object: give numbers"),
    "JSON reward NaN": (lines({}, {"rewards": [float("nan")]}), "log.jsonl, line 2, row 0: reward is nan"),
    "JSON observations ragged": (lines({"observations": [[0], [1, 2]]}), "observation has rows of different shapes"),
    "JSON observations of another shape": (lines({}, {"observations": [[0], [1]]}), "observation has the shape [1] in"),
    "JSON observations too few": (lines({"observations": [[0, 0, 0]] * 3}), "line 1: observation has 3 rows, not 6"),
    "JSON observation keys differ": (
        lines({"observations": [{"x": 0}, {"y": 0}]}), "line 1, row 1: the observation has the keys ['y']",
    ),
    "JSON observation keys differ by line": (
        lines({"observations": {"x": [0] * 6}}, {"observations": {"y": [0] * 2}}),
        "line 2: observation has the keys ['y'], and ['x'] in the episodes before",
    ),
    "JSON observations of parts, then none": (
        lines({"observations": {"x": [0] * 6}}), "line 2: observation has the keys ['(one array)'], and ['x'] in the",
    ),
    "final observations of other parts": (npz_only(**{"final_observations.x": FINAL}), "the final ones ['x']: give"),
    "JSON actions of parts": (lines({"actions": {"a": [0] * 5}}), "line 1: action has several parts"),
    "JSON action one number": (lines({"actions": 1}), "line 1: action is one number"),
    "JSON terminated early": (lines({"terminated": [0, 1, 0, 0, 1]}), "line 1, row 1: terminated in the middle"),
    "JSON terminated too short": (lines({"terminated": [0, 1]}), "line 1: terminated has 2 rows"),
    "JSON terminated a string": (lines({"terminated": "yes"}), "line 1: terminated is of type <U3"),
    "JSON not ended": (lines({"terminated": False}), "log.jsonl, line 1 ends neither terminated nor truncated"),
    "JSON next observations": (lines({"next_observations": [0]}), "line 1 has next_observations: put the final one"),
    "column missing": (csv(episode=None), "log.csv has no column 'episode'"),
    "column of rewards missing": (csv(reward=None), "log.csv has no rewards"),
    "column skipped": (csv(observation_1=None), "log.csv has no column 'observation_1': number them from 0"),
    "column unknown": (csv(speed=REWARDS), "has the unknown part 'speed': known: "),
    "column twice": (raw("log.csv", b"episode,reward,reward\n0,1,1\n"), "has the column 'reward' twice"),
    "column of words": (csv(reward=["high"] * 10), "log.csv: column 'reward' is of type"),
    "cell empty": (csv(reward=put(REWARDS, 1, np.nan)), "log.csv, episode a (from row 0), row 1: reward is nan"),
    "episode empty": (csv(episode=[0] * 9 + [None]), "log.csv, row 9: the column 'episode' is empty"),
    "episode goes on": (
        csv(episode=list("aabbbaaccc"), **NO_NEXT), "log.csv, row 5: episode a goes on after another began",
    ),
    "episode ends early": (csv(episode=[0] * 10, **NO_NEXT), "episode 0 (from row 0), row 4: terminated in the middle"),
    "time goes back": (
        csv(timestep=put(np.arange(10), [6, 7, 8, 9], [0, 1, 1, 2])), "log.csv, row 8: 'timestep' is 1 after 1: sort",
    ),
    "table ragged": (raw("log.csv", b"episode,reward\n0,1\n0,1,2,3\n"), "log.csv is damaged or no .csv table"),
    "table of nothing": (raw("log.csv", b""), "log.csv is damaged or no .csv table"),
    "table without rows": (raw("log.csv", b"episode,reward\n"), "log.csv has no rows"),
    "table no text": (raw("log.csv", b"\xff\xfe\n1"), "log.csv is damaged or no .csv table"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_log_is_refused_in_one_line(tmp_path, kind):
    make, message = MALFORMED[kind]
    source = make(tmp_path)
    with pytest.raises(UserError) as caught:
        import_episodes(source, tmp_path / "log")
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert ": " in text
    assert not (tmp_path / "log").exists()
    assert not list(tmp_path.glob(".log*"))


ODD_ARRAYS = {
    "observations of nothing": ({"observations": {}}, "observations has 0 parts: give one array"),
    "next observations of nothing": ({"next_observations": {}}, "next_observations has 0 parts"),
    "next observations of parts": ({"next_observations": (NEXT,)}, "keys ['(one array)'], the final ones ['0']"),
    "rewards of parts": ({"rewards": {"a": REWARDS}}, "rewards has 1 parts: give one array"),
    "flags of parts": ({"terminals": {}}, "terminated has 0 parts: give one array"),
    "final observations a number": ({"final_observations": 3}, "final_observations has no rows for 3 episodes"),
    "actions ragged": ({"actions": [[0], [0, 1]]}, "actions has rows of different shapes"),
    "actions nothing": ({"actions": ()}, "actions has 0 parts: give one array"),
    "actions a word": ({"actions": "left"}, "actions is of type <U4: give numbers"),
    "actions of dates": ({"actions": np.zeros(10, "datetime64[s]")}, "action is of type datetime64[s]: give numbers"),
}


@pytest.mark.parametrize("kind", ODD_ARRAYS)
def test_odd_arrays_are_refused_in_one_line(tmp_path, kind):
    changes, message = ODD_ARRAYS[kind]
    with pytest.raises(UserError) as caught:
        from_arrays(tmp_path / "log", arrays() | changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match="unfinished is 'trunc': did you mean 'truncate'"):
        from_arrays(tmp_path / "log", arrays(), unfinished="trunc")
    with pytest.raises(UserError, match="exists already"):
        from_arrays(tmp_path, arrays())
    with pytest.raises(UserError, match="has no column 'hight': did you mean 'height'"):
        from_pandas(tmp_path / "log", frame(height=0), observation=["hight"])
    twice = frame()
    twice.columns = ["x", "x", *twice.columns[2:]]
    with pytest.raises(UserError, match="the table has the column 'x' twice: rename one"):
        from_pandas(tmp_path / "log", twice)
    with pytest.raises(UserError, match="outside"):
        from_arrays(tmp_path / "log", arrays(actions=OBSERVATIONS), action_space=gym.spaces.Box(-0.1, 0.1, (3,)))


@pytest.mark.parametrize(("package", "make", "way_out"), [
    ("pandas", make_csv, 'pip install "seqrl\\[offline\\]"'),
    ("h5py", make_hdf5, 'pip install "seqrl\\[offline\\]"'),
    ("pyarrow", raw("log.parquet", b"PAR1"), "pip install pyarrow"),
])  # fmt: skip
def test_packages_that_are_not_installed(tmp_path, monkeypatch, package, make, way_out):
    source = make(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=way_out):
        import_episodes(source, tmp_path / "log")


def test_importing_maps_a_folder(tmp_path):
    """Of arrays that are 40 MB of holes, no more is in memory at a time than an episode."""
    num_rows = 20_000
    for name, shape, dtype in (("observations", (num_rows, 500), np.float32), ("actions", (num_rows,), np.int64)):
        np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", dtype, shape).flush()
    np.save(tmp_path / "rewards.npy", np.zeros(num_rows, np.float32))
    np.save(tmp_path / "timeouts.npy", np.arange(1, num_rows + 1) % 100 == 0)
    spaces = {"observation_space": gym.spaces.Box(-1, 1, (500,)), "action_space": gym.spaces.Discrete(2)}
    tracemalloc.start()
    dataset = import_episodes(tmp_path, tmp_path / "log", **spaces)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert dataset.num_episodes == 200
    assert peak < 4e6
