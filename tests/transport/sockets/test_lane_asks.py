"""Who asks for a sealed lane, what is answered, and what becomes of words that nobody should say."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest

from transport.effects import Trace
from transport.errors import BadFrame, BadMessage
from transport.frames import pack, pack_items, to_items, unpack
from transport.keys import short
from transport.limits import LIMITS
from transport.link.messages import Hello
from transport.sealed.messages import NO_QUESTION, LaneAsk, LaneOffer, name_of
from transport.sealed.opening import ask
from transport.sockets.bulk_door import Dial, DialRefused
from transport.sockets.bulk_peers import BulkPeer, BulkPeers
from transport.sockets.control import Control
from transport.sockets.lane_asks import AGAIN_S, LaneAsks
from transport.sockets.traces import BulkOverControlTrace
from transport.sockets.wire import DRIVER_LANE, Outgoing

LOW, HIGH = b"a" * 32, b"b" * 32


class Runner:
    """The part of a `CoreRunner` that is used here."""

    def __init__(self) -> None:
        self.now = 100.0
        self.traces: list[Trace] = []
        self.trace = self.traces.append

    def clock(self) -> float:
        return self.now


class FakeControl(Control):
    """Connections that exist in words only."""

    def __init__(self, dials: bool) -> None:
        self.said: deque[tuple[bytes, Outgoing]] = deque()
        self.dials, self.streams = dials, False

    def say(self, peer: bytes, message: Outgoing) -> None:
        self.said.append((peer, message))

    def dialled(self) -> list[bytes]:
        return [LOW, HIGH] if self.dials else []

    def reached(self, peer: bytes) -> str | None:
        return "192.0.2.7" if self.dials else None

    def has_bulk(self, peer: bytes) -> bool:
        return True

    def has_stream(self, peer: bytes) -> bool:
        return self.streams


@dataclass
class FakeDoor:
    """A door at which nobody comes."""

    port: int
    dials: list[Dial] = field(default_factory=list)
    forgotten: list[bytes] = field(default_factory=list)

    def offer(self, now: float, ends: Any, asked: LaneAsk) -> LaneOffer:
        return LaneOffer(asked.lane, self.port, b"i" * 16, b"s" * 32, name_of(asked))

    def forget(self, peer: bytes) -> None:
        self.forgotten.append(peer)

    def dial(self, dial: Dial) -> None:
        self.dials.append(dial)


class End:
    """One driver's part."""

    def __init__(self, key: bytes, *, dials: bool, port: int = 7001) -> None:
        self.key, self.runner, self.control = key, Runner(), FakeControl(dials)
        self.peers, self.ends = BulkPeers(8, 1), list[tuple[bytes, int, bytes]]()
        runner: Any = self.runner
        self.asks = LaneAsks(runner, key, b"run", self.control, self.peers, LIMITS, self._ended)
        self.door: Any = FakeDoor(port)
        self.asks.door = self.door

    def greets(self, peer: bytes, ours: int, theirs: int) -> bool:
        hello = Hello(ours, 1, theirs, 1, 0, 0, 0, True)
        return self.asks.note_sessions(peer, pack_items([to_items(hello)]))

    def words(self) -> list[Any]:
        """What was said since it was asked last."""
        said, self.control.said = self.control.said, deque()
        assert all(message.lane == DRIVER_LANE and message.payload is None for _, message in said)
        return [unpack(message.header) for _, message in said]

    def hears(self, peer: bytes, word: Any) -> None:
        self.asks.take_word(peer, pack(word))

    def _ended(self, found: BulkPeer, lane: int, name: bytes) -> None:
        self.ends.append((found.peer, lane, name))

    def asked(self) -> LaneAsk:
        """What it asks for now."""
        (asked,) = self.words()
        assert isinstance(asked, LaneAsk)
        return asked


def dialler() -> End:
    end = End(LOW, dials=True)
    end.greets(HIGH, 1, 2)
    return end


def test_a_lane_is_asked_for_once_both_have_greeted_and_again_if_nobody_answers() -> None:
    end = End(LOW, dials=True)
    end.asks.ask_due(100.0)
    assert end.words() == []
    assert end.greets(HIGH, 1, 2)
    assert not end.greets(HIGH, 1, 2)
    end.asks.ask_due(100.0)
    end.asks.ask_due(100.5)
    (first,) = end.words()
    assert isinstance(first, LaneAsk)
    end.asks.ask_due(103.0)
    (second,) = end.words()
    assert second.secret != first.secret


def offer(asked: LaneAsk, port: int = 7001) -> LaneOffer:
    return LaneOffer(1, port, b"i" * 16, b"s" * 32, name_of(asked))


