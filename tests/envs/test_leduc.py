"""Leduc hold'em: its rules by hand and against OpenSpiel, and its exact returns against what is known."""

import re
from contextlib import closing

import numpy as np
import pytest
import torch

from seqrl.algorithms import ppo
from seqrl.envs import Leduc, leduc, make
from seqrl.envs.exact import optimal_return
from seqrl.envs.leduc import CALL, FOLD, NODES, RAISE
from seqrl.envs.leduc_exact import best_response_return, policy_of, policy_return
from seqrl.errors import UserError
from seqrl.evaluate import evaluate

JACK, QUEEN, KING = range(3)
NOTHING = 0


def uniform(seen, legal, memory):
    return [allowed / sum(legal) for allowed in legal], memory


def test_returns_of_the_uniform_policy_are_the_known_ones():
    """OpenSpiel's NashConv of it is 4.7472, the sum of both best responses, and its exploitability half of that."""
    # Broken by a public card that may be one of those dealt: `_chances_of_public` without `card == own`.
    best = [best_response_return("uniform", seat) for seat in (0, 1)]
    assert best == pytest.approx([2.0875, 2.65972222], abs=1e-8)
    assert sum(best) == pytest.approx(4.74722222, abs=1e-8)
    assert policy_return(uniform, "uniform", 0) == pytest.approx(-0.078125, abs=1e-12)
    assert policy_return(uniform, "uniform") == pytest.approx(0, abs=1e-12)
    assert optimal_return("seqrl/Leduc-v0", opponent="uniform") == pytest.approx(sum(best) / 2)


