"""Proved attempts: nothing is used that its author did not vouch for, and two stories show."""

from __future__ import annotations

import hashlib
from collections import deque
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.collectives.chunks import MeanChunk, PartChunk, ProvedMean, ProvedPart
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.plan import Plan
from transport.collectives.proofs import GROUP, Index, Terms, num_groups, place_of, root_of
from transport.collectives.prover import Prover
from transport.collectives.reducer import NumpyReducer
from transport.digests import digest_of
from transport.effects import Payload
from transport.errors import BadFrame

TERMS = Terms(b"run", 1, b"base", 0, 40)
OTHER_TERMS = [
    Terms(b"ruN", 1, b"base", 0, 40),
    Terms(b"run", 2, b"base", 0, 40),
    Terms(b"run", 1, b"basE", 0, 40),
    Terms(b"run", 1, b"base", 1, 40),
    Terms(b"run", 1, b"base", 0, 41),
    Terms(b"run", 1, b"base", 0, 40, b"another life 123"),
]


def key(index: int) -> bytes:
    return bytes([index]) * 32


class Seal:
    """Signatures that a test can tell apart: a hash with the author's key."""

    def __init__(self, me: bytes) -> None:
        self._me = me

    def sign(self, statement: bytes) -> bytes:
        return hashlib.sha512(self._me + statement).digest()

    def verify(self, author: bytes, statement: bytes, signature: bytes) -> bool:
        return signature == Seal(author).sign(statement)


Frame = tuple[bytes, bytes, PartChunk | MeanChunk, Payload]


class Proving:
    """Members whose attempts may be proved, and what is on its way between them."""

    def __init__(self, num_members: int, size: int = 40, chunk: int = 4) -> None:
        self.keys = tuple(key(i) for i in range(num_members))
        self.values = [np.full(size, 10.0**i, dtype=np.float32) for i in range(num_members)]
        self.members = {
            k: DirectReduce(1, k, NumpyReducer(size, v), chunk, 0.0, Prover(k, Seal(k), TERMS))
            for k, v in zip(self.keys, self.values, strict=True)
        }
        self.wire: deque[Frame] = deque()
        self.sent: list[Frame] = []

    def begin(self, attempt: int, *, proved: bool = True, lost: frozenset[bytes] = frozenset()) -> None:
        plan = Plan(attempt, self.keys, (1.0,) * len(self.keys), lost, proved=proved)
        for gone in lost:
            self.members.pop(gone, None)
        for member in self.members.values():
            member.begin(0.0, plan)
        self.pump()

    def pump(self) -> None:
        for me, member in self.members.items():
            while member.pump(lambda peer: 1 << 40, lambda p, m, b, me=me: self.put((me, p, m, b))):
                pass

    def put(self, frame: Frame) -> None:
        self.wire.append(frame)
        self.sent.append(frame)

    def deliver(self, most: int = 1 << 30) -> None:
        while self.wire and most:
            most -= 1
            self.take(*self.wire.popleft())

    def take(self, sender: bytes, to: bytes, message: PartChunk | MeanChunk, payload: Payload) -> None:
        member = self.members.get(to)
        if member is not None and message.attempt <= member.attempt:
            (member.part if isinstance(message, PartChunk) else member.mean)(0.0, sender, message, payload)
            self.pump()

    def check(self) -> None:
        wanted = sum(10.0**i for i, k in enumerate(self.keys) if k in self.members) / len(self.members)
        for member in self.members.values():
            assert member.done
            assert isinstance(member.reducer, NumpyReducer)
            assert np.allclose(member.reducer.output, wanted)
        assert len({member.digest() for member in self.members.values()}) == 1


@given(count=st.integers(1, 40), data=st.data())
def test_each_chunk_leads_to_the_root_at_its_own_place_only(count: int, data: st.DataObject) -> None:
    chunks = [bytes([i]) * 5 for i in range(count)]
    at, other = (data.draw(st.integers(0, count - 1)) for _ in range(2))
    place, elsewhere = place_of(at, count), place_of(other, count)
    first = place.group * GROUP
    index = Index([digest_of(chunk) for chunk in chunks[first : first + GROUP]])
    path = index.path(place.leaf)
    assert root_of(digest_of(chunks[at]), place, path) == index.root
    if other != at:
        assert root_of(digest_of(chunks[other]), place, path) != index.root
    if elsewhere.leaf != place.leaf:
        with suppress(BadFrame):  # that place may have a path of another length
            assert root_of(digest_of(chunks[at]), elsewhere, path) != index.root
    with pytest.raises(BadFrame):
        root_of(digest_of(chunks[at]), place, (*path, bytes(32)))
    if path:
        with pytest.raises(BadFrame):
            root_of(digest_of(chunks[at]), place, path[:-1])


@given(count=st.integers(1, 40))
def test_every_chunk_has_one_place(count: int) -> None:
    places = [place_of(position, count) for position in range(count)]
    assert len(set(places)) == count
    assert {place.group for place in places} == set(range(num_groups(count)))
    for group in range(num_groups(count)):
        leaves = [place.leaf for place in places if place.group == group]
        assert leaves == list(range(places[group * GROUP].num_leaves))


