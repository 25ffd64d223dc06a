"""Partially observed problems as batches of tensors, registered with Gymnasium.

`gym.make_vec("seqrl/TMaze-v0", num_envs=64, device="cuda")` gives the batch, `gym.make("seqrl/TMaze-v0")` a single one.
"""

import gymnasium

from seqrl.envs.adapters import Environment, GymnasiumEnvironment, TorchEnvironment
from seqrl.envs.bandit import Bandit
from seqrl.envs.base import State, TorchVectorEnv, Transition
from seqrl.envs.crossing_corridors import CrossingCorridors
from seqrl.envs.dark_key_to_door import DarkKeyToDoor
from seqrl.envs.dark_room import DarkRoom
from seqrl.envs.gamble import Gamble
from seqrl.envs.key_to_door import KeyToDoor
from seqrl.envs.leduc import Leduc
from seqrl.envs.make import known_ids, make
from seqrl.envs.masked_cartpole import MaskedCartPole
from seqrl.envs.masked_mountain_car import MaskedMountainCarContinuous
from seqrl.envs.masked_pendulum import MaskedPendulum
from seqrl.envs.registration import register
from seqrl.envs.repeat_previous import RepeatPrevious
from seqrl.envs.shortest_path import ShortestPath
from seqrl.envs.single import SingleEnv
from seqrl.envs.tabular_mdp import TabularMDP
from seqrl.envs.tiger import Tiger
from seqrl.envs.tmaze import TMaze
from seqrl.envs.trial_wrapper import Trials
from seqrl.envs.trials import TrialVectorEnv

__all__ = [
    "ENVIRONMENTS",
    "Bandit",
    "CrossingCorridors",
    "DarkKeyToDoor",
    "DarkRoom",
    "Environment",
    "Gamble",
    "GymnasiumEnvironment",
    "KeyToDoor",
    "Leduc",
    "MaskedCartPole",
    "MaskedMountainCarContinuous",
    "MaskedPendulum",
    "RepeatPrevious",
    "ShortestPath",
    "SingleEnv",
    "State",
    "TMaze",
    "TabularMDP",
    "Tiger",
    "TorchEnvironment",
    "TorchVectorEnv",
    "Transition",
    "TrialVectorEnv",
    "Trials",
    "known_ids",
    "make",
    "register",
]

ENVIRONMENTS: dict[str, type[TorchVectorEnv]] = {
    "seqrl/MaskedCartPole-v0": MaskedCartPole,
    "seqrl/MaskedPendulum-v0": MaskedPendulum,
    "seqrl/MaskedMountainCarContinuous-v0": MaskedMountainCarContinuous,
    "seqrl/TMaze-v0": TMaze,
    "seqrl/RepeatPrevious-v0": RepeatPrevious,
    "seqrl/Tiger-v0": Tiger,
    "seqrl/KeyToDoor-v0": KeyToDoor,
    "seqrl/Leduc-v0": Leduc,
    "seqrl/ShortestPath-v0": ShortestPath,
    "seqrl/CrossingCorridors-v0": CrossingCorridors,
    "seqrl/Gamble-v0": Gamble,
    "seqrl/Bandit-v0": Bandit,
    "seqrl/TabularMDP-v0": TabularMDP,
    "seqrl/DarkRoom-v0": DarkRoom,
    "seqrl/DarkKeyToDoor-v0": DarkKeyToDoor,
}
"""seqrl's environments by Gymnasium id. The first line of a class's docstring is its summary."""

for _id, _class in ENVIRONMENTS.items():
    if _id not in gymnasium.registry:  # a second import, say by importlib.reload, registers nothing twice
        register(_id, _class)
