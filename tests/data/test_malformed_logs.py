"""A malformed log is refused in one line that says where."""

import gzip
import sys

import gymnasium as gym
import numpy as np
import pytest
from test_importers import (
    ACTIONS,
    FINAL,
    NEXT,
    OBSERVATIONS,
    REWARDS,
    TERMINALS,
    TIMEOUTS,
    arrays,
    frame,
    line,
    make_csv,
    make_hdf5,
    make_npz,
    write_lines,
)

from seqrl.data import from_arrays, from_pandas, import_episodes
from seqrl.errors import UserError


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
    "JSON of nothing": (raw("log.jsonl", b"\n\n"), "log.jsonl: there are no episodes"),
    "JSON part missing": (lines({}, {"rewards": None}), "log.jsonl, line 2 has no rewards"),
    "JSON part unknown": (lines({}, {"done": True}), "log.jsonl, line 2 has the unknown part 'done': name it term"),
    "JSON empty episode": (
        lines({}, {"rewards": [], "actions": [], "observations": [[0, 0, 0]]}), "log.jsonl, line 2 is empty",
    ),
    "JSON reward a string": (
        lines({}, {"rewards": ["1.5"]}), "line 2: rewards is of type <U3: give numbers in place of '1.5' (row 0)",
    ),
    "JSON reward null": (
        lines({"rewards": [1, 2, None, 4, 5]}),
        "line 1: rewards is of type object: give numbers in place of 'None' (row 2)",
    ),
    "JSON observation with a word": (
        lines({}, {"observations": [[0, 1, 2], [0, "cold", 2]]}),
        "line 2: observation is of type <U21: give numbers in place of 'cold' (row 1)",
    ),
    "JSON key twice": (raw("log.jsonl", b'{"rewards": [1], "rewards": [2]}'), "line 1 has the key 'rewards' twice"),
    "JSON packed": (raw("log.jsonl", gzip.compress(b"{}")), "UTF-8 (invalid start byte): it is packed by gzip, unpack"),
    "packed": (raw("log.csv.gz", b""), "log.csv.gz is of no known kind: unpack it first, give .npz"),
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
    "column missing": (
        csv(episode=None, Episode=[0] * 10),
        "log.csv has no column 'episode' to tell the episodes apart (--episode-column): did you mean 'Episode'?",
    ),
    "columns parted by semicolons": (raw("log.csv", b"episode;reward\n0;1,5\n"), "log.csv parts its columns by ';': "),
    "columns parted by tabs": (raw("log.csv", b"episode\treward\n0\t1\n"), "log.csv parts its columns by '\\t': "),
    "columns without names": (raw("log.csv", b"0,0.5,-1e3\n0,0.7,2\n"), "log.csv begins with numbers, not with"),
    "columns named again": (
        raw("log.csv", b"episode,observation,action,reward,terminated\n0,1,1,1,1\n" * 2),
        "log.csv, row 1: the names of the columns come again: leave that line out",
    ),
    "column of rewards missing": (csv(reward=None), "log.csv has no rewards"),
    "column skipped": (csv(observation_1=None), "log.csv has no column 'observation_1': number them from 0"),
    "column unknown": (csv(speed=REWARDS), "has the unknown part 'speed': known: "),
    "column unknown, of words": (csv(note=["x"] * 10), "has the unknown part 'note': known: "),
    "column to leave out": (
        csv(note=["x"] * 10),
        "; or name what is observed observation_0, observation_1, …, and a column that is not to be read infos.NAME",
    ),
    "column and numbered ones": (
        csv(action_0=ACTIONS, action_1=ACTIONS), "log.csv has the columns 'action' and 'action_0': give one of them",
    ),
    "number twice": (csv(observation_00=REWARDS), "has the columns 'observation_0' and 'observation_00': give one of"),
    "column twice": (raw("log.csv", b"episode,reward,reward\n0,1,1\n"), "has the column 'reward' twice"),
    "column with a word": (csv(reward=[1, "2", "high", *[4] * 7]), "give numbers in place of 'high' (row 2)"),
    "cell empty": (csv(reward=put(REWARDS, 1, np.nan)), "log.csv, episode a (from row 0), row 1: reward is nan"),
    "cell empty, with next observations": (
        csv(observation_1=put(OBSERVATIONS[:, 1], 2, np.nan), next_observation_1=put(NEXT[:, 1], 1, np.nan)),
        "log.csv, episode a (from row 0), row 2: observation is nan at [1]: drop the episode, or mend it",
    ),
    "episode empty": (csv(episode=[0] * 9 + [None]), "log.csv, row 9: the column 'episode' is empty"),
    "episode goes on": (
        csv(episode=list("aabbbaaccc"), **NO_NEXT), "log.csv, row 5: episode a goes on after another began",
    ),
    "episode ends early": (csv(episode=[0] * 10, **NO_NEXT), "episode 0 (from row 0), row 4: terminated in the middle"),
    "time goes back": (
        csv(timestep=put(np.arange(10), [6, 7, 8, 9], [0, 1, 1, 2])), "log.csv, row 8: 'timestep' is 1 after 1: sort",
    ),
    "time of words": (csv(time=["later"] * 10), "column 'time' holds neither numbers nor times such as 2024-05-01"),
    "table ragged": (raw("log.csv", b"episode,reward\n0,1\n0,1,2,3\n"), "log.csv is damaged or no .csv table"),
    "table of nothing": (raw("log.csv", b""), "log.csv has no rows: there is nothing to learn from"),
    "table without rows": (raw("log.csv", b"episode,reward\n"), "log.csv has no rows"),
    "table no text": (raw("log.csv", b"\xff\xfe\n1"), "is no text in UTF-8 (invalid start byte): write it"),
    "table packed": (raw("log.csv", gzip.compress(b"episode")), "(invalid start byte): it is packed by gzip, unpack"),
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
    "actions beyond int64": ({"actions": np.full(10, 2**63, np.uint64)}, "action is 9223372036854775808, beyond what"),
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
    with pytest.raises(UserError, match="has the columns 'action' and 'actions': give one of them"):
        from_pandas(tmp_path / "log", frame(actions=ACTIONS), action=["action"])
    far = {"observation_space": gym.spaces.Box(0, 9, (), np.int64), "action_space": gym.spaces.Discrete(4)}
    with pytest.raises(UserError, match="observation is 9223372036854775808, beyond what int64 holds"):
        from_arrays(tmp_path / "log", arrays(observations=np.full(10, 2**63, np.uint64)), **far)
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
