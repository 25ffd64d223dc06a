"""The experiments on control: does the return that is got follow the one that is asked for?"""

from collections.abc import Sequence
from contextlib import closing

from scipy.stats import spearmanr

from benchmarks.offline.controllers import mixed_cart_pole, mixed_half_cheetah, mixed_pendulum, write_log
from benchmarks.offline.experiment import Experiment, Goal, Scores, by_target
from seqrl.calibrate import calibrate, target_grid
from seqrl.data import EpisodeDataset
from seqrl.decision_agent import DecisionAgent
from seqrl.envs import make

CART_POLE_TARGETS = (20.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0, 350.0, 400.0, 450.0, 500.0)
PENDULUM_TARGETS = (-1400.0, -1200.0, -1000.0, -800.0, -600.0, -400.0, -200.0, -100.0)


def follow(agent: DecisionAgent, dataset: EpisodeDataset, seed: int, targets: Sequence[float], episodes: int) -> Scores:
    """Mean returns by target, and their rank correlation with it; of cloned behaviour, the mean alone."""
    env = dataset.about["env"]
    if not agent.conditioned:
        played = by_target(agent, lambda n: make(env, n), [0.0], 2 * episodes, seed).mean()
        return {"return": float(played)}
    got = by_target(agent, lambda n: make(env, n), targets, episodes, seed).mean(1)
    scores = {f"asked for {t:g}": round(float(r), 2) for t, r in zip(targets, got, strict=True)}
    return {
        "spearman": float(spearmanr(targets, got).statistic),
        "return": scores[f"asked for {targets[-1]:g}"],
    } | scores


CART_POLE = Experiment(
    about="500 episodes of random, partial and good controllers, with returns from 10 to 500",
    log=lambda folder, seed: write_log(folder, "CartPole-v1", mixed_cart_pole(), seed=seed, num_envs=20),
    score=lambda agent, dataset, seed: follow(agent, dataset, seed, CART_POLE_TARGETS, 10),
    settings={"num_steps": 3000, "context_length": 10, "hidden_size": 64, "num_layers": 2},
    methods={
        "dt": {},
        "bc": {"condition": "none"},
        "bc, best 10 %": {"condition": "none", "best_share": 0.1},
    },
    goals=[Goal("dt", "spearman", at_least=0.95), Goal("dt", "return", at_least=450)],
)

PENDULUM = Experiment(
    about="300 episodes of random, partial and good controllers",
    log=lambda folder, seed: write_log(folder, "Pendulum-v1", mixed_pendulum(), seed=seed, num_envs=30),
    score=lambda agent, dataset, seed: follow(agent, dataset, seed, PENDULUM_TARGETS, 20),
    settings={"num_steps": 4000, "context_length": 10, "hidden_size": 64, "num_layers": 2},
    methods={
        "dt": {},
        "bc": {"condition": "none"},
        "bc, best 10 %": {"condition": "none", "best_share": 0.1},
    },
    goals=[Goal("dt", "return", at_least=-300)],
)

HALF_CHEETAH_TARGETS = (-300.0, 0.0, 200.0, 400.0)


def calibrated(agent: DecisionAgent, dataset: EpisodeDataset, seed: int) -> Scores:
    """The target that `seqrl calibrate` would recommend, of 8 with 4 episodes each, and what 8 other episodes bring."""
    env, targets = dataset.about["env"], target_grid(dataset, 8)
    with closing(make(env, 4 * len(targets))) as environment:
        found = calibrate(agent, environment, dataset, targets, 4, seed=20_000 + seed)
    played = by_target(agent, lambda n: make(env, n), [found.recommended], 8, seed)
    return {"calibrated target": round(found.recommended, 2), "return, calibrated": round(float(played.mean()), 2)}


def score_half_cheetah(agent: DecisionAgent, dataset: EpisodeDataset, seed: int) -> Scores:
    scores = follow(agent, dataset, seed, HALF_CHEETAH_TARGETS, 4)
    return scores | calibrated(agent, dataset, seed) if agent.conditioned else scores


HALF_CHEETAH = Experiment(
    about="50 episodes of random actions and of a gallop at four strengths; needs `pip install seqrl[mujoco]`",
    log=lambda folder, seed: write_log(folder, "HalfCheetah-v5", mixed_half_cheetah(), seed=seed, num_envs=5),
    score=score_half_cheetah,
    settings={"num_steps": 3000, "context_length": 10, "hidden_size": 64, "num_layers": 2},
    methods={"dt": {}, "bc": {"condition": "none"}},
    goals=[Goal("dt", "return, calibrated", at_least=200), Goal("dt", "spearman", at_least=0.8)],
    packages=["mujoco"],
)

EXPERIMENTS = {"cart_pole": CART_POLE, "pendulum": PENDULUM, "half_cheetah": HALF_CHEETAH}
