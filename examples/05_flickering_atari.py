"""Pong of which every second frame is blank, by R2D2 with an LSTM. Needs `pip install seqrl[atari]`, and patience.

The recipe's five million steps take days on two cores; here are enough to see how it is set up and that it runs. The
replay keeps each frame once, and a checkpoint has all of it: a run that was stopped goes on bit for bit.
"""

from dataclasses import replace
from pathlib import Path

import tyro

import seqrl
from seqrl.recipes import flickering_pong
from seqrl.run_folder import read_metrics


def main(steps: int = 20_000, num_envs: int = 16, run_dir: str = "runs/05_flickering_pong") -> list[dict[str, float]]:
    """Train for `steps` environment steps, and give the lines of the log."""
    config = replace(
        flickering_pong(),  # flicker=0.5 blanks each observation with probability ½
        num_steps=steps,
        num_envs=num_envs,
        learning_starts=min(10_000, steps // 4),  # the replay is filled this far before anything is learnt
        replay_capacity=min(100_000, 2 * steps),
        checkpoint_every=40,  # a checkpoint cuts the games off, so a real run has fewer
        run_dir=run_dir,
    )
    seqrl.train(config)

    lines = list(read_metrics(Path(run_dir)))
    learning = [line for line in lines if "loss" in line]
    for line in learning[:: max(1, len(learning) // 5)]:
        print(f"step {line['step']:,.0f}: loss {line['loss']:.4f}, {line['steps_per_second']:.0f} steps/s")
    print(f"to go on: seqrl train --resume {run_dir} --num-steps 5000000")
    return lines


if __name__ == "__main__":
    tyro.cli(main)
