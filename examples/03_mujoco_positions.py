"""MuJoCo from positions alone: a pole on a cart whose sensors give no velocities. Needs `pip install seqrl[mujoco]`.

`hide` takes entries out of a vector observation, of any environment: here the last two of x, θ, dx/dt and dθ/dt.
"""

from contextlib import closing
from dataclasses import replace

import tyro

import seqrl
from seqrl.algorithms import ppo
from seqrl.config import make_environment
from seqrl.evaluate import evaluate


def main(steps: int = 200_000, run_dir: str = "runs/03_positions") -> dict[str, float]:
    """Train with and without a memory for `steps` environment steps; 1,000 steps of balance are the most."""
    base = ppo.Config(
        env="InvertedPendulum-v5",
        hide=(2, 3),
        num_envs=16,
        rollout_length=128,
        num_minibatches=4,
        learning_rate=1e-3,
        memory_horizon=0,  # a velocity needs the last few steps, none of long ago
        previous_action=True,  # what the motor was told says where the cart is going
        entropy_weight=0.0,
        num_steps=steps,
    )
    returns = {}
    for memory in ("none", "gru"):
        config = replace(base, memory=memory, run_dir=f"{run_dir}_{memory}")
        agent = seqrl.train(config)
        with closing(make_environment(config, num_envs=10)) as environment:
            result = evaluate(agent, environment, num_episodes=10, seed=10_000)
        print(f"{memory:>4}: {result.mean:.0f} ± {result.half_width:.0f} of 1,000 steps")
        returns[memory] = result.mean
    return returns


if __name__ == "__main__":
    tyro.cli(main)
