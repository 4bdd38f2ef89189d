"""A host that begins again from an old copy of its journal gives serials again, and proves nothing with them.

What a member signed for a round of the lost life is worth nothing in the round of the same serial.
"""

from __future__ import annotations

from peers.admission.identity import Identity, verify
from peers.coordinator.journal import PeerKicked
from peers.coordinator.judgement import Court
from peers.protocol.evidence import ToldTwoThings
from peers.protocol.messages import Open
from peers.protocol.signing import INDEX_TAG
from tests.peers.coordinator.coordinator_kit import Swarm, key, opened
from transport.collectives.proofs import Terms
from transport.frames import unpack

RUN = b"r" * 32
ONE, OTHER = b"1" * 32, b"2" * 32


def identity(index: int) -> Identity:
    return Identity(bytes([index]) * 32)


class Life(Swarm):
    """A host that began with a copy of a journal, and opened one round, which is proved."""

    def __init__(self, journal: list[bytes], secret: bytes) -> None:
        super().__init__(list(journal), Court(RUN, verify, None))
        self.core.state.secret = secret
        for index in (1, 2, 3):
            self.core.certify(key(index), f"w{index}", identity=identity(index).public)
            self.greet(index)
            self.hold(index)
        self.core.state.courses[0].suspicion.distrust(key(1), 0)
        self.open = opened(self, 1, 2, 3)

    def put_out(self) -> list[bytes]:
        return [e.key for e in map(unpack, self.journal) if isinstance(e, PeerKicked)]


def signed_by_the_first(root: bytes, about: Open) -> bytes:
    """What member 1 vouches for when it contributes to that round."""
    terms = Terms(RUN, about.serial, about.base, about.fragment, 100, about.life)
    return identity(1).sign(INDEX_TAG, terms.statement(root, 0, about.founders))


def two_lives() -> tuple[Life, Life]:
    copy = Life([], b"an earlier life").journal
    return Life(copy, b"the lost life"), Life(copy, b"the life after")


def told(swarm: Life, *signatures: bytes) -> None:
    first, second = signatures
    serial = swarm.open.serial
    swarm.hear(2, ToldTwoThings(serial, 0, key(1), False, 100, 0, ONE, first, OTHER, second))


def test_an_old_copy_gives_the_same_serials_and_another_life() -> None:
    lost, after = two_lives()
    assert (lost.open.serial, lost.open.base) == (after.open.serial, after.open.base)
    assert lost.open.founders == after.open.founders
    assert lost.open.life != after.open.life
    assert after.open.proved


def test_who_contributed_to_both_is_not_put_out_and_who_shows_the_two_as_one_is() -> None:
    lost, after = two_lives()
    told(after, signed_by_the_first(ONE, lost.open), signed_by_the_first(OTHER, after.open))
    assert after.put_out() == [key(2)]


def test_whoever_vouches_for_two_things_within_one_life_still_is() -> None:
    _, after = two_lives()
    told(after, signed_by_the_first(ONE, after.open), signed_by_the_first(OTHER, after.open))
    assert after.put_out() == [key(1)]
