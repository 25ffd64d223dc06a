"""Shortest paths in a random graph: what can be learnt from random walks alone?"""

import numpy as np
import torch
from gymnasium.spaces import Dict, Discrete, MultiBinary
from torch import Tensor

from seqrl.envs.base import State, TorchVectorEnv, Transition, require_at_least
from seqrl.errors import UserError

GOAL = 0


class ShortestPath(TorchVectorEnv):
    """Walk along the edges of a graph to a goal; every step costs 1. A random walk finds it late, or not in time.

    The graph is undirected and depends on `graph_seed` alone, so that it is the same in every episode: each pair of
    the `num_nodes` nodes is joined with probability `edge_probability`. A part of it that is cut off from the goal gets
    one more edge, between a random node of its own and a random one of those that can already reach the goal. The goal
    is node 0, and absorbing. Episodes start at a uniformly drawn other node, or always at `start`.

    Observation: {"node": the current node, "action_mask": bool [num_nodes], True for its neighbours}. Action: the next
    node; a node that is no neighbour is staying. (Names of nodes, not numbers of edges, so that an action means the
    same wherever it is taken.) Reward: −1 a decision. End: `terminated` at the goal; `truncated` after
    `max_episode_steps` decisions. Optimal return from a node: minus its distance to the goal, by breadth-first search
    (`seqrl.envs.exact.shortest_path_distances`).
    Source: after the illustration in Chen et al. 2021 (arXiv 2106.01345), figure 2, which learns from 1,000 random
    walks of 10 steps in a graph of 20 nodes; how the graph is joined up, and the mask, are ours.

    Raises: UserError if `num_nodes` is below 2, `edge_probability` not in [0, 1], or `start` not a node or the goal.
    """

    def __init__(
        self,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = 10,
        num_nodes: int = 20,
        edge_probability: float = 0.1,
        graph_seed: int = 0,
        start: int | None = None,
    ) -> None:
        require_at_least(2, num_nodes=num_nodes)
        require_at_least(0, graph_seed=graph_seed)
        if not 0 <= edge_probability <= 1:
            raise UserError(f"edge_probability={edge_probability}: give a number from 0 to 1")
        if start is not None and not GOAL < start < num_nodes:
            raise UserError(f"start={start}: give a node from 1 to {num_nodes - 1} (0 is the goal), or none")
        observation_space = Dict(node=Discrete(num_nodes), action_mask=MultiBinary(num_nodes))
        super().__init__(observation_space, Discrete(num_nodes), num_envs, device, max_episode_steps)
        self.num_nodes = num_nodes
        self.start = start
        self.adjacency = random_graph(num_nodes, edge_probability, graph_seed)
        self._neighbours = torch.as_tensor(self.adjacency, device=self.device)

    def _start(self) -> State:
        if self.start is not None:
            return {"node": torch.full((self.num_envs,), self.start, device=self.device)}
        draw = torch.randint(1, self.num_nodes, (self.num_envs,), generator=self.generator, device=self.device)
        return {"node": draw}

    def _transition(self, state: State, action: Tensor) -> Transition:
        node = torch.where(self._neighbours[state["node"], action], action, state["node"])
        return {"node": node}, torch.full_like(node, -1.0, dtype=torch.float32), node == GOAL

    def _observe(self, state: State) -> dict[str, Tensor]:
        return {"node": state["node"].clone(), "action_mask": self._neighbours[state["node"]]}


def random_graph(num_nodes: int, edge_probability: float, seed: int) -> np.ndarray:
    """A symmetric bool matrix [num_nodes, num_nodes]: a random graph, joined up so that every node reaches node 0."""
    draw = np.random.default_rng(seed)
    upper = np.triu(draw.random((num_nodes, num_nodes)) < edge_probability, 1)
    adjacency = upper | upper.T
    joined = _reachable(adjacency, GOAL)
    while not joined.all():
        part = _reachable(adjacency, int(np.flatnonzero(~joined)[0]))
        node, other = draw.choice(np.flatnonzero(part)), draw.choice(np.flatnonzero(joined))
        adjacency[node, other] = adjacency[other, node] = True
        joined |= part
    return adjacency


def _reachable(adjacency: np.ndarray, node: int) -> np.ndarray:
    reached = np.arange(len(adjacency)) == node
    while True:
        wider = reached | adjacency[reached].any(0)
        if (wider == reached).all():
            return reached
        reached = wider
