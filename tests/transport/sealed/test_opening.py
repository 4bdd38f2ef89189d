"""Opening a lane: once, soon, only with the key, and with keys and nonces that never come twice."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from tests.transport.sealed.lane_kit import HIGHER, LOWER, SpyCipher, lane_ends, turned
from transport.limits import LIMITS
from transport.sealed.keys import LaneEnds
from transport.sealed.opening import OPENING_BYTES, Offers, accept, ask
from transport.sealed.records import SEALED_HEADER_BYTES, Kind, Record
from transport.sealed.seals import Opener, Sealer

PORT = 7778


def offered(offers: Offers, now: float = 0.0, ends: LaneEnds | None = None) -> tuple[bytes, Sealer, Opener]:
    """What the dialler has once the lane it asked for was offered."""
    ends = ends or lane_ends()
    asked = ask(ends.lane)
    offer = offers.offer(now, turned(ends), asked, PORT)
    assert offer.port == PORT
    return accept(ends, asked, offer)


def test_the_right_32_bytes_open_the_lane_and_both_ends_understand_each_other() -> None:
    offers = Offers()
    opening, sealer, opener = offered(offers)
    assert len(opening) == OPENING_BYTES == 32
    lane = offers.take(1.0, opening)
    assert lane is not None
    assert (lane.peer, lane.lane, lane.sessions) == (LOWER, 1, ((2, 0), (1, 0)))
    assert opener.is_opening(lane.sealer.opening())
    wire, record = bytearray(1_000), Record(Kind.FRAME, 5)
    sealer.seal(record, b"hello", None, memoryview(wire))
    assert lane.opener.header(wire[:SEALED_HEADER_BYTES]) == record
    lane.sealer.seal(record, b"hello", None, memoryview(wire))
    assert opener.header(wire[:SEALED_HEADER_BYTES]) == record
    assert len(offers) == 0


def test_a_copy_that_comes_after_the_original_opens_nothing() -> None:
    offers = Offers()
    opening, *_ = offered(offers)
    assert offers.take(1.0, opening) is not None
    assert offers.take(1.0, opening) is None


def test_a_copy_that_comes_before_the_original_takes_its_place_and_cannot_use_it() -> None:
    """Whoever is between can do that, and has only what it could have cut anyway: it has no key."""
    offers = Offers()
    opening, _, opener = offered(offers)
    assert offers.take(1.0, bytes(opening)) is not None
    assert offers.take(1.0, opening) is None, "the original is answered by nobody, and dials again"
    assert not opener.is_opening(opening[16:])


@pytest.mark.parametrize("position", range(OPENING_BYTES))
def test_an_opening_that_is_not_right_opens_nothing_and_burns_what_it_names(position: int) -> None:
    offers = Offers()
    opening, *_ = offered(offers)
    wrong = bytearray(opening)
    wrong[position] ^= 1
    assert offers.take(0.0, bytes(wrong)) is None
    assert (offers.take(0.0, opening) is None) == (position >= 16)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 33])
def test_an_opening_of_another_length_opens_nothing(size: int) -> None:
    offers = Offers()
    opening, *_ = offered(offers)
    assert offers.take(0.0, (opening + b"?")[:size]) is None


def test_an_offer_is_good_for_ten_seconds() -> None:
    offers = Offers()
    early, *_ = offered(offers, 100.0)
    assert offers.take(109.9, early) is not None
    late, *_ = offered(offers, 100.0)
    assert offers.take(110.0, late) is None
    assert len(offers) == 0


def test_a_lane_that_is_asked_for_again_has_one_offer_and_other_lanes_keep_theirs() -> None:
    offers = Offers()
    first, *_ = offered(offers)
    other, *_ = offered(offers, ends=lane_ends(lane=2))
    again, *_ = offered(offers)
    assert len(offers) == 2
    assert offers.take(0.0, first) is None
    assert offers.take(0.0, again) is not None
    assert offers.take(0.0, other) is not None


def test_a_peer_cannot_make_us_keep_more_than_one_offer_for_each_of_its_lanes() -> None:
    offers = Offers()
    for number in range(1_000):
        offered(offers, number / 1_000, lane_ends(lane=1 + number % 3))
    assert len(offers) == 3


def test_what_was_offered_in_a_session_ends_with_it() -> None:
    offers = Offers()
    mine, *_ = offered(offers)
    others, *_ = offered(offers, ends=lane_ends(ours=b"\x05" * 32))
    offers.forget(LOWER)
    assert offers.take(0.0, mine) is None
    assert offers.take(0.0, others) is not None


@pytest.mark.parametrize("view", ["session", "peer_session", "run", "lane"])
def test_ends_that_do_not_mean_the_same_lane_do_not_open_it(view: str) -> None:
    offers, ends = Offers(), lane_ends()
    asked = ask(ends.lane)
    change = {"session": (8, 8), "peer_session": (8, 8), "run": b"another run", "lane": 1}[view]
    differs = replace(turned(ends), **{view: change})  # type: ignore[arg-type]
    opening, *_ = accept(ends, asked, offers.offer(0.0, differs, asked, PORT))
    assert (offers.take(0.0, opening) is not None) == (view == "lane")


def test_no_key_and_nonce_come_twice_over_a_thousand_connections() -> None:
    """Reconnects within one session, sessions begun anew at either end, both ends dialling at once, and whole
    restarts in which incarnations grow; some records over each, both ways."""
    used: list[tuple[bytes, bytes]] = []
    random = Random(14)
    wire, record = memoryview(bytearray(1_000)), Record(Kind.FRAME, 5)
    sessions = {LOWER: (1, 0), HIGHER: (1, 0)}

    def spy(key: bytes) -> SpyCipher:
        return SpyCipher(key, used)

    offers = {each: Offers(LIMITS, cipher_of=spy) for each in sessions}
    for _ in range(1_000):
        happens = random.randrange(6)
        changed = random.choice([LOWER, HIGHER])
        incarnation, generation = sessions[changed]
        if happens == 0:
            sessions[changed] = (incarnation, generation + 1)
        elif happens == 1:
            sessions[changed] = (incarnation + 1, 0)
            offers[changed] = Offers(LIMITS, cipher_of=spy)
        diallers = [LOWER, HIGHER] if happens == 2 else [random.choice([LOWER, HIGHER])]
        opened = []
        for ours in diallers:
            theirs = HIGHER if ours == LOWER else LOWER
            ends = lane_ends(ours, theirs, sessions[ours], sessions[theirs], random.choice([1, 2]))
            asked = ask(ends.lane)
            offer = offers[theirs].offer(0.0, turned(ends), asked, PORT)
            opened.append((theirs, accept(ends, asked, offer, LIMITS, spy)))
        for theirs, (opening, sealer, opener) in opened:
            lane = offers[theirs].take(0.0, opening)
            assert lane is not None
            assert opener.is_opening(lane.sealer.opening())
            for _ in range(random.randrange(4)):
                sealer.seal(record, b"hello", None, wire)
                lane.sealer.seal(record, b"hello", None, wire)
    assert len(used) > 4_000
    assert len(set(used)) == len(used)
