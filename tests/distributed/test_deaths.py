"""When actors that die end a run, and when they are begun anew for as long as it takes."""

import pytest

from seqrl.distributed.engine import Deaths
from seqrl.errors import UserError


def test_one_that_ends_by_itself_three_times_ends_the_run_though_others_send():
    deaths = Deaths()
    for _ in range(2):
        deaths.sent(0)
        deaths.died(1, "ended with exit code 3")
    deaths.sent(0)
    with pytest.raises(UserError, match="actor 1 ended with exit code 3, 3 times in a row"):
        deaths.died(1, "ended with exit code 3")


# Breaks without `and others_send`: where memory is short, the system kills all there are, again and again.
@pytest.mark.parametrize("others_send", [True, False])
def test_kills_from_outside_end_the_run_only_where_nobody_sends(others_send):
    deaths = Deaths()
    deaths.sent(0)
    for _ in range(3):
        deaths.died(1, "was killed", from_outside=True)
        if others_send:
            deaths.sent(0)
    if others_send:
        for _ in range(10):
            deaths.died(1, "was killed", from_outside=True)
            deaths.sent(0)
        assert deaths.restarted == 13
    else:
        with pytest.raises(UserError, match="actor 1 was killed, 3 times in a row"):
            deaths.died(1, "was killed", from_outside=True)


def test_a_trajectory_in_between_forgives():
    deaths = Deaths()
    for _ in range(5):
        deaths.died(1, "hung")
        deaths.died(1, "hung")
        deaths.sent(1)
    assert deaths.restarted == 10
