"""The walker that the T-maze's log is of."""

import numpy as np

from benchmarks.offline.controllers import Part, maze_walker, write_log


# Breaks if `cue` stays that of the first episode: `cue if len(cue) else shown`.
def test_turns_as_the_cue_of_its_own_episode_said(tmp_path):
    walks = [Part("walks", 30, maze_walker())]
    log = write_log(tmp_path / "log", "seqrl/TMaze-v0", walks, seed=0, num_envs=5, env_kwargs={"length": 3})
    np.testing.assert_array_equal(log.returns, 1)
    np.testing.assert_array_equal(log.lengths, 4)
    cue = log.observation[log.starts[:-1], 0]
    assert {-1, 1} == set(cue.tolist())