@given(num_members=st.integers(1, 6), size=st.integers(1, 200), chunk=st.integers(1, 60))
def test_a_proved_exchange_ends_with_the_same_mean(num_members: int, size: int, chunk: int) -> None:
    group = Proving(num_members, size, chunk)
    group.begin(0)
    group.deliver()
    group.check()
    assert all(isinstance(frame[2], ProvedPart | ProvedMean) for frame in group.sent)


def test_an_exchange_that_is_not_proved_carries_no_proofs() -> None:
    group = Proving(3)
    group.begin(0, proved=False)
    group.deliver()
    group.check()
    assert {type(frame[2]) for frame in group.sent} == {PartChunk, MeanChunk}


@pytest.mark.parametrize("moment", range(0, 60, 3))
def test_after_an_attempt_without_proofs_everything_is_sent_again_with_them(moment: int) -> None:
    group = Proving(4)
    group.begin(0, proved=False)
    group.deliver(moment)
    for member in group.members.values():
        member.reducer.output[:] = 0.0  # type: ignore[attr-defined]
    group.begin(1)
    group.deliver()
    group.check()


@pytest.mark.parametrize("moment", range(0, 60, 3))
def test_over_attempts_a_part_is_vouched_for_once_and_by_the_same_root(moment: int) -> None:
    group = Proving(4)
    group.begin(0)
    group.deliver(moment)
    gone = key(2)
    group.wire = deque(frame for frame in group.wire if gone not in frame[:2])
    group.begin(1, lost=frozenset([gone]))
    group.deliver()
    group.check()
    parts = [frame for frame in group.sent if isinstance(frame[2], ProvedPart)]
    signatures: dict[tuple[bytes, int], set[bytes]] = {}
    for sender, _, message, _ in parts:
        assert isinstance(message, ProvedPart)
        signatures.setdefault((sender, message.chunk // GROUP), set()).add(message.signature)
    assert all(len(each) == 1 for each in signatures.values())
    assert all(member.poisoned is None for member in group.members.values())


def test_what_is_sent_again_after_a_link_began_anew_is_the_same() -> None:
    group = Proving(3)
    group.begin(0)
    group.deliver(5)
    group.wire = deque(frame for frame in group.wire if set(frame[:2]) != {key(0), key(1)})
    group.members[key(0)].send_again(key(1))
    group.members[key(1)].send_again(key(0))
    group.pump()
    group.deliver()
    group.check()


def test_nothing_is_sent_before_all_of_its_group_is_vouched_for() -> None:
    group = Proving(3)
    member = group.members[key(0)]
    member.begin(0.0, Plan(0, group.keys, (1.0,) * 3, proved=True))
    sent: list[object] = []
    for _ in range(GROUP):
        member.pump(lambda peer: 1 << 40, lambda *each: sent.append(each))
        assert not sent
        assert not member.idle
    for _ in range(2):
        member.pump(lambda peer: 1 << 40, lambda *each: sent.append(each))
    assert sent


def test_without_room_nothing_is_prepared() -> None:
    group = Proving(3)
    member = group.members[key(0)]
    member.begin(0.0, Plan(0, group.keys, (1.0,) * 3, proved=True))
    assert not member.pump(lambda peer: 0, lambda *each: None)
    assert member.prover is not None
    assert member.prover.prepared


def first(group: Proving, sort: type, sender: bytes, to: bytes) -> Frame:
    return next(f for f in group.wire if isinstance(f[2], sort) and f[:2] == (sender, to))


def refused(group: Proving, sender: bytes, message: PartChunk | MeanChunk, payload: Payload) -> bool:
    """Whether member 0 takes no such chunk, and blames its sender at once, with its word alone."""
    member = group.members[key(0)]
    take = member.part if isinstance(message, PartChunk) else member.mean
    before = member.num_heard(sender)
    if take(0.0, sender, message, payload) or member.num_heard(sender) != before:
        return False
    found, member.poisoned = member.poisoned, None
    return found is not None and (found.peer, found.alone) == (sender, False)


@pytest.mark.parametrize("sort", [ProvedPart, ProvedMean])
def test_whoever_sends_what_it_did_not_vouch_for_is_blamed_at_once(sort: type) -> None:
    group = Proving(3)
    group.begin(0)
    while not any(isinstance(f[2], sort) and f[:2] == (key(1), key(0)) for f in group.wire):
        group.deliver(1)
    _, _, message, payload = first(group, sort, key(1), key(0))
    assert isinstance(message, ProvedPart | ProvedMean)
    bare = PartChunk if sort is ProvedPart else MeanChunk
    assert refused(group, key(1), message, bytes(len(payload)))
    assert refused(group, key(1), bare(1, 0, message.chunk), payload)
    assert refused(group, key(1), replace(message, path=(*message.path, bytes(32))), payload)
    assert refused(group, key(1), replace(message, signature=bytes(64)), payload)
    group.deliver()
    group.check()


def test_a_chunk_is_of_its_author_only() -> None:
    group = Proving(3)
    group.begin(0)
    _, _, message, payload = first(group, ProvedPart, key(1), key(0))
    assert refused(group, key(2), message, payload)
    group.deliver()
    group.check()


def test_a_proof_of_another_round_or_attempt_is_none() -> None:
    for terms in OTHER_TERMS:
        group, other = Proving(3), Prover(key(1), Seal(key(1)), terms)
        group.begin(0)
        _, _, message, payload = first(group, ProvedPart, key(1), key(0))
        assert isinstance(message, ProvedPart)
        other.begin(0, group.keys, (), [key(0)] * group.members[key(0)].num_chunks)
        other.part(message.chunk)
        while other.prepare(group.members[key(1)].reducer.encode):
            pass
        proof = other.part(message.chunk)
        assert proof is not None
        elsewhere = ProvedPart(1, 0, message.chunk, *proof)
        assert refused(group, key(1), elsewhere, payload)


def test_two_roots_under_one_statement_stop_the_attempt_and_can_be_shown() -> None:
    group = Proving(3)
    group.begin(0)
    mine = [f for f in group.wire if f[:2] == (key(1), key(0)) and isinstance(f[2], ProvedPart)]
    group.take(*mine[0])
    other = Prover(key(1), Seal(key(1)), TERMS)
    other.begin(0, group.keys, (), [key(0)] * group.members[key(0)].num_chunks)
    chunk = mine[1][2].chunk
    assert chunk // GROUP == mine[0][2].chunk // GROUP
    other.part(chunk)
    while other.prepare(lambda chunk: bytes(16)):
        pass
    proof = other.part(chunk)
    assert proof is not None
    assert not group.members[key(0)].part(0.0, key(1), ProvedPart(1, 0, chunk, *proof), bytes(16))
    poisoned = group.members[key(0)].poisoned
    assert poisoned is not None
    assert (poisoned.peer, poisoned.alone) == (key(1), False)
    prover = group.members[key(0)].prover
    assert prover is not None
    found = prover.equivocation
    assert found is not None
    assert (found.author, found.mean) == (key(1), False)
    for signed in (found.one, found.other):
        assert Seal(key(0)).verify(
            key(1), TERMS.statement(signed.root, found.group, group.keys), signed.signature
        )
    assert found.one.root != found.other.root


@pytest.mark.parametrize("role", ["part", "mean"])
def test_what_must_not_be_added_up_is_kept_with_its_proof(role: str) -> None:
    group = Proving(3)
    if role == "part":
        group.values[1][:] = np.nan
        group.begin(0)
    else:
        group.members[key(1)].reducer.reduce = lambda chunk, parts: np.full(4, np.nan, np.float32).data.cast(
            "B"
        )  # type: ignore[method-assign]
        group.members[key(1)].reducer.part_squares = [0.0] * 3
        group.members[key(1)].reducer.accept = lambda chunk, payload: 0.0  # type: ignore[method-assign]
        group.begin(0)
    group.deliver()
    for member in (group.members[key(0)], group.members[key(2)]):
        found = member.poisoned
        assert found is not None
        assert member.prover is not None
        assert (found.peer, found.mean, found.alone) == (key(1), role == "mean", True)
        ((chunk, payload),) = member.refused()
        assert chunk == found.chunk
        assert member.prover.proof_of(found.peer, chunk, found.mean) is not None
        assert np.isnan(np.frombuffer(payload, dtype=np.float32)).all()


class Halves(NumpyReducer):
    """Its codec halves what it encodes."""

    def encode(self, chunk: int) -> Payload:
        return (np.frombuffer(super().encode(chunk), np.float32) / 2).tobytes()  # type: ignore[arg-type]

    def own(self, chunk: int, encoded: bool, section: slice) -> Payload:
        return self.encode(chunk) if encoded else super().own(chunk, encoded, section)


@pytest.mark.parametrize("proved", [False, True])
def test_where_attempts_are_proved_an_owner_adds_its_own_part_as_it_vouches_for_it(proved: bool) -> None:
    keys = (key(0), key(1))
    owner = DirectReduce(
        1, key(0), Halves(8, np.full(8, 4.0, np.float32)), 4, 0.0, Prover(key(0), Seal(key(0)), TERMS)
    )
    group = Proving(2, 8, 4)
    group.values[1][:] = 8.0
    group.members[key(0)] = owner
    group.begin(0, proved=proved)
    group.deliver()
    assert owner.done
    assert np.frombuffer(owner.means()[0], np.float32)[0] == ((2.0 if proved else 4.0) + 8.0) / 2  # type: ignore[arg-type]
    assert np.frombuffer(owner.added(0, slice(0, 4)), np.float32)[0] == (2.0 if proved else 4.0)  # type: ignore[arg-type]
    assert [each[0] for each in owner.made_of(0)] == (list(keys) if proved else [])
