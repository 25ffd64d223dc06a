"""Leduc poker against a player whose habits never change: what is the best that can be had of him, and who gets it?

A card is seen once, when it is dealt, and the other's bets tell of his: all of it has to be remembered. The best
response is known exactly, and so is what the agent's policy brings against it, since the game is small enough to sum
over all that may happen: no games are sampled, nothing is left to luck.
"""

from dataclasses import replace

import tyro

import seqrl
from seqrl.envs.leduc_exact import best_response_return, policy_of, policy_return
from seqrl.recipes import leduc


def main(steps: int = 3_000_000, opponent: str = "rules", run_dir: str = "runs/04_leduc") -> float:
    """Train for `steps` environment steps, and give the share of the best response's value that was learnt."""
    config = replace(leduc(), env_kwargs=(f"opponent={opponent}",), num_steps=steps, run_dir=run_dir)
    agent = seqrl.train(config)

    best, learnt = best_response_return(opponent), policy_return(policy_of(agent), opponent)
    print(f"{learnt:.4f} chips a game; the best response has {best:.4f}: {learnt / best:.1%}")
    return learnt / best


if __name__ == "__main__":
    tyro.cli(main)
