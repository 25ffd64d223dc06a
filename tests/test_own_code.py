"""Where an error was raised in a user's own code, in one line."""

from pathlib import Path

import pytest

import seqrl
from seqrl.own_code import what_is


# Breaks if files are told by the beginning of their path alone: /src/seqrl is that of /src/seqrl_mine too.
def test_a_folder_whose_name_begins_with_ours_is_not_ours() -> None:
    file = Path(seqrl.__file__).parents[1] / "seqrl_mine" / "brain.py"
    with pytest.raises(KeyError) as caught:
        exec(compile("\n\n{}['door']", str(file), "exec"))
    assert what_is(caught.value) == "KeyError: 'door', brain.py line 3"
