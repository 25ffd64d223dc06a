"""OpenSpiel's games of two players, against a fixed policy of the other one: the one file that imports OpenSpiel.

Source: Lanctot et al. 2019, "OpenSpiel: A Framework for Reinforcement Learning in Games" (arXiv 1908.09453).
"""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from seqrl.errors import UserError

NAMESPACE = "openspiel/"
Policy = Callable[[Any], Mapping[int, float]]
"""A state of the game, with the opponent to act -> each action's chance, as OpenSpiel's `Policy.action_probabilities`
gives them."""


def is_open_spiel(env_id: str) -> bool:
    """Whether an id is of OpenSpiel's games."""
    return env_id.rpartition(":")[2].startswith(NAMESPACE)


def register(env_id: str) -> None:
    """Register `openspiel/GAME` with Gymnasium. Raises UserError where OpenSpiel is missing."""
    _pyspiel(env_id)
    if env_id not in gym.registry:
        gym.register(env_id, entry_point=f"{__name__}:OpenSpielGame", kwargs={"game": env_id.removeprefix(NAMESPACE)})


class OpenSpielGame(gym.Env):
    """One seat of a game in which two players act in turn; chance and a fixed opponent play the rest.

    Observation: {"observation": OpenSpiel's tensor, float32, "action_mask": bool [num_distinct_actions]}. The tensor is
    what the seat sees now (`tensor="observation"`, which needs a memory wherever a game hides something) or all that
    it has ever seen (`tensor="information_state"`, which needs none). Reward: what the seat's return grew by since its
    last decision. End: `terminated` with the game. `opponent` is "uniform", or a function of a state (`Policy`); `seat`
    is 0 or 1, or None for a coin's choice in each game; `parameters` are OpenSpiel's for the game.

    The best policy's return against `opponent` is that of `open_spiel.python.algorithms.best_response`.

    Raises: UserError for an unknown game, one that is not for two players in turn or has no such tensor, and an action
    that is not allowed.
    """

    def __init__(
        self,
        game: str,
        opponent: str | Policy = "uniform",
        seat: int | None = None,
        tensor: str = "observation",
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        pyspiel = _pyspiel(NAMESPACE + game)
        try:
            self.game = pyspiel.load_game(game, dict(parameters or {}))
        except pyspiel.SpielError as error:
            raise UserError(f"OpenSpiel cannot load the game '{game}': {str(error).splitlines()[0]}") from error
        kind = self.game.get_type()
        if self.game.num_players() != 2 or kind.dynamics != pyspiel.GameType.Dynamics.SEQUENTIAL:
            raise UserError(f"'{game}' is not a game of two players who act in turn: choose one that is")
        if seat not in (None, 0, 1):
            raise UserError(f"seat={seat}: give 0, 1, or none for either")
        if tensor not in ("observation", "information_state") or not getattr(kind, f"provides_{tensor}_tensor"):
            raise UserError(f"tensor={tensor!r}: '{game}' gives none; choose observation or information_state")
        if isinstance(opponent, str) and opponent != "uniform":
            raise UserError(f"unknown opponent '{opponent}': give uniform, or a function of the game's state")
        self.opponent: Policy = _uniform if isinstance(opponent, str) else opponent
        self.chosen_seat, self.tensor = seat, tensor
        self.shape = tuple(getattr(self.game, f"{tensor}_tensor_shape")())
        self.num_actions = num_actions = self.game.num_distinct_actions()
        self.observation_space = spaces.Dict(
            observation=spaces.Box(-np.inf, np.inf, self.shape, np.float32),
            action_mask=spaces.MultiBinary(num_actions),
        )
        self.action_space = spaces.Discrete(num_actions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin a game, up to the seat's first decision. Games in which it has none are passed over."""
        super().reset(seed=seed)
        self.seat = int(self.np_random.integers(2)) if self.chosen_seat is None else self.chosen_seat
        self.state = self.game.new_initial_state()
        self._play_on()
        while self.state.is_terminal():
            self.state = self.game.new_initial_state()
            self._play_on()
        self.before = self.state.returns()[self.seat]
        return self._observation(), {}

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        if action not in self.state.legal_actions():
            raise UserError(f"action {action} is not allowed here: see the observation's action_mask")
        self.state.apply_action(int(action))
        self._play_on()
        now = self.state.returns()[self.seat]
        reward, self.before = now - self.before, now
        return self._observation(), float(reward), self.state.is_terminal(), False, {}

    def _play_on(self) -> None:
        """Chance and the opponent act until the seat has to, or the game is over."""
        state = self.state
        while not state.is_terminal() and state.current_player() != self.seat:
            chances = dict(state.chance_outcomes()) if state.is_chance_node() else self.opponent(state)
            actions = list(chances)
            up_to = np.cumsum(list(chances.values()))
            drawn = np.searchsorted(up_to, self.np_random.random() * up_to[-1], side="right")
            state.apply_action(int(actions[min(int(drawn), len(actions) - 1)]))

    def _observation(self) -> dict[str, np.ndarray]:
        values = getattr(self.state, f"{self.tensor}_tensor")(self.seat)
        over = self.state.is_terminal()  # nothing is decided then, but a mask must leave something
        mask = np.full(self.num_actions, over, np.int8)
        mask[[] if over else self.state.legal_actions()] = 1
        return {"observation": np.array(values, np.float32).reshape(self.shape), "action_mask": mask}


def _uniform(state: Any) -> Mapping[int, float]:
    legal = state.legal_actions()
    return dict.fromkeys(legal, 1 / len(legal))


def _pyspiel(env_id: str) -> Any:
    try:
        import pyspiel
    except ImportError as error:
        raise UserError(f"'{env_id}' needs OpenSpiel ({error}): pip install 'seqrl[openspiel]'") from error
    return pyspiel
