"""The experiments on small problems whose best is known exactly."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.offline.controllers import Part, crossing_log, maze_walker, write_log
from benchmarks.offline.experiment import Experiment, Goal, Scores, by_target, returns
from benchmarks.offline.oracles import logged_values, tabular_q
from seqrl.collect import random_policy
from seqrl.data import EpisodeDataset
from seqrl.decision_agent import DecisionAgent
from seqrl.envs import CrossingCorridors, Environment, Gamble, KeyToDoor, ShortestPath, TMaze, TorchEnvironment
from seqrl.envs.base import State
from seqrl.envs.exact import gamble_conditioned_return, optimal_return, shortest_path_distances

# ------------------------------------------------------------------------------------------------ shortest path

WALK = 30
"""Steps after which one who learnt from the walks is stopped."""


class EveryStart(ShortestPath):
    """Row b starts at node 1 + b mod (num_nodes − 1)."""

    def _start(self) -> State:
        return {"node": 1 + torch.arange(self.num_envs, device=self.device) % (self.num_nodes - 1)}


def graph_of(dataset: EpisodeDataset) -> int:
    return int(dataset.about["env_kwargs"][0].partition("=")[2])


def every_start(dataset: EpisodeDataset, copies: int = 1) -> EveryStart:
    return EveryStart(19 * copies, graph_seed=graph_of(dataset), max_episode_steps=WALK)


def excess(steps: np.ndarray, dataset: EpisodeDataset) -> Scores:
    """Steps above the shortest, from `steps` [N], whose row b is of start 1 + b mod 19."""
    distances = shortest_path_distances(every_start(dataset).adjacency)[1:]
    start = np.arange(len(steps)) % 19
    above = steps - distances[start]
    shown = (-logged_values(dataset)[1:20] == distances)[start]
    return {
        "excess": float(above.mean()),
        "excess where shown": float(above[shown].mean()),
        "shortest": float((above == 0).mean()),
        "arrived": float((steps < WALK).mean()),
    }


def shortest_path_others(dataset: EpisodeDataset, seed: int) -> dict[str, Scores]:
    best = tabular_q(dataset).policy(dataset)
    walk = random_policy(dataset.action_space)
    return {
        "best in the log": excess(np.minimum(-logged_values(dataset)[1:20], WALK), dataset),
        "tabular Q": excess(-returns(best, TorchEnvironment(every_start(dataset)), 19, seed), dataset),
        "random": excess(-returns(walk, TorchEnvironment(every_start(dataset, 20)), 380, seed, sample=True), dataset),
    }


def score_shortest_path(agent: DecisionAgent, dataset: EpisodeDataset, seed: int) -> Scores:
    """From every start, asked for the best that an arrived walk of the log had from there; −10 where none arrived.

    "Shown" are starts from which the log has a shortest way, as a walk or as the end of one.
    """
    logged = logged_values(dataset)[1:20]
    agent.target_return = torch.as_tensor(np.where(np.isfinite(logged), logged, -10.0))
    scores = excess(-returns(agent, TorchEnvironment(every_start(dataset)), 19, seed), dataset)
    agent.target_return = -1.0
    least = excess(-returns(agent, TorchEnvironment(every_start(dataset)), 19, seed), dataset)
    return scores | {"excess asked for -1": least["excess"]}


def shortest_path_log(folder: Path, seed: int) -> EpisodeDataset:
    walks = [Part("random walks", 1000)]
    return write_log(folder, "seqrl/ShortestPath-v0", walks, seed=seed, num_envs=100, env_kwargs={"graph_seed": seed})


def arrived(dataset: EpisodeDataset) -> np.ndarray:
    """The walks that reached the goal. What the others would have brought is unknown; the log, which ends with them,
    shows their last steps as returns of −1, −2, …, as of those who are about to arrive."""
    return np.flatnonzero(dataset.terminated[dataset.starts[:-1] + dataset.lengths - 1])


SHORTEST_PATH = Experiment(
    about="1,000 random walks of 10 steps in a random graph of 20 nodes, a graph for each seed; excess is steps above "
    "the shortest path, over all 19 starts, each asked for the best return that the log has from there",
    log=shortest_path_log,
    part=arrived,
    score=score_shortest_path,
    others=shortest_path_others,
    settings={"num_steps": 600, "context_length": 10, "hidden_size": 64, "num_layers": 2, "warmup": 50},
    methods={
        "dt": {"part": True},
        "dt, K = 1": {"part": True, "context_length": 1},
        "dt, cut walks too": {},
        "bc": {"part": True, "condition": "none"},
        "bc, best 10 %": {"condition": "none", "best_share": 0.1},
    },
    goals=[Goal("dt", "excess where shown", at_most=0.3), Goal("bc", "excess where shown", at_least=2)],
    num_seeds=5,
)

# ------------------------------------------------------------------------------------------------ key to door


def key_to_door_log(folder: Path, seed: int, episodes: int) -> EpisodeDataset:
    return write_log(folder, "seqrl/KeyToDoor-v0", [Part("random", episodes)], seed=seed, num_envs=200)


def score_key_to_door(agent: DecisionAgent, dataset: EpisodeDataset, seed: int) -> Scores:
    """Of 1,000 episodes, ± 3 points: the likeliest actions' successes, and drawn ones'."""
    agent.target_return = 1.0
    played = [returns(agent, TorchEnvironment(KeyToDoor(500)), 1000, seed, sample=sample) for sample in (False, True)]
    return {"success": float(played[0].mean()), "success, drawn": float(played[1].mean())}


def key_to_door(episodes: int, success: float, num_steps: int) -> Experiment:
    """Windows for those who are asked come from failures and successes equally often, but for "dt, as logged".

    One layer reads the last 20 rows by its cache as it does afresh, which is slower.
    """
    return Experiment(
        about=f"{episodes:,} episodes of random actions, of which 3 in 100 bring the key to the door; asked for 1",
        log=partial(key_to_door_log, episodes=episodes),
        score=score_key_to_door,
        others=lambda dataset, seed: {"random": {"success, drawn": 0.0315}},
        settings={
            "num_steps": num_steps,
            "context_length": 20,
            "hidden_size": 64,
            "num_layers": 1,
            "context": "cache",
        },
        methods={
            "dt": {"return_bins": 2},
            "dt, K = 1": {"return_bins": 2, "context_length": 1},
            "dt, as logged": {},
            "bc": {"condition": "none"},
            "bc, successes": {"condition": "none", "best_share": 0.03},
        },
        goals=[
            Goal("dt", "success", at_least=success),
            Goal("bc", "success, drawn", at_most=0.1),
            Goal("bc", "success", at_most=0.1),
        ],
    )


# ------------------------------------------------------------------------------------------------ T-maze


def score_tmaze(agent: DecisionAgent, dataset: EpisodeDataset, seed: int) -> Scores:
    agent.target_return = 1.0
    return {"return": float(returns(agent, TorchEnvironment(TMaze(500, length=4)), 1000, seed).mean())}


TMAZE = Experiment(
    about="500 walks down the corridor of a T-maze to the arm that a cue says, a third of all actions random; asked "
    "for 1, which only who remembers the cue gets: without memory nobody gets more than 1/2",
    log=lambda folder, seed: write_log(
        folder,
        "seqrl/TMaze-v0",
        [Part("walks", 500, maze_walker(), 1 / 3)],
        seed=seed,
        num_envs=100,
        env_kwargs={"length": 4},
    ),
    score=score_tmaze,
    # Several heads: one alone finds the return, and the cue late or never.
    settings={
        "num_steps": 1000,
        "context_length": 10,
        "hidden_size": 64,
        "num_layers": 1,
        "num_heads": 4,
        "warmup": 50,
    },
    methods={
        "dt": {},
        "dt, K = 1": {"context_length": 1},
        "dt, one head": {"num_heads": 1},
        "bc": {"condition": "none"},
        "bc, K = 1": {"condition": "none", "context_length": 1},
    },
    goals=[Goal("dt", "return", at_least=0.9), Goal("dt, K = 1", "return", at_most=0.6)],
)

# ------------------------------------------------------------------------------------------------ crossing corridors

LENGTH = 3


def crossing(num_envs: int) -> Environment:
    return TorchEnvironment(CrossingCorridors(num_envs, length=LENGTH))


def score_corridors(agent: DecisionAgent, dataset: EpisodeDataset, seed: int) -> Scores:
    """Asked for the best of the log, for the best there is, for the agent's own default, and for all between."""
    grid = np.arange(0, 4.01, 0.25).tolist()
    played = by_target(agent, crossing, [2.0, 3.0, float(agent.target_return), *grid], 1, seed)[:, 0]
    return {
        "return asked for 2": float(played[0]),
        "return asked for 3": float(played[1]),
        "return by default": float(played[2]),
        "best of all targets": float(played[3:].max()),
    }


