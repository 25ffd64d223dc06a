"""Importers: every format gives the same dataset."""

import json
import tracemalloc

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from mixed_actions import SMALL

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


# Break: `encoding="utf-8"` in place of utf-8-sig where JSON lines are read.
@pytest.mark.parametrize("make", [make_json_lines, make_csv])
def test_marks_of_byte_order_and_line_ends_of_windows_are_read(tmp_path, make):
    source = make(tmp_path)
    source.write_bytes(b"\xef\xbb\xbf" + source.read_bytes().replace(b"\n", b"\r\n"))
    assert_is_the_log(import_episodes(source, tmp_path / "log"), FINAL)


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


# Break: `_values` of all rows in place of `_final` in `_parts`: row k is then the final observation of episode k.
@pytest.mark.parametrize("elsewhere", [np.nan, 7.0])
def test_final_observations_of_a_table(tmp_path, elsewhere):
    """Those in each episode's last row count, whatever stands in the others; whole numbers stay integers."""
    final = np.full((10, 3), elsewhere)
    final[[4, 5, 9]] = FINAL
    columns = {f"final_observation_{k}": final[:, k] for k in range(3)} | {
        f"next_observation_{k}": None for k in range(3)
    }
    assert_is_the_log(from_pandas(tmp_path / "a", frame(**columns)), FINAL)
    columns |= {f"{name}observation_{k}": None for k in range(3) for name in ("", "final_")}
    places = np.where(np.isin(np.arange(10), [4, 5, 9]), ACTIONS, elsewhere)
    one = from_pandas(tmp_path / "b", frame(**columns, observation=ACTIONS, final_observation=places))
    assert one.observation_space == gym.spaces.Discrete(4)
    assert [int(one.episode(k).observation[-1]) for k in range(3)] == ACTIONS[[4, 5, 9]].tolist()


def test_a_table_saved_with_its_index_and_times(tmp_path):
    frame(step=[0, 1, 2, 3, 4, 0, 0, 2, 5, 6]).to_csv(tmp_path / "log.csv")
    assert_is_the_log(import_episodes(tmp_path / "log.csv", tmp_path / "log"), FINAL)


# Break: `as_array` of the column in `_check_time`, which takes numbers alone.
@pytest.mark.parametrize("kind", ["text", "dates", "dates of a zone"])
def test_times_may_be_points_in_time(tmp_path, kind):
    text = pd.Series([f"2024-05-01T10:{59 - k}:00+02:00" for k in [9, 8, 7, 6, 5, 9, 9, 8, 7, 6]])
    zone = pd.to_datetime(text)
    time = {"text": text, "dates": zone.dt.tz_localize(None), "dates of a zone": zone}[kind]
    assert_is_the_log(from_pandas(tmp_path / "log", frame(time=time)), FINAL)
    time = time.copy()
    time[8] = time[7]
    with pytest.raises(UserError, match=r"the table, row 8: 'time' is 2024-05-01.10:51:00.* after 2024-05-01.10:51:00"):
        from_pandas(tmp_path / "other", frame(time=time))


# Break: `left_out` in `_grouped` without `_head(column) in LEFT_OUT`.
def test_columns_of_infos_are_left_out_of_tables(tmp_path):
    frame(**{"infos.note": ["x"] * 10, "metadata/by": ["y"] * 10}).to_csv(tmp_path / "log.csv", index=False)
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


# Breaks if actions are not read as observations are, or a space is inferred of what has one.
@pytest.mark.parametrize("rows", ["lists", "objects"])
def test_mixed_actions_in_json(tmp_path, rows):
    action = {"which": [1, 3, 2], "how_much": [[0.5], [-1.0], [0.25]]}
    if rows == "objects":
        action = [{key: action[key][t] for key in ("how_much", "which")} for t in range(3)]
    log = {"observations": [0.0, 1.0, 2.0, 3.0], "actions": action, "rewards": [1, 1, 1], "terminated": True}
    path = write_lines(tmp_path / "log.jsonl", [log])
    dataset = from_json_lines(tmp_path / "log", path, action_space=SMALL)
    assert dataset.episode(0).action.tolist() == [[0, 0.5], [2, -1], [1, 0.25]]
    assert dataset.about["inferred_from_the_data"] == ["observation_space"]
    with pytest.raises(UserError, match=r"line 1: action has several parts: give their space \(--env\)"):
        from_json_lines(tmp_path / "other", path)


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
    "as many as there may be": (np.array([9_999, 0]), gym.spaces.Discrete(10_000), gym.spaces.Discrete(10_000)),
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


# Break: `MOST_CATEGORIES` not asked in `_space`: an embedding of 2⁶² rows, or an action for each.
def test_integers_that_are_no_categories(tmp_path):
    log = {"observations": np.array([2**62 + 1, 3]), "actions": [0, 1], "rewards": [0, 0], "terminals": [0, 1]}
    dataset = from_arrays(tmp_path / "log", log)
    space = dataset.observation_space
    assert (space.dtype, space.shape, int(space.low[0]), int(space.high[0])) == (np.int64, (1,), 3, 2**62 + 1)
    assert dataset.observation[:2, 0].tolist() == [2**62 + 1, 3]
    with pytest.raises(UserError, match="the largest action is 10000: number the actions from 0 without gaps, or give"):
        from_arrays(tmp_path / "other", log | {"actions": [10_000, 1]})


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
