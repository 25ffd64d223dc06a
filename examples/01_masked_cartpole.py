"""CartPole without its velocities: one look does not tell which way the pole is falling, two looks do.

The same settings train an agent that sees the present alone, and one that remembers by a GRU.
"""

from contextlib import closing
from dataclasses import replace

import tyro

import seqrl
from seqrl.config import make_environment
from seqrl.evaluate import evaluate
from seqrl.recipes import masked_cartpole


def main(steps: int = 150_000, run_dir: str = "runs/01_masked_cartpole") -> dict[str, float]:
    """Train both for `steps` environment steps, and give their mean returns; 500 is the most."""
    returns = {}
    for memory in ("none", "gru"):
        # A recipe is a function that returns a Config; any of its settings may be replaced.
        config = replace(masked_cartpole(), memory=memory, num_steps=steps, run_dir=f"{run_dir}_{memory}")
        agent = seqrl.train(config)

        # Whole episodes that training did not see, by the likeliest actions.
        with closing(make_environment(config, num_envs=20)) as environment:
            result = evaluate(agent, environment, num_episodes=20, seed=10_000)
        print(f"{memory:>4}: {result.mean:.0f} ± {result.half_width:.0f} of 500 steps")
        returns[memory] = result.mean
    return returns


if __name__ == "__main__":
    tyro.cli(main)
