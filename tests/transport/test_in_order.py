"""A journal that fails: nothing that follows a decision is carried out before the decision is stored."""

from __future__ import annotations

import pytest

from transport.effects import Deliver, Effect, Send, Store, Trace
from transport.in_order import MAX_HELD, RETRY_S, InOrder, StoreFailedTrace, StoreRecoveredTrace

SAID = Send(b"p", 0, b"committed")


class Disk:
    """Carries out effects, and stores while it has room."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.traces: list[Trace] = []
        self.room_for = 0
        self.error: Exception = OSError(28, "No space left on device")
        self.order = InOrder(self._carry_out, self.traces.append)

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Store):
            if not self.room_for:
                raise self.error
            self.room_for -= 1
        self.done.append(effect)


def test_what_follows_a_decision_waits_until_it_is_stored_and_comes_in_order() -> None:
    disk = Disk()
    disk.order.take(3.0, [Deliver("before"), Store(b"a"), SAID], lambda: disk.done.append("answered"))
    assert disk.done == [Deliver("before")]
    disk.order.take(3.5, [Deliver("later input"), Store(b"b"), SAID])
    assert disk.order.due == 3.0 + RETRY_S
    disk.order.retry(4.0)
    assert disk.done == [Deliver("before")], "the disk is full still"
    disk.room_for = 9
    disk.order.retry(5.0)
    assert disk.done[1:] == [Store(b"a"), SAID, "answered", Deliver("later input"), Store(b"b"), SAID]
    assert (disk.order.due, disk.order.is_held) == (None, False)


def test_a_second_store_that_fails_holds_back_what_is_behind_it_only() -> None:
    disk = Disk()
    disk.order.take(3.0, [Store(b"a"), Store(b"b"), SAID])
    disk.room_for = 1
    disk.order.retry(4.0)
    assert disk.done == [Store(b"a")]
    assert disk.order.is_held


def test_it_is_told_once_that_the_journal_fails_and_once_that_it_goes_on() -> None:
    disk = Disk()
    disk.order.take(3.0, [Store(b"a")])
    for now in (4.0, 5.0):
        disk.order.retry(now)
    failed = StoreFailedTrace("OSError: [Errno 28] No space left on device")
    assert (disk.traces, disk.order.error) == ([failed], failed.error)
    disk.room_for = 9
    disk.order.retry(6.5)
    assert disk.traces == [failed, StoreRecoveredTrace(3.5)]
    assert disk.order.error is None


def test_what_is_no_fault_of_the_disk_is_raised() -> None:
    disk = Disk()
    disk.error = AssertionError("a member stores nothing")
    with pytest.raises(AssertionError):
        disk.order.take(3.0, [Store(b"a"), SAID])
    assert disk.done == []


def test_what_waits_has_a_bound() -> None:
    disk = Disk()
    disk.order.take(3.0, [Store(b"a")])
    assert not disk.order.is_full
    disk.order.take(3.0, [SAID] * MAX_HELD)
    assert disk.order.is_full
