"""One link over a line that is fast and long, and to one that is slow: what share of the line it carries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.transport.simnet.test_link_in_simnet import A, B, Talker, Word
from transport.effects import Core, Phantom
from transport.limits import LIMITS, MIB, Limits
from transport.link.messages import Arrival
from transport.simnet.network import Access, SimNetwork

RATE = 1.25e9
"""10 Gbit/s."""


class Stream(Talker):
    """It has frames of one mebibyte for the other end without end, and consumes at once what comes."""

    def offers(self, now: float) -> None:
        while self.link.streams.room() >= MIB:
            self.link.streams.send_bulk(now, Word(0, ""), Phantom(MIB), "exchange")

    def pump(self, now: float) -> None:
        if self.me == A:
            self.offers(now)

    def _arrived(self, now: float, arrival: Arrival) -> None:
        self.held += arrival.cost
        assert self.held <= self.limits.largest_window
        if self.consumes:
            self.consume(now)


def streams(limits: Limits, *, consumes: bool = True) -> tuple[SimNetwork, Stream, Stream]:
    """Their network, 100 ms both ways together, and both ends."""
    net = SimNetwork(1)
    ends = [Stream(key, 1, limits, dials=key == A, consumes=key == A or consumes) for key in (A, B)]
    for end in ends:
        net.add(end.me, end, Access(RATE, RATE, 0.025, 0.0), lambda now, event: None)
    return net, ends[0], ends[1]


@pytest.mark.parametrize(("spare_bytes", "least", "most"), [(LIMITS.spare_bytes, 0.95, 1.001), (0, 0.2, 0.3)])
def test_a_line_of_10_gigabits_and_100_milliseconds_is_full_after_a_second(
    spare_bytes: int, least: float, most: float
) -> None:
    net, _, receiver = streams(replace(LIMITS, spare_bytes=spare_bytes))
    net.run(1.5)
    before = receiver.link.streams.window.consumed
    net.run(2.5)
    share = (receiver.link.streams.window.consumed - before) / RATE
    assert least < share <= most, f"{share:.1%}"


def test_one_that_consumes_slowly_grants_a_window_and_no_more() -> None:
    net, sender, receiver = streams(LIMITS, consumes=False)

    def consume(core: Core, now: float) -> None:
        cost = min(receiver.held, 2 * MIB)
        receiver.held -= cost
        receiver.link.streams.consumed(now, cost)

    for tenths in range(50):
        net.run(tenths / 10)
        net.command(B, consume)
    window = receiver.link.streams.window
    assert window.size == LIMITS.window_bytes
    assert window.granted - window.consumed <= LIMITS.window_bytes
    assert sender.link.streams.kept().bulk_out_cost <= LIMITS.window_bytes
    assert window.consumed > 50 * MIB