def corridors_others(dataset: EpisodeDataset, seed: int) -> dict[str, Scores]:
    best = tabular_q(dataset).policy(dataset)
    return {
        "tabular Q": {"return by default": float(returns(best, crossing(1), 1, seed)[0])},
        "optimal": {"return by default": float(optimal_return(CrossingCorridors(length=LENGTH)) or 0)},
    }


CORRIDORS = Experiment(
    about="two in three logged episodes go A, B and get 1, one in three C, D for 2; none goes A, D, for 3",
    log=lambda folder, seed: write_log(
        folder, "seqrl/CrossingCorridors-v0", crossing_log(LENGTH), seed=seed, env_kwargs={"length": LENGTH}
    ),
    score=score_corridors,
    others=corridors_others,
    settings={"num_steps": 400, "context_length": 8, "hidden_size": 64, "num_layers": 2},
    methods={
        "dt": {},
        "dt, K = 1": {"context_length": 1},
        "qdt": {"relabel": "values", "value_updates": 1000},
        "qdt, K = 1": {"relabel": "values", "value_updates": 1000, "context_length": 1},
        "bc": {"condition": "none"},
        "bc, best third": {"condition": "none", "best_share": 1 / 3},
    },
    goals=[
        Goal("dt", "best of all targets", at_most=2),
        Goal("dt, K = 1", "best of all targets", at_most=2),
        Goal("qdt", "return by default", at_least=3),
        Goal("qdt, K = 1", "return by default", at_least=3),
        Goal("tabular Q", "return by default", at_least=3),
    ],
    num_seeds=5,
)