def by_information_set(table, string):
    """What `table` [own rank, public rank + 1, node, action] does at OpenSpiel's information set `string`."""
    field = dict(re.findall(r"\[(Private|Public|Round1|Round2): ([\d ]*)\]", string))
    public = int(field["Public"]) // 2 + 1 if "Public" in field else 0
    done = "".join("fcr"[int(action)] for action in field["Round2" if public else "Round1"].split())
    return table[int(field["Private"]) // 2, public, NODES.index(done)]


@pytest.mark.parametrize("opponent", ["uniform", "rules"])
def test_best_responses_are_openspiels(opponent):
    pyspiel = pytest.importorskip("pyspiel", reason="seqrl[openspiel] is not installed")
    from open_spiel.python import policy as policies
    from open_spiel.python.algorithms import best_response

    game, table = pyspiel.load_game("leduc_poker"), leduc.OPPONENTS[opponent]().numpy()
    tabular = policies.TabularPolicy(game)
    for state in tabular.states:
        row = tabular.policy_for_key(string := state.information_state_string())
        row[:] = by_information_set(table, string)
    for seat in (0, 1):
        best = best_response.BestResponsePolicy(game, seat, tabular).value(game.new_initial_state())
        assert best_response_return(opponent, seat) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("opponent", ["uniform", "rules"])
def test_chances_sum_to_one_over_what_is_legal(opponent):
    table, legal = leduc.OPPONENTS[opponent](), torch.tensor(leduc.LEGAL)
    torch.testing.assert_close(table.sum(-1), torch.ones_like(table[..., 0]))
    assert not table[:, :, ~legal].any()


def dealt(seat, cards, opponent="uniform"):
    """A game with given ranks of the agent, the opponent and the public card, before the opponent's first action."""
    env = Leduc(1, seat=seat, opponent=opponent)
    env.reset(seed=0)
    env.state |= {"cards": torch.tensor([cards]), "node": torch.zeros(1, dtype=torch.long), "paid": torch.ones(1, 2)}
    return env


def always(env, *actions):
    """Let the opponent do `actions`, whatever its policy."""
    left = list(actions)
    original = env._answer

    def answer(state):
        if env._to_act[state["node"]] != 1 - state["seat"]:
            return original(state)
        return env._play(state, torch.tensor([left.pop(0)]), 1, torch.tensor([True]))

    env._answer = answer


def test_a_game_by_hand():
    """Both check; the agent raises, is raised, calls; then it has a pair and raises once more."""
    env = dealt(0, [QUEEN, KING, QUEEN])
    always(env, CALL, RAISE, CALL)
    steps = [env.step(torch.tensor([action])) for action in (CALL, RAISE, RAISE)]
    seen = [step[0]["observation"][0].tolist() for step in steps]
    assert seen[0] == [NOTHING, QUEEN + 1, CALL + 1, CALL + 1, NOTHING]  # the public card, since the round is over
    assert seen[1] == [NOTHING, NOTHING, RAISE + 1, RAISE + 1, NOTHING]
    assert steps[1][0]["action_mask"][0].tolist() == [True, True, False]  # two raises are all: a third one is a call
    assert seen[2][2] == CALL + 1
    assert [step[1].item() for step in steps] == [0, 0, 1 + 4 + 4]
    assert [step[2].item() for step in steps] == [False, False, True]


def test_who_calls_a_raise_may_have_to_begin_the_next_round():
    env = dealt(1, [KING, JACK, QUEEN])
    env.state["node"] = torch.tensor([NODES.index("c")])
    always(env, CALL, RAISE)  # calls the agent's raise, and raises in the next round
    observation, reward, terminated, _, _ = env.step(torch.tensor([RAISE]))
    assert observation["observation"][0].tolist() == [NOTHING, QUEEN + 1, RAISE + 1, CALL + 1, RAISE + 1]
    assert observation["action_mask"].all()
    assert not terminated
    _, reward, terminated, _, _ = env.step(torch.tensor([FOLD]))
    assert (reward.item(), terminated.item()) == (-3, True)  # what was paid before the last raise


def test_a_fold_to_nothing_is_a_call():
    env = dealt(0, [KING, KING, JACK])
    always(env, CALL, CALL)
    observation = env.step(torch.tensor([FOLD]))[0]
    assert observation["observation"][0, 2] == CALL + 1
    _, reward, terminated, _, _ = env.step(torch.tensor([FOLD]))
    assert (reward.item(), terminated.item()) == (0, True)  # equal hands


@pytest.mark.parametrize("seat", [0, 1])
def test_simulation_agrees_with_the_sum(seat):
    """Played by a policy that remembers, against a player by rules: both draw cards and actions by the same chances."""
    env = Leduc(20_000, seat=seat)
    observation, _ = env.reset(seed=1)
    own, generator = observation["observation"][:, 0], torch.Generator().manual_seed(0)
    by_card = torch.tensor([[0.5, 0.4, 0.1], [0.1, 0.7, 0.2], [0.0, 0.2, 0.8]])
    returns, playing = torch.zeros(env.num_envs), torch.ones(env.num_envs, dtype=torch.bool)
    while playing.any():
        chances = by_card[own - 1] * observation["action_mask"]
        observation, reward, terminated, _, _ = env.step(torch.multinomial(chances, 1, generator=generator)[:, 0])
        returns += reward * playing
        playing &= ~terminated

    def remembers(seen, legal, memory):
        memory = memory or seen[0]
        chances = np.where(legal, by_card[memory - 1], 0)
        return chances / chances.sum(), memory

    expected = policy_return(remembers, "rules", seat)
    assert abs(returns.mean() - expected) < 4 * returns.std() / len(returns) ** 0.5
    assert expected < best_response_return("rules", seat)


def test_returns_against_the_rules():
    """As OpenSpiel has them too, where it is installed."""
    assert best_response_return("rules") == pytest.approx(0.625296, abs=1e-6)
    assert policy_return(uniform, "rules") == pytest.approx(-0.755566, abs=1e-6)


@pytest.mark.parametrize("sample", [True, False])
def test_the_sum_for_an_agent_agrees_with_its_games(sample):
    """Breaks if the memory's state is not handed on, or not told apart by game."""
    config = ppo.Config(env="seqrl/Leduc-v0", hidden_size=8, previous_action=True, seed=38)
    with closing(make("seqrl/Leduc-v0", 10_000)) as environment:
        agent = ppo.build(config, environment.single_observation_space, environment.single_action_space).eval()
        agent.heads["policy"].linear.weight.data.mul_(1000.0)  # far from uniform, and from one that forgets
        for weight in agent.memory.parameters():
            weight.data.mul_(4.0)
        played = evaluate(agent, environment, 10_000, seed=0, sample=sample)
    expected = policy_return(policy_of(agent, sample), "rules")
    assert abs(played.mean - expected) < 2 * played.half_width
    forgetful = policy_return(lambda seen, legal, _: policy_of(agent, sample)(seen, legal, None), "rules")
    assert abs(expected - forgetful) > 2 * played.half_width


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"opponent": "rule"}, "unknown opponent 'rule': did you mean 'rules'"), ({"seat": 2}, "seat=2: give 0")],
)
def test_bad_input(arguments, message):
    with pytest.raises(UserError, match=message):
        Leduc(**arguments)