def ended(name: bytes) -> LaneOffer:
    return LaneOffer(1, 0, name, bytes(32), NO_QUESTION)


def test_what_is_offered_is_dialled_at_the_machine_that_control_reached() -> None:
    end = dialler()
    end.asks.ask_due(100.0)
    asked = end.asked()
    end.hears(HIGH, offer(asked))
    (dial,) = end.door.dials
    assert (dial.target, dial.sessions) == (("192.0.2.7", 7001), ((1, 1), (2, 1)))
    end.hears(HIGH, offer(asked))
    assert len(end.door.dials) == 1, "it was asked for once"


def test_an_answer_to_what_was_asked_anew_since_is_no_answer() -> None:
    end = dialler()
    end.asks.ask_due(100.0)
    first = end.asked()
    end.asks.ask_due(103.0)
    second = end.asked()
    for port in (7001, 0):
        end.hears(HIGH, offer(first, port))
    assert (end.door.dials, end.ends) == ([], [])
    end.hears(HIGH, offer(second))
    assert len(end.door.dials) == 1


def test_who_is_refused_asks_no_more_for_a_while_and_an_end_is_no_refusal() -> None:
    end = dialler()
    end.hears(HIGH, ended(b"one of before..!"))
    assert end.ends == [(HIGH, 1, b"one of before..!")]
    end.asks.ask_due(100.0)
    asked = end.asked()
    end.hears(HIGH, ended(b"another of then!"))
    assert len(end.ends) == 2
    end.hears(HIGH, offer(asked, port=0))
    assert len(end.ends) == 2
    end.asks.ask_due(200.0)
    assert end.words() == []
    end.asks.ask_due(401.0)
    assert len(end.words()) == 1


@pytest.mark.parametrize(
    ("key", "dials", "port", "is_offered"),
    [(HIGH, False, 7001, True), (HIGH, False, 0, False), (LOW, True, 7001, False), (HIGH, True, 7001, True)],
    ids=["may", "no port", "both dial and ours counts", "both dial and theirs counts"],
)
def test_a_lane_is_offered_where_there_is_one(key: bytes, dials: bool, port: int, is_offered: bool) -> None:
    end, peer = End(key, dials=dials, port=port), LOW if key == HIGH else HIGH
    end.greets(peer, 1, 2)
    asked = ask(1)
    end.hears(peer, asked)
    (answer,) = end.words()
    assert isinstance(answer, LaneOffer)
    assert bool(answer.port) is is_offered
    assert answer.asked == name_of(asked)


def test_a_closed_port_is_told_once_and_a_wrong_answer_after_three_times() -> None:
    end = dialler()
    end.asks.ask_due(100.0)
    end.hears(HIGH, offer(end.asked()))
    (dial,) = end.door.dials
    for _ in range(2):
        end.asks.refused(DialRefused(dial, "Connection refused", was_connected=False))
    assert end.runner.traces == [BulkOverControlTrace(short(HIGH), "192.0.2.7:7001: Connection refused")]
    other = dialler()
    for _ in range(3):
        assert other.runner.traces == []
        other.asks.refused(DialRefused(dial, "it hung up", was_connected=True))
        other.runner.now += 2 * AGAIN_S
    assert len(other.runner.traces) == 1


def test_a_lane_that_only_the_other_end_may_think_is_up_counts_as_one_that_ended() -> None:
    end = dialler()
    for was_connected in (False, True):
        end.asks.ask_due(end.runner.now)
        end.hears(HIGH, offer(end.asked()))
        end.asks.refused(DialRefused(end.door.dials[-1], "nobody answers there", was_connected))
        end.runner.now += 301.0
        assert end.peers.of(HIGH).ended == ({1} if was_connected else set())


def test_words_that_no_driver_says_and_too_many_of_them_are_the_peers_fault() -> None:
    end = dialler()
    with pytest.raises(BadFrame):
        end.asks.take_word(HIGH, b"\xc1")
    with pytest.raises(BadFrame):
        end.hears(HIGH, Hello(1, 1, 2, 1, 0, 0, 0, True))
    with pytest.raises(BadFrame):
        end.hears(HIGH, ask(LIMITS.lanes + 1))
    for _ in range(60):
        end.hears(HIGH, ask(1))
    with pytest.raises(BadMessage):
        end.hears(HIGH, ask(1))


def test_a_new_session_voids_what_was_offered() -> None:
    end = dialler()
    assert end.door.forgotten == [HIGH]
    assert end.greets(HIGH, 1, 3)
    assert end.door.forgotten == [HIGH, HIGH]