# ------------------------------------------------------------------------------------------------ gamble

TARGETS = (2.0, 4.0, 6.0, 9.0, 12.0)


def score_gamble(agent: DecisionAgent, dataset: EpisodeDataset, seed: int) -> Scores:
    """Drawn actions, which tend to the exact figures, and the likeliest ones."""

    def env(num_envs: int) -> Environment:
        return TorchEnvironment(Gamble(num_envs))

    drawn = by_target(agent, env, TARGETS, 400, seed, sample=True).mean(1)
    likeliest = by_target(agent, env, TARGETS, 400, seed).mean(1)
    return {f"asked for {t:g}": float(r) for t, r in zip(TARGETS, drawn, strict=True)} | {
        f"likeliest, asked for {t:g}": float(r) for t, r in zip(TARGETS, likeliest, strict=True)
    }


def gamble_others(dataset: EpisodeDataset, seed: int) -> dict[str, Scores]:
    exact = {f"asked for {t:g}": gamble_conditioned_return(t, 4, 0.2) for t in TARGETS}
    best = tabular_q(dataset).policy(dataset)
    sure = float(returns(best, TorchEnvironment(Gamble(400)), 400, seed).mean())
    return {
        "exact imitation": exact,
        "tabular Q": {f"asked for {t:g}": sure for t in TARGETS},
        "optimal": {f"asked for {t:g}": float(optimal_return(Gamble()) or 0) for t in TARGETS},
    }


GAMBLE = Experiment(
    about="2,000 episodes of 4 random choices between 1 for sure and 3 with a chance of 0.2; the best is 4, for sure",
    log=lambda folder, seed: write_log(folder, "seqrl/Gamble-v0", [Part("random", 2000)], seed=seed, num_envs=200),
    score=score_gamble,
    others=gamble_others,
    settings={"num_steps": 1000, "context_length": 4, "hidden_size": 64, "num_layers": 2},
    methods={
        # About four of 2,000 episodes bring 10: drawn as they were logged, what that means is hardly learnt.
        "dt": {"return_bins": 10},
        "dt, as logged": {},
        "bc": {"condition": "none"},
        "bc, best 10 %": {"condition": "none", "best_share": 0.1},
    },
    goals=[
        Goal("dt", "asked for 4", at_most=3.5),
        Goal("dt", "asked for 12", at_most=2.8),
        Goal("dt", "likeliest, asked for 12", at_most=2.8),
        Goal("dt", "likeliest, asked for 4", at_least=3.5),
    ],
)

EXPERIMENTS = {
    "shortest_path": SHORTEST_PATH,
    "key_to_door_1k": key_to_door(1_000, 0.65, num_steps=800),
    "key_to_door_10k": key_to_door(10_000, 0.9, num_steps=1_000),
    "tmaze": TMAZE,
    "corridors": CORRIDORS,
    "gamble": GAMBLE,
}
