"""A full table of descriptors: whoever cannot make a socket dials later, and no process ends."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice

import pytest

from tests.net.swarm_kit import Node, eventually, running
from transport.effects import Connect
from transport.errors import DialFailed, TransportError
from transport.keys import random_pair
from transport.sockets.libzmq import knock
from transport.sockets.traces import LaneRefusedTrace


@contextmanager
def descriptors_left(number: int) -> Iterator[None]:
    """So many descriptors are free, and no more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = (each for each in count() if not os.path.exists(f"/proc/self/fd/{each}"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(free, number, None)), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def refusals(node: Node, reason: str) -> Callable[[], bool]:
    return lambda: sum(reason in each.reason for each in node.traced(LaneRefusedTrace)) >= 4


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_socket_that_cannot_be_made_is_a_failed_dial_and_is_dialled_again(left: int) -> None:
    host, member = Node(), Node(bind=None)
    host.admit(member.key)
    with running(host, member):
        with descriptors_left(left):
            member.do(Connect(host.key, (host.address,), 1))
            eventually(refusals(member, "Too many open files"))
            assert member.core.up == []
        eventually(lambda: sorted(member.core.up) == [(host.key, 0), (host.key, 1)])
        assert member.driver.error is None


def test_a_first_socket_needs_no_descriptor_for_the_threads_of_libzmq() -> None:
    """It aborts the process if they cannot have one, so they get theirs at the start."""
    member = Node(bind=None)
    with running(member), descriptors_left(2):
        member.do(Connect(random_pair().public, ("tcp://127.0.0.1:1",), 1))
        eventually(lambda: member.traced(LaneRefusedTrace))
    assert member.driver.error is None


@pytest.mark.parametrize("left", [0, 2, 5, 8, 12, 16, 24])
def test_a_start_without_enough_descriptors_is_one_line_and_no_end_of_the_process(
    left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node()
    monkeypatch.setattr("transport.sockets.driver.raise_descriptor_limit", lambda: 64)
    with (
        descriptors_left(left),
        pytest.raises(TransportError, match=r"may open 64 files, which is too few \(Too many open files\)"),
    ):
        node.driver.start()
    monkeypatch.undo()
    with running(Node()):
        pass


def test_a_start_raises_the_soft_limit_of_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = min(soft, 512)
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
    try:
        with running(Node()):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > low
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_joiner_at_an_address_that_does_not_work_is_told_so() -> None:
    with pytest.raises(DialFailed, match="cannot dial tcp://no/port"):
        knock("tcp://no/port", random_pair().public, random_pair(), b"?", 1.0)
