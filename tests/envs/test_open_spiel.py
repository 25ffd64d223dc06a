"""OpenSpiel's games: what a seat sees, may do and gets, against games stepped by OpenSpiel itself."""

import sys

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from seqrl.envs import leduc_exact, make
from seqrl.envs.open_spiel import OpenSpielGame
from seqrl.errors import UserError

pyspiel = pytest.importorskip("pyspiel", reason="seqrl[openspiel] is not installed")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's, about boxes without bounds
def test_it_is_an_environment():
    check_env(OpenSpielGame("kuhn_poker"), skip_render_check=True)


def test_a_game_is_that_of_openspiel():
    """Broken by rewards of the other seat, or an opponent whose chances are not asked at each of its turns."""
    asked = []

    def raises(state):
        asked.append(state.current_player())
        return {max(state.legal_actions()): 1.0}

    env = OpenSpielGame("leduc_poker", opponent=raises, seat=1)
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        total, terminated = 0.0, False
        while not terminated:
            assert np.flatnonzero(observation["action_mask"]).tolist() == env.state.legal_actions()
            assert observation["observation"].tolist() == env.state.observation_tensor(1)
            observation, reward, terminated, _, _ = env.step(1)
            total += reward
        assert total == env.state.returns()[1]
        assert observation["action_mask"].all()
    assert set(asked) == {0}


def test_a_uniform_agent_gets_what_the_exact_sum_says():
    env, draw, returns = OpenSpielGame("leduc_poker", seat=0), np.random.default_rng(0), []
    for episode in range(1500):
        observation, _ = env.reset(seed=episode)
        terminated, total = False, 0.0
        while not terminated:
            action = draw.choice(np.flatnonzero(observation["action_mask"]))
            observation, reward, terminated, _, _ = env.step(action)
            total += reward
        returns.append(total)
    expected = leduc_exact.policy_return(lambda seen, legal, memory: (np.array(legal) / sum(legal), None), "uniform", 0)
    assert abs(np.mean(returns) - expected) < 4 * np.std(returns) / len(returns) ** 0.5


def test_batched_by_its_id():
    env = make("openspiel/leduc_poker", 3, env_kwargs={"tensor": "information_state"})
    step = env.reset(0)
    assert step.observation["observation"].shape == (3, 30)
    assert step.observation["action_mask"].shape == (3, 3)
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"game": "leduc"}, "OpenSpiel cannot load the game 'leduc'"),
        ({"game": "matrix_pd"}, "not a game of two players who act in turn"),
        ({"game": "leduc_poker", "parameters": {"players": 3}}, "not a game of two players"),
        ({"game": "kuhn_poker", "seat": 2}, "seat=2: give 0, 1"),
        ({"game": "kuhn_poker", "tensor": "all"}, "choose observation or information_state"),
        ({"game": "kuhn_poker", "opponent": "best"}, "unknown opponent 'best': give uniform"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        OpenSpielGame(**arguments)
    assert "\n" not in str(caught.value)


def test_an_action_that_is_not_allowed():
    env = OpenSpielGame("leduc_poker", seat=0)
    env.reset(seed=0)
    with pytest.raises(UserError, match="action 0 is not allowed here"):
        env.step(0)


def test_without_openspiel(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspiel", None)
    with pytest.raises(UserError, match=r"pip install 'seqrl\[openspiel\]'"):
        make("openspiel/leduc_poker", 1)
