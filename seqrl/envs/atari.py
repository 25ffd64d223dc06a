"""Atari games, stepped as one batch by ALE's own threads: the one file that imports ale_py.

An id is `ALE/Pong-v5` and the like. A step shows one uint8 frame [1, 84, 84] in gray, the maximum of the last two of
the four that the action is held for. Frames are not stacked here: that is the memory's work, the replay keeps each
once, and flicker blanks them one by one, as it must. Arguments of the environment, with their defaults:

- `repeat_action_probability=0.25`: that the previous action is kept instead (sticky actions; Machado et al. 2018, arXiv
  1709.06009). 0 for the protocol of Mnih et al. 2015 and of R2D2, which start with 0 to 30 no-ops, as ours do anyway.
- `reward_clipping=false`: rewards are the game's, so that logged returns are its scores. R2D2 rescales values instead;
  for an algorithm that does not, `reward_clipping=true` clips rewards to [−1, 1], and logged returns with them.
- `max_num_frames_per_episode=108000`: the time limit, in frames of the game: 27,000 steps. It truncates.
- `episodic_life=false`, `full_action_space=false`, `frameskip=4`, `maxpool=true`, `noop_max=30`,
  `use_fire_reset=true`, `img_height=84`, `img_width=84`, `grayscale=true`, `stack_num=1`, `num_threads=0` (0: one each
  core): as ALE documents them.

Source: Bellemare et al. 2013, "The Arcade Learning Environment" (arXiv 1207.4708). ale-py is under the GPL.
"""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorWrapper

from seqrl.errors import UserError


def is_atari(env_id: str) -> bool:
    """Whether `env_id` is one of ALE's that can be stepped as one batch."""
    return env_id.rpartition(":")[2].startswith("ALE/")


def register(env_id: str) -> None:
    """Register ALE's environments with Gymnasium, `env_id` among them. Raises UserError where it is missing."""
    try:
        import ale_py  # its import registers them
        from ale_py.vector_env import AtariVectorEnv
    except ImportError as error:
        raise UserError(f"'{env_id}' needs ale-py ({error}): pip install 'seqrl[atari]'") from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # or every new environment prints a banner
    # It writes its autoreset mode into `self.metadata`, which without this line is that of every vector environment.
    if "metadata" not in vars(AtariVectorEnv):
        AtariVectorEnv.metadata = dict(AtariVectorEnv.metadata)


def arguments(env_id: str, env_kwargs: dict[str, Any], autoreset_mode: AutoresetMode) -> dict[str, Any]:
    """`env_kwargs` over our defaults. Raises UserError for what the rollout could not read."""
    if autoreset_mode is AutoresetMode.DISABLED:
        raise UserError(f"autoreset_mode=disabled: '{env_id}' always resets by itself; give next_step or same_step")
    if "batch_size" in env_kwargs:
        raise UserError(f"batch_size={env_kwargs['batch_size']}: '{env_id}' must step all its environments together")
    return {"stack_num": 1, "reward_clipping": False} | env_kwargs | {"autoreset_mode": autoreset_mode}


class Seeded(VectorWrapper):
    """Takes any seed, and gives each environment one of its own.

    ALE's seeds end at 2³¹ − 1, and it counts up from the first environment's: of runs with neighbouring seeds, all
    environments but one would share theirs.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        seeds = None if seed is None else np.random.SeedSequence(seed).generate_state(self.num_envs) >> 1
        return self.env.reset(seed=seeds, options=options)  # type: ignore[arg-type]
