"""What a worker says and does when its host does not know it, or another one answers."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from diloco.errors import JoinError
from diloco.swarm.host_watch import ASK_EVERY_S, HostWatch
from peers.protocol.events import EntryRefused
from transport.effects import CONTROL_LANE
from transport.errors import KnockRefused, KnockTimeout
from transport.keys import short
from transport.sockets.libzmq import OTHER_KEY, REFUSED, SILENT
from transport.sockets.traces import LaneLostTrace, LaneRefusedTrace

HOST = b"h" * 32
WHERE = "tcp://h:1"


class Worker:
    """A watch, whose knocks have a set answer."""

    def __init__(self, answer: Exception | None = None) -> None:
        self.now = 0.0
        self.answer = answer
        self.num_asked = 0
        self.events: list[Any] = []
        self.watch = HostWatch(HOST, self.ask_in, self.events.append, lambda: self.now)

    def ask_in(self) -> None:
        self.num_asked += 1
        if self.answer is not None:
            raise self.answer

    def refused(self, reason: str, lane: int = CONTROL_LANE, peer: bytes = HOST) -> None:
        self.watch.trace(LaneRefusedTrace(short(peer), lane, WHERE, reason))
        if self.watch.asking is not None:
            self.watch.asking.join()


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "diloco")


def test_another_key_where_the_host_was_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    for _ in range(10):
        worker.refused(OTHER_KEY)
    (line,) = caplog.messages
    assert WHERE in line
    assert "another host" in line
    assert "keeps its state" in line
    assert "\n" not in line
    assert (worker.events, worker.num_asked) == ([], 0)


def test_one_connection_that_ends_in_the_handshake_is_no_other_host(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    for _ in range(5):
        worker.refused(OTHER_KEY)
        worker.refused("nobody answers there")
        worker.refused(OTHER_KEY)
        worker.refused(SILENT)
    assert caplog.messages == []


def test_it_is_told_again_if_the_host_was_there_in_between(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    for _ in range(2):
        for _ in range(4):
            worker.refused(OTHER_KEY)
        worker.watch.trace(LaneLostTrace(short(HOST), CONTROL_LANE, WHERE, "the connection broke"))
    assert len(caplog.messages) == 2


def test_a_host_that_knows_this_worker_no_more_is_asked_again_with_the_ticket() -> None:
    worker = Worker()
    worker.refused(REFUSED)
    worker.refused(REFUSED)
    assert worker.num_asked == 1, "not at every attempt"
    worker.now += ASK_EVERY_S
    worker.refused(REFUSED)
    assert worker.num_asked == 2


def test_who_was_put_out_hears_why() -> None:
    worker = Worker(JoinError("kicked", "the host has put this worker out of the run"))
    worker.refused(REFUSED)
    assert worker.events == [EntryRefused("kicked", "the host has put this worker out of the run")]


@pytest.mark.parametrize(
    ("answer", "words"),
    [(JoinError("full", "all places are taken"), "all places"), (KnockRefused("no"), "new ticket")],
)
def test_a_refusal_that_may_pass_is_told_and_ends_nothing(
    answer: Exception, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(answer)
    for _ in range(3):
        worker.refused(REFUSED)
        worker.now += ASK_EVERY_S
    (line,) = caplog.messages
    assert words in line
    assert worker.events == []


def test_a_knock_without_an_answer_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker(KnockTimeout("no reply"))
    worker.refused(REFUSED)
    worker.now += ASK_EVERY_S
    worker.refused(REFUSED)
    assert (worker.num_asked, caplog.messages, worker.events) == (2, [], [])


def test_other_peers_and_other_lanes_are_not_its_affair(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    for _ in range(5):
        worker.refused(OTHER_KEY, lane=CONTROL_LANE + 1)
        worker.refused(OTHER_KEY, peer=b"o" * 32)
        worker.refused(REFUSED, peer=b"o" * 32)
    assert (caplog.messages, worker.num_asked) == ([], 0)
