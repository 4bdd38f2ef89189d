"""Every wait that lasts is told: for whom, how long, and what to do."""

from __future__ import annotations

import itertools
from dataclasses import replace

from diloco.swarm.waits import MAX_EVERY_S, WaitTeller
from diloco.swarm.worker_waits import WorkerWaits, reason_for
from peers.coordinator.status import RunStatus
from peers.protocol.events import (
    BecameActive,
    CoordinatorBack,
    CoordinatorDiskFull,
    CoordinatorLost,
    PeerLeft,
    PeersJoined,
)
from tests.peers.coordinator.coordinator_kit import trained
from transport.errors import TransportError


def told(teller: WaitTeller, reason: str, begin: int, end: int) -> list[int]:
    return [now for now in range(begin, end) if teller.line(float(now), reason)]


def test_a_wait_is_told_within_ten_seconds_and_then_less_and_less_often() -> None:
    times = told(WaitTeller(), "for b", 0, 4000)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert times[0] <= 10
    assert all(b in (2 * a, MAX_EVERY_S) for a, b in itertools.pairwise(gaps))
    assert gaps[-1] == MAX_EVERY_S


def test_a_wait_that_ends_is_not_told_and_the_next_one_begins_anew() -> None:
    teller = WaitTeller()
    assert told(teller, "for b", 0, 5) == told(teller, "", 5, 100) == []
    first = told(teller, "for c", 100, 120)[0]
    assert 105 < first <= 110


def test_another_reason_is_told_soon_and_counts_from_its_own_beginning() -> None:
    teller = WaitTeller()
    told(teller, "for b", 0, 1000)
    lines = [line for now in range(1000, 1011) if (line := teller.line(float(now), "for c"))]
    assert len(lines) == 1
    assert "for c" in lines[0]
    assert "for 8 s" in lines[0]


def worker(answers: list[str]) -> WorkerWaits:
    def ask() -> str:
        if not answers:
            raise TransportError("nobody answers")
        return answers.pop(0)

    return WorkerWaits(2, 0.0, ask)


def test_a_worker_says_what_its_host_says_once_nothing_moves() -> None:
    waits = worker(["too few workers"])
    assert waits.reason(1.0) == ""
    assert waits.reason(5.0) == waits.reason(6.0) == "too few workers"
    waits.hear(7.0, BecameActive(b"h" * 32, 1))
    assert waits.reason(7.0) == ""


def test_a_silent_host_is_told_with_what_this_worker_does_meanwhile() -> None:
    waits = worker([])
    waits.hear(1.0, CoordinatorLost(5.0))
    assert "stands still" in waits.reason(1.0)
    assert "diloco host" in waits.reason(1.0)
    waits.hear(2.0, BecameActive(b"h" * 32, 1))
    waits.hear(2.0, CoordinatorLost(5.0))
    assert "trains on" in waits.reason(2.0)
    waits.hear(3.0, CoordinatorBack())
    assert waits.reason(3.0) == ""


def test_a_host_whose_disk_is_full_is_told_apart_from_a_silent_one() -> None:
    waits = worker([])
    waits.hear(1.0, BecameActive(b"h" * 32, 1))
    waits.hear(2.0, CoordinatorDiskFull())
    waits.hear(9.0, CoordinatorLost(5.0))
    assert "the host's disk is full" in waits.reason(9.0)
    assert "trains on" in waits.reason(9.0)
    waits.hear(10.0, CoordinatorBack())
    assert "disk" not in waits.reason(10.0)


def test_a_worker_whose_host_tells_nothing_says_what_it_knows_itself() -> None:
    waits = worker([])
    assert "1 of 2" in waits.reason(5.0)
    waits.hear(6.0, PeersJoined(((b"b" * 32, "b"),)))
    assert "shared state" in waits.reason(11.0)
    waits.hear(12.0, PeerLeft(b"b" * 32, "b", "silent"))
    assert "1 of 2" in waits.reason(12.0)


def test_a_name_from_another_machine_cannot_steer_the_terminal() -> None:
    teller = WaitTeller()
    teller.line(0.0, "for \x1b[2J")
    assert "\x1b" not in str(teller.line(10.0, "for \x1b[2J"))


def status(*awaited: int) -> RunStatus:
    """Of workers 0, 1 and 2."""
    swarm = trained(1)
    found = swarm.core.status(0.0)
    members = tuple(
        replace(found.members[0], name=f"w{i}", key=bytes([i]) * 32, awaited=i in awaited) for i in range(3)
    )
    return replace(found, members=members, waits="the next round waits for w1")


def test_a_worker_that_is_waited_for_itself_is_not_told_its_own_name() -> None:
    me = bytes([1]) * 32
    assert reason_for(me, status(1)) == "the run waits for this worker"
    assert reason_for(me, status(0, 1, 2)) == "the run waits for this worker and 2 more"
    assert reason_for(bytes([2]) * 32, status(1)) == "the next round waits for w1"
    assert reason_for(me, status()) == "the next round waits for w1"
