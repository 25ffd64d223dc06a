"""An environment of your own: any `gymnasium.Env` will do, once it has a name.

A lock shows its three digits one after the other, then goes dark, and wants them back in the same order. Only who
remembers can open it: three right digits bring 1, guessing brings ¼.
"""

import gymnasium as gym
import numpy as np
import tyro

import seqrl
from seqrl.algorithms import ppo

NUM_DIGITS, DARK = 3, 4


class Lock(gym.Env):
    """Shows a digit from 0 to 3 at each of the first steps, then 4 for darkness."""

    observation_space = gym.spaces.Discrete(5)
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.code = 0, self.np_random.integers(4, size=NUM_DIGITS)
        return int(self.code[0]), {}

    def step(self, action):
        asked = self.time - NUM_DIGITS  # what is pressed while digits are still shown does not matter
        reward = float(asked >= 0 and action == self.code[asked]) / NUM_DIGITS
        self.time += 1
        shown = int(self.code[self.time]) if self.time < NUM_DIGITS else DARK
        return shown, reward, self.time == 2 * NUM_DIGITS, False, {}  # terminated, truncated


def main(steps: int = 150_000, run_dir: str = "runs/02_lock") -> float:
    """Train for `steps` environment steps, then open twenty locks by hand; gives the mean return, 1 at most."""
    gym.register("Lock-v0", Lock)  # `package:Lock-v0` would find it in a module of your own, from the command line too
    agent = seqrl.train(ppo.Config(env="Lock-v0", memory="gru", num_steps=steps, run_dir=run_dir))

    env, total = gym.make("Lock-v0"), 0.0
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        agent.reset()  # a new episode: forget
        ended = False
        while not ended:  # `act` keeps the memory between calls
            observation, reward, terminated, truncated, _ = env.step(agent.act(np.asarray(observation)))
            total, ended = total + reward, terminated or truncated
    print(f"opened {total / 20:.0%} of the digits; guessing opens 25 %")
    return total / 20


if __name__ == "__main__":
    tyro.cli(main)
