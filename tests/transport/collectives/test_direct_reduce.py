"""The direct exchange: the right sum for any size and any members, and for the survivors of any loss."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.collectives.chunks import MeanChunk, PartChunk
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.plan import BLOCK_ELEMENTS, Plan, chunk_elements_for, max_chunk_elements
from transport.collectives.reducer import NumpyReducer, PhantomReducer
from transport.effects import Payload
from transport.errors import BadFrame
from transport.limits import LIMITS


def key(index: int) -> bytes:
    return bytes([index]) * 32


class Group:
    """Members of one exchange and the messages between them, delivered one at a time."""

    def __init__(self, num_members: int, size: int, chunk_elements: int | None = None) -> None:
        self.keys = tuple(key(i) for i in range(num_members))
        self.values = [np.full(size, 10.0**i, dtype=np.float32) for i in range(num_members)]
        chunk_elements = chunk_elements or chunk_elements_for(size, num_members, LIMITS, 4.0)
        self.members = {
            k: DirectReduce(1, k, NumpyReducer(size, v), chunk_elements, 0.0)
            for k, v in zip(self.keys, self.values, strict=True)
        }
        self.wire: deque[tuple[bytes, bytes, PartChunk | MeanChunk, Payload]] = deque()
        self.begin(0, frozenset())

    def chunk_of(self, owner: bytes) -> int:
        """The first chunk that a member owns in the first attempt."""
        num = self.members[owner].num_chunks
        plan = Plan(0, self.keys, (1.0,) * len(self.keys))
        return next(chunk for chunk in range(num) if plan.owner(chunk, num) == owner)

    def begin(self, attempt: int, lost: frozenset[bytes]) -> None:
        plan = Plan(attempt, self.keys, (1.0,) * len(self.keys), lost)
        for lost_key in lost:
            self.members.pop(lost_key, None)
        for member in self.members.values():
            member.begin(0.0, plan)
        self.pump()

    def pump(self) -> None:
        for me, member in self.members.items():
            while member.pump(lambda peer: 1 << 40, lambda p, m, b, me=me: self.wire.append((me, p, m, b))):
                pass

    def deliver(self, max_frames: int = 1 << 30) -> int:
        """Deliver up to ``max_frames`` messages; how many there were."""
        count = 0
        while self.wire and count < max_frames:
            sender, to, message, payload = self.wire.popleft()
            count += 1
            member = self.members.get(to)
            if member is None or message.attempt > member.attempt:
                continue
            take = member.part if isinstance(message, PartChunk) else member.mean
            take(0.0, sender, message, payload)
            self.pump()
        return count

    def sums(self) -> list[list[float]]:
        found = []
        for member in self.members.values():
            assert member.done
            assert isinstance(member.reducer, NumpyReducer)
            found.append((member.reducer.output * len(self.members)).round().tolist())
        return found

    def same(self) -> bool:
        return len({member.digest() for member in self.members.values()}) == 1


@given(num_members=st.integers(1, 7), size=st.integers(1, 700), chunk=st.integers(1, 300))
def test_any_number_of_elements_and_members_gives_the_mean_to_all(
    num_members: int, size: int, chunk: int
) -> None:
    group = Group(num_members, size, chunk)
    group.deliver()
    wanted = float("1" * num_members)
    assert all(sums == [wanted] * size for sums in group.sums())
    assert group.same()


def test_of_a_result_is_kept_what_the_reducer_says() -> None:
    group = Group(3, 24, 4)
    for member in group.members.values():
        member.reducer.kept = lambda chunk, payload: bytes([chunk])  # type: ignore[method-assign]
    group.deliver()
    assert group.same()
    for member in group.members.values():
        assert member.means() == [bytes([chunk]) for chunk in range(6)]


def test_after_the_loss_of_anyone_at_any_moment_survivors_hold_their_own_sum() -> None:
    whole = Group(3, 24, 4)
    total = whole.deliver()
    for lost in range(3):
        for moment in range(total + 1):
            group = Group(3, 24, 4)
            group.deliver(moment)
            group.wire = deque(m for m in group.wire if key(lost) not in (m[0], m[1]))
            group.begin(1, frozenset([key(lost)]))
            group.deliver()
            wanted = sum(10.0**i for i in range(3) if i != lost)
            assert all(sums == [wanted] * 24 for sums in group.sums()), (lost, moment)
            assert group.same()


def test_only_the_chunks_of_the_lost_member_move() -> None:
    before = Plan(0, tuple(key(i) for i in range(4)), (1.0,) * 4)
    after = Plan(1, before.founders, before.weights, frozenset([key(2)]))
    moved = [c for c in range(16) if before.owner(c, 16) != after.owner(c, 16)]
    assert moved == [c for c in range(16) if before.owner(c, 16) == key(2)]


def test_only_the_chunks_of_the_idle_move_and_not_to_other_idle_ones() -> None:
    keys = tuple(key(i) for i in range(5))
    all_own, some = Plan(0, keys, (1.0,) * 5), Plan(0, keys, (1.0,) * 5, idle=frozenset([key(1), key(2)]))
    for chunk in range(20):
        before, after = all_own.owner(chunk, 20), some.owner(chunk, 20)
        assert after not in some.idle
        assert after == before or before in some.idle
    assert some.members == keys
    nobody = Plan(0, keys, (1.0,) * 5, idle=frozenset(keys))
    assert [nobody.owner(c, 20) for c in range(20)] == [keys[c % 5] for c in range(20)]


def test_one_who_owns_nothing_contributes_and_holds_the_same_mean() -> None:
    group = Group(4, 40, 4)
    plan = Plan(1, group.keys, (1.0,) * 4, idle=frozenset([key(0), key(3)]))
    for member in group.members.values():
        member.begin(0.0, plan)
    group.pump()
    senders = {sender for sender, _, message, _ in group.wire if message.attempt == 1}
    assert senders == set(group.keys)
    group.deliver()
    assert all(sums == [1111.0] * 40 for sums in group.sums())
    assert group.same()


@pytest.mark.parametrize("element_bytes", [4.0, 1.015625, 0.53125])
@pytest.mark.parametrize("size", [1, 5000, 300_000, 9 << 20, 1 << 30])
def test_chunks_are_blocks_of_as_many_bytes_as_allowed_and_leave_every_owner_work(
    size: int, element_bytes: float
) -> None:
    elements = chunk_elements_for(size, 4, LIMITS, element_bytes)
    assert elements == size or elements % BLOCK_ELEMENTS == 0
    assert elements * element_bytes <= LIMITS.chunk_bytes
    num_chunks, plan = -(-size // elements), Plan(0, tuple(map(key, range(4))), (1.0,) * 4)
    owners = {plan.owner(chunk, num_chunks) for chunk in range(0, num_chunks, max(1, num_chunks // 64))}
    assert len(owners) == 4 or size < 4 * BLOCK_ELEMENTS
    assert elements == max_chunk_elements(LIMITS, element_bytes) or size < 1 << 30


def test_weights_are_shares_of_their_sum() -> None:
    members = [
        DirectReduce(1, key(i), NumpyReducer(2, np.full(2, v, np.float32)), 2, 0.0)
        for i, v in enumerate((1.0, 5.0))
    ]
    plan = Plan(0, (key(0), key(1)), (3.0, 1.0))
    sent: list[tuple[int, object, Payload]] = []
    for i, member in enumerate(members):
        member.begin(0.0, plan)
        while member.pump(lambda p: 1 << 30, lambda p, m, b, i=i: sent.append((i, m, b))):
            pass
    for i, message, payload in sent:
        if isinstance(message, PartChunk):
            members[0].part(0.0, key(i), message, payload)
    while members[0].pump(lambda p: 1 << 30, lambda p, m, b: None):
        pass
    assert isinstance(members[0].reducer, NumpyReducer)
    assert members[0].reducer.output.tolist() == [2.0, 2.0]


def test_values_that_are_not_finite_name_their_sender_and_are_not_added() -> None:
    group = Group(3, 12, 4)
    group.values[1][:] = np.nan
    group.deliver()
    named = {member.poisoned[0] for member in group.members.values() if member.poisoned}
    assert named == {key(1)}


def test_a_chunk_of_another_size_is_refused() -> None:
    group = Group(2, 8, 4)
    with pytest.raises(BadFrame, match="bytes instead of"):
        group.members[key(0)].part(0.0, key(1), PartChunk(1, 0, 0), b"x" * 15)
    with pytest.raises(BadFrame, match="outside"):
        group.members[key(0)].part(0.0, key(1), PartChunk(1, 0, 99), b"x" * 16)


def test_a_mean_of_another_size_or_outside_the_vector_is_refused() -> None:
    group = Group(3, 24, 4)
    member, chunk = group.members[key(0)], group.chunk_of(key(1))
    with pytest.raises(BadFrame, match="bytes instead of"):
        member.mean(0.0, key(1), MeanChunk(1, 0, chunk), b"x" * 15)
    with pytest.raises(BadFrame, match="outside"):
        member.mean(0.0, key(1), MeanChunk(1, 0, 99), b"x" * 16)


def test_a_mean_from_someone_who_does_not_own_the_chunk_is_refused() -> None:
    group = Group(3, 24, 4)
    chunk = group.chunk_of(key(1))
    with pytest.raises(BadFrame, match="does not own"):
        group.members[key(0)].mean(0.0, key(2), MeanChunk(1, 0, chunk), b"x" * 16)


def test_a_phantom_exchange_takes_no_memory_and_ends() -> None:
    keys = (key(0), key(1))
    plan = Plan(0, keys, (1.0, 1.0))
    members = {k: DirectReduce(1, k, PhantomReducer(10**9, 0.5, k), 1 << 28, 0.0) for k in keys}
    wire: deque[tuple[bytes, bytes, PartChunk | MeanChunk, Payload]] = deque()
    for member in members.values():
        member.begin(0.0, plan)
    moved = True
    while moved:
        moved = False
        for me, member in members.items():
            moved |= member.pump(lambda p: 1 << 40, lambda p, m, b, me=me: wire.append((me, p, m, b)))
        while wire:
            sender, to, message, payload = wire.popleft()
            moved = True
            (members[to].part if isinstance(message, PartChunk) else members[to].mean)(
                0.0, sender, message, payload
            )
    assert all(member.done for member in members.values())
    assert len({member.digest() for member in members.values()}) == 1


@pytest.mark.parametrize("num_members", range(1, 9))
@pytest.mark.parametrize("size", [0, 1, 3, 1000])
def test_any_vector_down_to_none_at_all_and_up_to_eight_members(num_members: int, size: int) -> None:
    group = Group(num_members, size)
    group.deliver()
    # Float32 has no room for eight digits of ones: the mean is exact to its last bit or two.
    wanted = float("1" * num_members)
    for sums in group.sums():
        assert sums == pytest.approx([wanted] * size, rel=1e-6)
    assert group.same()


@pytest.mark.parametrize("seed", range(60))
def test_one_loss_after_another_at_random_moments_leaves_the_sum_of_the_survivors(seed: int) -> None:
    rng = random.Random(seed)
    num_members = rng.randint(3, 6)
    group = Group(num_members, 40, rng.randint(1, 15))
    lost: frozenset[bytes] = frozenset()
    for attempt in range(1, num_members):
        group.deliver(rng.randint(0, 25))
        gone = rng.choice([k for k in group.keys if k not in lost])
        lost |= {gone}
        # What the lost one sent may still arrive; what was under way to it is gone.
        group.wire = deque(m for m in group.wire if m[1] != gone and (m[0] != gone or rng.random() < 0.5))
        group.begin(attempt, lost)
        group.deliver()
        wanted = sum(10.0**i for i, k in enumerate(group.keys) if k not in lost)
        assert all(sums == [wanted] * 40 for sums in group.sums())
        assert group.same()


def test_nothing_is_sent_beyond_the_room_and_everything_once_there_is_room() -> None:
    keys = (key(0), key(1))
    members = {k: DirectReduce(1, k, NumpyReducer(64, np.ones(64, np.float32)), 8, 0.0) for k in keys}
    room = dict.fromkeys(keys, 0)
    wire: deque[tuple[bytes, bytes, PartChunk | MeanChunk, Payload]] = deque()

    def pump(me: bytes) -> None:
        def send(peer: bytes, message: object, payload: Payload) -> None:
            room[me] -= len(payload)
            assert isinstance(message, PartChunk | MeanChunk)
            wire.append((me, peer, message, payload))

        while members[me].pump(lambda peer: room[me], send):
            pass
        assert room[me] >= 0

    for k in keys:
        members[k].begin(0.0, Plan(0, keys, (1.0, 1.0)))
        pump(k)
    assert not wire
    for _ in range(16):
        for k in keys:
            room[k] += 32  # one chunk
            pump(k)
        while wire:
            sender, to, message, payload = wire.popleft()
            take = members[to].part if isinstance(message, PartChunk) else members[to].mean
            take(0.0, sender, message, payload)
            pump(to)
    assert all(member.done for member in members.values())
    assert len({member.digest() for member in members.values()}) == 1


def test_a_part_that_comes_twice_or_from_a_stranger_is_not_used() -> None:
    group = Group(3, 24, 4)
    me = group.members[key(0)]
    mine = group.chunk_of(key(0))
    assert me.part(1.0, key(1), PartChunk(1, 0, mine), bytes(16))
    assert not me.part(1.0, key(1), PartChunk(1, 0, mine), b"y" * 16)
    assert not me.part(1.0, key(9), PartChunk(1, 0, mine), bytes(16))
    assert me.last_heard(key(1)) == 1.0
    assert me.last_heard(key(2)) == 0.0


def test_a_part_for_a_chunk_of_someone_else_is_refused() -> None:
    group = Group(3, 24, 4)
    me = group.members[key(0)]
    other = group.chunk_of(key(1))
    with pytest.raises(BadFrame, match="someone else"):
        me.part(0.0, key(1), PartChunk(1, 0, other), bytes(16))


def test_who_waits_knows_for_whom() -> None:
    group = Group(3, 24, 4)
    group.wire = deque(m for m in group.wire if m[0] != key(2))
    group.deliver()
    for k in (key(0), key(1)):
        assert group.members[k].owing_parts() == {key(2)}
        assert key(2) in group.members[k].waiting_for()
        assert not group.members[k].done


def test_nobody_is_done_with_a_mean_that_does_not_decode_and_its_owner_is_named() -> None:
    def spoilt(frame: tuple[bytes, bytes, Any, Payload]) -> tuple[bytes, bytes, Any, Payload]:
        sender, to, message, payload = frame
        if sender == key(1) and isinstance(message, MeanChunk):
            payload = bytes(np.full(len(payload) // 4, np.nan, np.float32))
        return sender, to, message, payload

    group, delivered = Group(3, 12, 4), 1
    while delivered:
        group.wire = deque(map(spoilt, group.wire))
        delivered = group.deliver(1)
    for each in (key(0), key(2)):
        member = group.members[each]
        assert not member.done
        assert member.poisoned is not None
        assert member.poisoned[0] == key(1)
