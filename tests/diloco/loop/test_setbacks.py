"""What is given up as not finite: how it is counted, who is told, and when it is too much."""

from __future__ import annotations

from diloco.errors import NonFiniteContribution
from diloco.loop.replica import Replica
from diloco.loop.setbacks import MAX_IN_A_ROW, Setbacks
from diloco.simulation.phantom import PhantomReplica
from peers.protocol.commands import LeaveRun
from tests.diloco.simulation.small_swarm import settings

ERROR = NonFiniteContribution(3, "values are not finite")


def test_too_many_in_a_row_say_why_to_the_member_and_to_the_worker() -> None:
    setbacks = Setbacks(1)
    for _ in range(MAX_IN_A_ROW - 1):
        assert setbacks.lost(0, [0], 10, ERROR, []) == []
    assert setbacks.diverged is None
    assert setbacks.lost(0, [0], 10, ERROR, []) == [
        LeaveRun("what it trained was not finite 5 times in a row")
    ]
    assert str(setbacks.diverged).startswith("3 values are not finite, for the 5th time in a row")
    assert (setbacks.count, setbacks.tokens) == (5, 50)


def test_a_fragment_that_passes_says_nothing_of_another() -> None:
    setbacks = Setbacks(2)
    for _ in range(MAX_IN_A_ROW):
        setbacks.lost(0, [0, 1], 10, ERROR, [])
        setbacks.passed(1)
    assert setbacks.diverged is not None


def test_phantoms_are_always_finite() -> None:
    replica: Replica = PhantomReplica(settings().method.resolved(), 100, None, "a", 1024)
    assert replica.is_finite(0)
    assert replica.mend() == []
