"""Members show what is longer than its author says: the coordinator measures, and who was wrong is out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from peers.admission.identity import Identity, verify
from peers.coordinator.judgement import Court
from peers.coordinator.measured import BAND, LengthsShown
from peers.protocol.evidence import MAX_LONG, Shown
from peers.protocol.messages import Leave, Open, Stuck
from peers.protocol.signing import INDEX_TAG
from tests.peers.coordinator.coordinator_kit import Swarm, key, opened
from tests.peers.coordinator.test_judgement import COURT, RUN, Proving
from transport.collectives.proofs import GROUP, Index, Terms, place_of
from transport.digests import digest_of
from transport.errors import BadFrame
from transport.frames import pack, unpack
from transport.limits import LIMITS

CHUNK, NUM_CHUNKS = 5, 20
ROOT_OF_SQUARE = (1.0 / CHUNK) ** 0.5
"""Each element of a chunk whose squared norm is 1."""


class Disputing(Proving):
    """The same five, whose vectors have 20 chunks; each claims a norm of 2, so a squared norm of 4."""

    def __init__(self, court: Court | None = COURT) -> None:
        Swarm.__init__(self, court=court, limits=replace(LIMITS, chunk_elements=CHUNK))
        for index in range(1, 6):
            self.core.certify(key(index), f"w{index}", identity=Identity(bytes([index]) * 32).public)
            self.greet(index)
            self.hold(index)
        self.core.state.courses[0].suspicion.distrust(key(1), 0)
        for index in range(1, 6):
            self.ready(index, norm=2.0)
        self.open = self.told(1, Open)[-1]
        assert self.open.proved

    def long(
        self, chunk: int, square: float, count: int, accuser: int = 2, author: int = 1, **changes: Any
    ) -> None:
        """An accuser shows a chunk of that squared norm, in a vector of which all chunks are such."""
        payload = np.full(CHUNK, ROOT_OF_SQUARE * square**0.5, np.float32).tobytes()
        index = Index([digest_of(payload)] * GROUP)
        place = place_of(chunk, NUM_CHUNKS)
        terms = Terms(RUN, self.open.serial, self.open.base, 0, 100, self.open.life)
        said = terms.statement(index.root, place.group, self.open.founders)
        signature = Identity(bytes([author]) * 32).sign(INDEX_TAG, said)
        path = index.path(place.leaf)
        about = self.open.serial, 0, key(author), False, 100, chunk, path, signature, "too long", count
        self.core.take_evidence(self.now, key(accuser), replace(Shown(*about), **changes), payload)

    def words(self) -> list[tuple[bytes, bytes]]:
        """Pairs of which one has only the other's word against it."""
        return [(a, b) for a, b, _ in self.core.state.courses[0].suspicion.pairs(self.chain.index)]


def test_a_chunk_that_alone_is_longer_than_its_author_says_puts_the_author_out() -> None:
    swarm = Disputing()
    swarm.long(3, 4.1, 1)
    assert swarm.put_out() == [key(1)]
    again = swarm.told(2, Open)[-1]
    assert (again.attempt, again.lost, again.idle) == (1, (0,), ())


def test_an_author_that_leaves_before_its_chunk_is_shown_is_put_out_all_the_same() -> None:
    swarm = Disputing()
    swarm.hear(1, Leave("done"))
    swarm.long(3, 4.1, 1)
    assert swarm.put_out() == [key(1)]
    assert swarm.told(2, Open)[-1].attempt == 1, "it was left out already"
    swarm.long(3, 4.1, 1, accuser=3)
    assert swarm.put_out() == [key(1)], "once"


def test_whoever_calls_a_chunk_too_long_that_is_not_is_out_itself() -> None:
    swarm = Disputing()
    swarm.long(3, 3.9, 1)
    assert swarm.put_out() == [key(2)]


def test_chunks_that_are_too_long_together_put_their_author_out_as_soon_as_they_are() -> None:
    swarm = Disputing()
    swarm.long(0, 1.5, 4)
    swarm.long(1, 1.5, 4)
    assert (swarm.put_out(), swarm.words()) == ([], []), "3 of 4"
    assert len(swarm.told(2, Open)) == 1, "nothing is repeated while more is to come"
    swarm.long(2, 1.5, 4)
    assert swarm.put_out() == [key(1)]


def test_whoever_has_shown_all_and_it_is_not_too_long_is_out() -> None:
    swarm = Disputing()
    for chunk in range(3):
        swarm.long(chunk, 1.0, 4)
    assert swarm.put_out() == []
    swarm.long(2, 1.0, 4)
    assert swarm.put_out() == [], "the same once more does not count"
    assert swarm.words() == [(key(2), key(1))]
    swarm = Disputing()
    for chunk in range(4):
        swarm.long(chunk, 0.9, 4)
    assert swarm.put_out() == [key(2)]


