"""A stream's frames take their time of a line once, in order, however large they are."""

from __future__ import annotations

import pytest

from tests.transport.simnet.kit import A, B, Net, Talker
from transport.effects import STREAM_LANE, Connect, Phantom, Send
from transport.simnet.links import Pipe, Queued
from transport.simnet.routes import Route

RATE = 12.5e6


def pair(up: float, down: float, route: Route | None = None) -> Net:
    net = Net(1, route=lambda one, two: route) if route else Net(1)
    for key in (B, A):
        net.join(key, Talker(), up=up, down=down, latency_s=0.01, jitter=0.0)
    net.tell(A, Connect(B, (), 1, with_stream=True))
    net.run(1.0)
    return net


def sent(net: Net, *sizes: int) -> list[float]:
    """When frames of these sizes are there, after they were sent at once."""
    began, talker = net.now, net.peers[B].core
    assert isinstance(talker, Talker)
    net.tell(A, *(Send(B, STREAM_LANE, b"%d" % n, Phantom(size), "stream") for n, size in enumerate(sizes)))
    net.run(net.now + 100.0)
    assert [header for *_, header, _ in talker.got] == [b"%d" % n for n in range(len(sizes))]
    return [at - began for at, *_ in talker.got]


@pytest.mark.parametrize("pieces", [1, 4, 64])
def test_a_boundary_takes_its_line_once_in_pieces_of_any_size(pieces: int) -> None:
    size = 12_500_000
    assert sent(pair(RATE, RATE), *[size // pieces] * pieces)[-1] == pytest.approx(1.02, abs=0.01)


def test_the_slower_of_two_lines_is_the_limit() -> None:
    assert sent(pair(RATE, RATE / 2), 12_500_000)[0] == pytest.approx(2.02, abs=0.01)
    assert sent(pair(RATE / 2, RATE), 12_500_000)[0] == pytest.approx(2.02, abs=0.01)


def test_a_shared_line_between_is_one_more_of_them() -> None:
    fast = Route(0.0, 0.0, (Pipe(RATE),))
    slow = Route(0.0, 0.0, (Pipe(RATE), Pipe(RATE / 4)))
    assert sent(pair(RATE, RATE, fast), 12_500_000)[0] == pytest.approx(1.02, abs=0.01)
    assert sent(pair(RATE, RATE, slow), 12_500_000)[0] == pytest.approx(4.02, abs=0.01)


def test_one_after_the_other_they_fill_the_line() -> None:
    assert sent(pair(RATE, RATE), 12_500_000, 6_250_000, 100) == [
        pytest.approx(at, abs=0.01) for at in (1.02, 1.52, 1.52)
    ]


def test_what_is_queued_of_a_kind_is_what_has_not_left() -> None:
    queued = Queued()
    queued.put(10, 10)
    queued.put(25, 5)
    assert [queued.ahead(now) for now in (0, 4, 10, 22, 25)] == [15, 11, 5, 3, 0]
