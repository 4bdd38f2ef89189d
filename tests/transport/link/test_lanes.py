"""A link of several lanes: bulk is where lanes are open, and what a lane loses goes over another one."""

from __future__ import annotations

import pytest

from tests.transport.link.kit import Note
from transport.effects import Effect, Send
from transport.frames import to_items
from transport.limits import Limits
from transport.link.link import Link
from transport.link.messages import Hello, Session

US, THEM = Session(5, 1), Session(6, 1)


class Accepting:
    """The end that does not dial: the other one greets on lanes as their connections come up."""

    def __init__(self) -> None:
        self.out: list[Effect] = []
        ends = {"dials": False, "addresses": (), "heartbeat_s": 1.0, "silence_s": 5.0}
        self.link = Link(b"them", US, limits=Limits(lanes=3), out=self.out, **ends)  # type: ignore[arg-type]

    def greeted(self, *lanes: int) -> None:
        hello = Hello(*THEM, *US, 0, 0, 1 << 20, True)
        for lane in lanes:
            self.link.receive(0.0, lane, [to_items(hello)], None)
        self.out.clear()

    def bulk(self, number: int) -> None:
        self.link.streams.send_bulk(0.0, Note(number, "x"), b"p", "exchange")

    def sent(self) -> list[tuple[int, bool]]:
        sends = [(each.lane, each.again) for each in self.out if isinstance(each, Send) and each.payload]
        self.out.clear()
        return sends


def test_lanes_that_come_later_carry_bulk_from_then_on() -> None:
    end = Accepting()
    end.greeted(0, 1)
    for number in range(2):
        end.bulk(number)
    assert end.sent() == [(1, False), (1, False)]
    end.greeted(2)
    for number in range(4):
        end.bulk(number)
    assert end.sent() == [(2, False), (1, False), (2, False), (1, False)]


@pytest.mark.parametrize("lane", [1, 2])
def test_what_a_lane_may_have_lost_goes_over_another_when_it_ends(lane: int) -> None:
    end = Accepting()
    end.greeted(0, 1, 2)
    for number in range(4):
        end.bulk(number)
    end.sent()
    end.link.ended(0.0, lane)
    assert end.sent() == [(3 - lane, True)] * 2
    end.bulk(4)
    assert end.sent() == [(3 - lane, False)]


def test_of_the_only_lane_it_waits_until_the_other_end_greets_anew() -> None:
    end = Accepting()
    end.greeted(0, 1)
    end.bulk(0)
    end.sent()
    end.link.ended(0.0, 1)
    assert end.sent() == []
    end.link.receive(0.0, 1, [to_items(Hello(*THEM, *US, 0, 0, 1 << 20, True))], None)
    assert end.sent() == [(1, True)]


def test_the_end_of_control_moves_no_bulk() -> None:
    end = Accepting()
    end.greeted(0, 1, 2)
    end.bulk(0)
    end.sent()
    end.link.ended(0.0, 0)
    end.bulk(1)
    assert [lane for lane, _ in end.sent()] == [1]
