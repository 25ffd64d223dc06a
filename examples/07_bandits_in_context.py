"""Learning without changing a weight: an agent that finds out which arm pays while it plays (RL²).

Each trial is ten pulls of five arms that nobody has seen before. Memory lives through the trial, so what a pull brought
serves the next. Unseen trials are then played with the weights at rest, beside rules that are known, on the same arms.
"""

from contextlib import closing
from dataclasses import replace

import tyro

import seqrl
from seqrl.adaptation import adapt
from seqrl.config import make_environment
from seqrl.recipes import rl2_bandit
from seqrl.references import references_for
from seqrl.statistics import mean_and_half_width


def main(
    steps: int = 4_000_000, num_envs: int = 1024, trials: int = 2_000, run_dir: str = "runs/07_bandits"
) -> dict[str, float]:
    """Train for `steps` pulls; gives the mean return of a trial of ten pulls by who played it."""
    config = replace(rl2_bandit(), num_steps=steps, num_envs=num_envs, run_dir=run_dir)
    agent = seqrl.train(config)  # PPO on trials; what was pulled and what it brought are inputs of the memory

    with closing(make_environment(config, num_envs=min(trials, 500))) as environment:
        known = references_for(environment)
        chosen = {name: known[name] for name in ("random", "Thompson", "UCB1", "Gittins", "optimal")}
        played = adapt(agent, environment, trials, references=chosen)

    returns = {}
    for name in played.returns:
        mean, half_width = mean_and_half_width(played.total(name).tolist())
        print(f"{name:>8}: {mean:.2f} ± {half_width:.2f} of ten pulls")  # "optimal" knows the arms, nobody else does
        returns[name] = mean
    return returns


if __name__ == "__main__":
    tyro.cli(main)
