"""What environments and their arguments are called, as on the command line."""

import pytest

from seqrl.algorithms import ppo
from seqrl.config import parse_env_kwargs, problem_name
from seqrl.errors import UserError


def test_values_are_json_or_texts():
    pairs = ("length=30", "active=false", "name=4x4", 'map=["SF", "HG"]', "limit=null", "empty=", "word=Falsehood")
    assert parse_env_kwargs(pairs) == {
        "length": 30, "active": False, "name": "4x4", "map": ["SF", "HG"], "limit": None, "empty": "",
        "word": "Falsehood",
    }  # fmt: skip


# Break: one of the two `require` left out: the text "False" counts as true.
@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("slippery=False", "--env-kwargs 'slippery=False': values are JSON, so write slippery=false"),
        ("reveal=True", "write reveal=true"),
        ("limit=None", "write limit=null"),
        ("map=['SF', 'HG']", "is no JSON: write lists and objects like"),
        ("goal={x: 1}", "is no JSON: write lists and objects like"),
        ("length", "'length' is not KEY=VALUE"),
    ],
)
def test_what_would_be_a_text_by_mistake_is_refused(pair, message):
    with pytest.raises(UserError) as caught:
        parse_env_kwargs((pair,))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# Breaks if: what is hidden is left out: the page of masked CartPole has the title of CartPole.
def test_a_problem_is_named_with_what_is_hidden_of_it():
    config = ppo.Config(env="CartPole-v1", env_kwargs=("a=1",), hide=(1, 3), noise=0.1)
    assert problem_name(vars(config)) == "CartPole-v1 a=1 --hide 1,3 --noise 0.1"
    assert problem_name(vars(ppo.Config(env="CartPole-v1"))) == "CartPole-v1"
