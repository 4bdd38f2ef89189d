"""The bulk port: whom it lets in, how long strangers stand there, and what becomes of a dial."""

from __future__ import annotations

import errno
import os
import queue
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from transport.effects import Trace
from transport.errors import TransportError
from transport.limits import Limits
from transport.sealed.keys import LaneEnds
from transport.sealed.opening import accept, ask
from transport.sockets.bulk_door import BulkDoor, Dial, DialRefused, listen, listen_beside
from transport.sockets.sealed_connection import Opened

HOST, MEMBER = b"h" * 32, b"m" * 32
OURS, THEIRS = (1, 1), (2, 1)
LIMITS = Limits(bulk_strangers=6, bulk_strangers_per_address=4, bulk_opening_s=0.3)


class Door:
    """A door, and what it tells."""

    def __init__(self, listener: socket.socket | None) -> None:
        self.told: queue.SimpleQueue[Opened | DialRefused | Trace] = queue.SimpleQueue()
        self.door = BulkDoor(listener, time.monotonic, LIMITS, self.told.put)
        self.address = ("127.0.0.1", self.door.port)

    def opened(self) -> Opened:
        found = self.told.get(timeout=10)
        assert isinstance(found, Opened), found
        return found

    def refused(self) -> DialRefused:
        found = self.told.get(timeout=10)
        assert isinstance(found, DialRefused), found
        return found

    def offered(self) -> Dial:
        """What a member dials with after it has asked."""
        asked = ask(1)
        ends = LaneEnds(b"run", HOST, MEMBER, OURS, THEIRS, 1)
        offer = self.door.offer(time.monotonic(), ends, asked)
        opening = accept(LaneEnds(b"run", MEMBER, HOST, THEIRS, OURS, 1), asked, offer, LIMITS)
        return Dial(HOST, 1, (THEIRS, OURS), self.address, *opening)


@contextmanager
def doors() -> Iterator[tuple[Door, Door]]:
    """One with a port, and one that only dials."""
    made = Door(listen("127.0.0.1", 0)), Door(None)
    for each in made:
        each.door.start()
    try:
        yield made
    finally:
        for each in made:
            each.door.close()


def test_what_was_offered_opens_on_both_ends_and_only_once() -> None:
    with doors() as (host, member):
        dial = host.offered()
        member.door.dial(dial)
        theirs, ours = host.opened(), member.opened()
        assert (theirs.peer, theirs.lane, theirs.sessions) == (MEMBER, 1, (OURS, THEIRS))
        assert (theirs.is_ours, ours.is_ours) == (False, True)
        assert (ours.peer, ours.sessions, ours.is_ours) == (HOST, (THEIRS, OURS), True)
        with socket.create_connection(host.address) as copy:
            copy.sendall(dial.opening)
            copy.settimeout(5.0)
            assert copy.recv(16) == b""
        for each in (theirs, ours):
            each.sock.close()


def test_what_is_forgotten_opens_nothing() -> None:
    with doors() as (host, member):
        dial = host.offered()
        host.door.forget(MEMBER)
        member.door.dial(dial)
        assert member.refused().was_connected


def test_a_port_where_nobody_listens_and_one_where_somebody_else_does_refuse_differently() -> None:
    with doors() as (host, member):
        dial = host.offered()
        with listen("127.0.0.1", 0) as other:
            here = other.getsockname()
        closed = Dial(HOST, 1, dial.sessions, here, dial.opening, dial.sealer, dial.opener)
        member.door.dial(closed)
        refused = member.refused()
        assert (refused.reason, refused.was_connected) == ("Connection refused", False)
        with socket.create_server(("127.0.0.1", 0)) as other:
            there = Dial(HOST, 1, dial.sessions, other.getsockname(), dial.opening, dial.sealer, dial.opener)
            member.door.dial(there)
            taken, _ = other.accept()
            with taken:
                taken.sendall(os.urandom(16))
                assert member.refused().reason == "something else answers there"


