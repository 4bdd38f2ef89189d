"""Gathering: what comes is checked, bounded in bytes and time, and whoever lies is asked no more."""

from __future__ import annotations

from typing import Any

from peers.coordinator.gathering import Gathering
from transport.collectives.fetch import Piece, Want, index_page
from transport.digests import digest_of, tree_digest
from transport.limits import Limits

LIMITS = Limits(payload_bytes=128, least_upload=100)
TIMEOUT_S = 10.0
BLOBS = [[b"text" * 20], [bytes([i]) * 128 for i in range(3)] + [b"end"], [b"x" * 30, b"y" * 20]]
NAMES = [tree_digest(list(map(digest_of, pieces))) for pieces in BLOBS]
LAYOUT, FORMER, RESULT = NAMES
HELD = dict(zip(NAMES, BLOBS, strict=True))


class Fetching:
    """A host that gathers from members ``a`` and ``b``."""

    def __init__(self, max_bytes: int = 1000, donors: tuple[bytes, ...] = (b"a", b"b")) -> None:
        self.asked: list[tuple[bytes, Want]] = []
        self.gathering = Gathering(
            0.0,
            layout=LAYOUT,
            former=FORMER,
            result=RESULT,
            max_chunks=4,
            max_bytes=max_bytes,
            donors=donors,
            timeout_s=TIMEOUT_S,
            limits=LIMITS,
        )
        self.pump(0.0)

    def send(self, peer: bytes, message: Any) -> None:
        self.asked.append((peer, message))

    def pump(self, now: float) -> None:
        self.gathering.pump(now, self.send)

    def answer(self, now: float, lies: tuple[bytes, ...] = (), at_most: int = 1000) -> int:
        """Answer so many requests; how many there were."""
        count = 0
        while self.asked and count < at_most:
            peer, want = self.asked.pop(0)
            count += 1
            digests = list(map(digest_of, HELD[want.blob]))
            right = index_page(digests, want.piece, LIMITS) if want.index else HELD[want.blob][want.piece]
            payload = bytes(len(right)) if peer in lies else right
            self.gathering.take(now, peer, Piece(want.blob, want.piece, want.index), payload)
            self.pump(now)
        return count


def test_the_three_are_put_together_from_several_members() -> None:
    fetching = Fetching()
    assert not fetching.gathering.done
    fetching.answer(0.0)
    assert fetching.gathering.done
    assert fetching.gathering.layout == BLOBS[0][0]
    assert fetching.gathering.result == BLOBS[2]
    assert bytes(fetching.gathering.take_former()) == b"".join(BLOBS[1])
    assert bytes(fetching.gathering.take_former()) == b"", "its memory was given away"


def test_one_that_lies_is_asked_for_a_few_pieces_and_no_more() -> None:
    fetching = Fetching(donors=(b"a",))
    num_asked = fetching.answer(0.0, lies=(b"a",))
    assert num_asked == 4, "an index of each, of which one fills a page"
    assert fetching.gathering.failed(0.0)
    both = Fetching()
    both.answer(0.0, lies=(b"a",))
    assert both.gathering.done


def test_a_state_that_is_too_large_is_not_fetched() -> None:
    fetching = Fetching(max_bytes=3 * 128)
    fetching.answer(0.0)
    assert fetching.gathering.too_large
    assert not fetching.gathering.done


def test_one_that_drips_is_waited_for_as_long_as_the_slowest_line_would_take() -> None:
    fetching = Fetching(donors=(b"a",))
    now = 0.0
    while not fetching.gathering.failed(now) and not fetching.gathering.done:
        now += 0.9 * TIMEOUT_S
        fetching.answer(now, at_most=1)
        fetching.pump(now)
    num_bytes = 128 * sum(map(len, BLOBS))
    assert not fetching.gathering.done
    assert now <= 5 * TIMEOUT_S + num_bytes / 100


def test_what_is_here_already_is_not_asked_for_and_who_leaves_is_asked_no_more() -> None:
    fetching = Fetching(donors=(b"a",))
    fetching.asked.clear()
    fetching.gathering.use(lambda blob: (list(map(digest_of, HELD[blob])), HELD[blob].__getitem__))
    assert fetching.gathering.done
    other = Fetching()
    other.gathering.drop(b"a")
    other.gathering.lacks(b"b", FORMER)
    assert other.gathering.failed(0.0)
    late = Fetching(donors=())
    assert late.gathering.failed(0.0)
    late.gathering.add(b"a")
    late.pump(0.0)
    late.answer(0.0)
    assert late.gathering.done
