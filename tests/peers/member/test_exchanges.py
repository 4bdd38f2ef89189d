"""Rounds as a member sees them: what does not fit is refused before anything is begun."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from peers.member.exchanges import Exchanges
from peers.protocol.commands import Offer
from peers.protocol.messages import Decline, Open
from transport.collectives.reducer import NumpyReducer
from transport.errors import BadFrame

ME, OTHER, HOST, BASE = b"m" * 32, b"o" * 32, b"h" * 32, b"b" * 32


class Wire:
    """Notes what is said to whom."""

    def __init__(self) -> None:
        self.said: list[tuple[bytes, Any]] = []
        self.events: list[Any] = []

    def send(self, now: float, peer: bytes, message: Any) -> None:
        self.said.append((peer, message))

    def room(self, peer: bytes) -> int:
        return -1

    def send_bulk(self, *given: Any) -> None:
        raise AssertionError("there is no room")

    def deliver(self, event: Any) -> None:
        self.events.append(event)


def offering(wire: Wire) -> Exchanges:
    exchanges = Exchanges(ME, HOST, wire, 10.0, 60.0)  # type: ignore[arg-type]
    exchanges.offer(BASE, Offer(0, 100, 100, NumpyReducer(8, np.ones(8, np.float32)), 1.0))
    return exchanges


def round_of(weights: tuple[float, ...], attempt: int = 0) -> Open:
    return Open(1, attempt, 0, BASE, 8, (ME, OTHER), weights, ())


def test_a_round_has_a_weight_above_nothing_for_each_member() -> None:
    exchanges = offering(Wire())
    for weights in [(100.0,), (100.0, 0.0), (100.0, -100.0), (), (100.0, 1.0, 1.0)]:
        with pytest.raises(BadFrame, match="weight"):
            exchanges.open(0.0, round_of(weights))
    assert not exchanges.running
    exchanges.open(0.0, round_of((100.0, 50.0)))
    with pytest.raises(BadFrame, match="weight"):
        exchanges.open(1.0, round_of((100.0,), attempt=1))
    assert exchanges.running[1].exchange.attempt == 0
    assert exchanges.partners() == {ME, OTHER}


def test_a_round_with_another_weight_than_was_offered_is_declined() -> None:
    wire = Wire()
    exchanges = offering(wire)
    exchanges.open(0.0, round_of((99.0, 50.0)))
    assert [type(message) for _, message in wire.said] == [Decline]
    assert not exchanges.partners()