def test_strangers_are_few_of_one_address_and_do_not_stay() -> None:
    with doors() as (host, member):
        strangers = [socket.create_connection(host.address) for _ in range(12)]
        for each in strangers:
            each.settimeout(5.0)
        assert [each.recv(1) for each in strangers[4:]] == [b""] * 8
        assert host.door.num_dropped == 8
        others = [socket.create_connection(host.address, source_address=("127.0.0.9", 0)) for _ in range(3)]
        others[2].settimeout(5.0)
        assert others[2].recv(1) == b""
        assert [each.recv(1) for each in strangers[:4]] == [b""] * 4
        dial = host.offered()
        member.door.dial(dial)
        for each in (host.opened(), member.opened()):
            each.sock.close()
        for sock in strangers + others:
            sock.close()


def test_the_port_is_the_one_after_that_of_control_unless_that_is_taken() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = int(taken.getsockname()[1])
        with listen_beside("127.0.0.1", port - 1, None) as elsewhere:
            assert elsewhere.getsockname()[1] not in (port, port - 1)
        with pytest.raises(TransportError, match="choose another port"):
            listen_beside("127.0.0.1", port - 1, port)
    with listen_beside("127.0.0.1", port - 1, None) as beside:
        assert beside.getsockname()[1] == port


class Failing(socket.socket):
    """A listening socket of whose system there is no room for one more, or less of it, for a while."""

    error, num_calls, num_fails = errno.ENOBUFS, 0, 0

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        self.num_calls += 1
        if self.num_calls <= self.num_fails:
            raise OSError(self.error, os.strerror(self.error))
        return super().accept()


def failing(error: int, num_fails: int) -> Failing:
    made = listen("127.0.0.1", 0)
    listener = Failing(fileno=made.detach())
    listener.setblocking(False)
    listener.error, listener.num_fails = error, num_fails
    return listener


@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE])
def test_without_room_for_one_more_the_door_rests_and_takes_whoever_waits_afterwards(error: int) -> None:
    listener = failing(error, 3)
    host = Door(listener)
    host.door.start()
    try:
        dial = host.offered()
        began = time.monotonic()
        with socket.create_connection(host.address) as coming:
            coming.sendall(dial.opening)
            opened = host.opened()
        assert time.monotonic() - began > 0.25, "it rested three times"
        assert listener.num_calls < 12, "and did not ask again and again"
        opened.sock.close()
    finally:
        host.door.close()


def test_one_that_went_again_before_it_was_taken_does_not_hold_up_who_waits_behind_it() -> None:
    host = Door(failing(errno.ECONNABORTED, 5))
    host.door.start()
    try:
        dial = host.offered()
        with socket.create_connection(host.address) as coming:
            coming.sendall(dial.opening)
            opened = host.opened()
            assert opened.peer == MEMBER
            opened.sock.close()
    finally:
        host.door.close()


class Full(selectors.DefaultSelector):
    """Where nothing more may be waited for, for a while; the first two are the door's own."""

    num_fails = 0

    def register(self, *given: Any) -> Any:
        if len(self.get_map()) >= 2 and Full.num_fails:
            Full.num_fails -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().register(*given)


def test_where_nothing_more_may_be_waited_for_the_door_drops_that_one_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selectors, "DefaultSelector", Full)
    with doors() as (host, member):
        Full.num_fails = 1
        with socket.create_connection(host.address) as first:
            assert first.recv(1) == b"", "it is hung up on"
        assert host.door.num_dropped == 1
        dial = host.offered()
        member.door.dial(dial)
        for opened in (host.opened(), member.opened()):
            opened.sock.close()


def test_a_dial_that_cannot_be_waited_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullAtOnce(selectors.DefaultSelector):
        def register(self, *given: Any) -> Any:
            if self.get_map():
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().register(*given)

    host = Door(listen("127.0.0.1", 0))
    host.door.start()
    monkeypatch.setattr(selectors, "DefaultSelector", FullAtOnce)
    member = Door(None)
    member.door.start()
    try:
        member.door.dial(host.offered())
        assert "no room" in member.refused().reason
    finally:
        for each in (host, member):
            each.door.close()
