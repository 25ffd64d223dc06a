"""A Decision Transformer from logs of your own: it acts as well as you ask it to, within what the log has seen.

Your log is a file with an episode a line; here controllers of CartPole write it that are steady or shaky. Nothing but
the log is learnt from: the environment comes back only to see what was learnt.
"""

import json
from contextlib import closing
from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro

import seqrl
from seqrl.algorithms import decision_transformer
from seqrl.audit import audit
from seqrl.calibrate import calibrate
from seqrl.data import import_episodes
from seqrl.envs import make


def write_log(path: Path, num_episodes: int) -> None:
    """Episodes of a rule that balances the pole, or would if it were not overruled by chance now and then."""
    env, draw = gym.make("CartPole-v1"), np.random.default_rng(0)
    with path.open("w") as file:
        for number in range(num_episodes):
            shaky = draw.uniform(0, 0.8)
            observation, _ = env.reset(seed=number)
            episode = {"observations": [observation.tolist()], "actions": [], "rewards": []}
            terminated = truncated = False
            while not (terminated or truncated):
                action = int(observation @ [0.1, 0.3, 1.0, 0.5] > 0) if draw.random() > shaky else int(draw.integers(2))
                observation, reward, terminated, truncated, _ = env.step(action)
                episode["observations"].append(observation.tolist())
                episode["actions"].append(action)
                episode["rewards"].append(reward)
            file.write(json.dumps(episode | {"terminated": terminated, "truncated": truncated}) + "\n")


def main(steps: int = 2_000, episodes: int = 300, run_dir: str = "runs/06_decision_transformer") -> list[float]:
    """Train for `steps` updates; gives what was got for each return that was asked for."""
    folder = Path(run_dir)
    folder.mkdir(parents=True)
    write_log(folder / "log.jsonl", episodes)
    dataset = import_episodes(folder / "log.jsonl", folder / "log", about={"env": "CartPole-v1"})
    print(*[f"{f.severity}: {f.message}" for f in audit(dataset).findings if f.severity != "ok"], sep="\n")

    small = {"hidden_size": 64, "num_layers": 2, "num_steps": steps}
    agent = seqrl.train(decision_transformer.Config(dataset=f"{folder}/log", run_dir=f"{folder}/run", **small))

    with closing(make("CartPole-v1", 15)) as environment:
        result = calibrate(agent, environment, dataset, [50.0, 200.0, 500.0], num_episodes=5, seed=10_000)
    for asked, got in zip(result.targets, result.achieved, strict=True):
        print(f"asked for {asked:.0f}: got {got:.0f}")
    return result.achieved


if __name__ == "__main__":
    tyro.cli(main)
