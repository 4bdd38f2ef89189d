"""A member's signatures, and those of the others by the keys that the roster has."""

from __future__ import annotations

from dataclasses import replace

from peers.admission.identity import Identity, verify
from peers.member.notary import MemberNotary
from tests.peers.member.fakes import OTHER, THIRD, entry

MINE, THEIRS = Identity(b"1" * 32), Identity(b"2" * 32)


def test_what_one_signs_others_can_check_by_the_key_on_the_roster_and_no_other() -> None:
    me = MemberNotary(MINE, verify, {})
    word = me.sign(b"a statement")
    roster = {OTHER: replace(entry(OTHER), identity=MINE.public), THIRD: entry(THIRD)}
    them = MemberNotary(THEIRS, verify, roster)
    assert them.verify(OTHER, b"a statement", word)
    assert not them.verify(OTHER, b"another one", word)
    assert not them.verify(THIRD, b"a statement", word), "the roster has no key of it"
    assert not them.verify(b"x" * 32, b"a statement", word), "it is not on the roster"
    assert not verify(MINE.public, b"diloco card 1", b"a statement", word), "under another tag"