@pytest.mark.parametrize("times", [1 - BAND / 2, 1.0, 1 + BAND / 2])
def test_what_is_too_close_to_tell_is_a_word(times: float) -> None:
    swarm = Disputing()
    limit = swarm.open.part_limits[0]
    for chunk in range(4):
        swarm.long(chunk, limit * times / 4, 4)
    assert swarm.put_out() == []
    assert swarm.words() == [(key(2), key(1))]


def test_of_several_that_show_the_same_each_is_added_up_by_itself() -> None:
    swarm = Disputing()
    for accuser in (2, 3, 4):
        swarm.long(0, 2.5, 2, accuser=accuser)
    assert swarm.put_out() == [], "one chunk that three have shown is not three"
    swarm.long(1, 2.5, 2, accuser=3)
    assert swarm.put_out() == [key(1)]


def test_a_chunk_for_which_nobody_vouched_puts_the_one_out_that_shows_it() -> None:
    swarm = Disputing()
    swarm.long(0, 9.0, 1, signature=bytes(64))
    assert swarm.put_out() == [key(2)]


def test_one_author_is_shown_in_a_round_and_what_is_shown_of_another_is_a_word() -> None:
    swarm = Disputing()
    swarm.long(0, 1.0, 4)
    swarm.long(0, 9.0, 1, author=3)
    assert swarm.put_out() == []
    assert swarm.words() == [(key(2), key(3))]
    swarm.long(1, 9.0, 3)
    assert swarm.put_out() == [], "of another number"
    assert (key(2), key(1)) in swarm.words()


def test_whoever_has_shown_what_cannot_be_used_has_shown_its_one_thing_of_the_round() -> None:
    swarm = Disputing()
    swarm.long(0, float("nan"), 0, author=3)
    assert swarm.put_out() == [key(3)]
    swarm.long(0, 9.0, 1)
    assert swarm.put_out() == [key(3)]
    assert swarm.words() == [(key(2), key(1))]


def test_a_host_that_cannot_decode_goes_by_words() -> None:
    for court in (None, Court(RUN, verify, None)):
        swarm = Disputing(court)
        swarm.long(0, 9.0, 2)
        assert swarm.put_out() == []
        assert swarm.words() == [(key(2), key(1))]


def test_means_are_held_against_the_longest_contribution() -> None:
    for square, wrong in ((4.3, 2), (4.6, 1)):
        swarm = Disputing()
        payload = np.full(CHUNK, ROOT_OF_SQUARE * square**0.5, np.float32).tobytes()
        index = Index([digest_of(payload)] * GROUP)
        terms = Terms(RUN, swarm.open.serial, swarm.open.base, 0, 100, swarm.open.life)
        said = terms.statement(index.root, 0, swarm.open.founders, 0)
        signature = Identity(b"\x01" * 32).sign(INDEX_TAG, said)
        about = swarm.open.serial, 0, key(1), True, 100, 0, index.path(0), signature, "too long", 1
        swarm.core.take_evidence(swarm.now, key(2), Shown(*about), payload)
        assert swarm.put_out() == [key(wrong)], "a mean may be 1.1 times as long, squared"


def test_how_many_are_shown_is_bounded() -> None:
    about = 1, 0, key(1), False, 100, 0, (), bytes(64), "too long"
    assert unpack(pack(Shown(*about, MAX_LONG))).num_long == MAX_LONG
    with pytest.raises(BadFrame):
        unpack(pack(Shown(*about, MAX_LONG + 1)))
    shown = LengthsShown(Shown(*about, 2))
    assert shown.takes(Shown(*about, 2))
    assert not shown.takes(Shown(*about, 3))


def test_in_a_round_that_is_not_proved_it_is_a_word_and_the_round_is_repeated_proved_once() -> None:
    for court, attempts in ((COURT, 1), (Court(RUN, verify, None), 2)):
        swarm = Swarm(court=court)
        for index in range(1, 6):
            swarm.enter(index)
            swarm.hold(index)
        first = opened(swarm, 1, 2, 3, 4, 5)
        assert not first.proved
        for index in (2, 3):
            swarm.hear(index, Stuck(first.serial, 0, (key(1),), "its contribution is longer than it says"))
        again = swarm.told(5, Open)[-1]
        assert (again.attempt, again.proved) == (attempts, True), "there it is shown, if it can be judged"
