"""Suspicion: what one word can do, how long it lasts, and what it can never do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peers.coordinator.marks import FORGIVEN_AFTER
from peers.coordinator.suspicion import DISTRUSTED_FOR, MAX_WAIT_S, Suspicion

A, B, C, D, LIAR = b"a", b"b", b"c", b"d", b"l"


def lasting(suspicion: Suspicion, members: tuple[bytes, ...], index: int) -> int:
    """Commits after ``index`` for which somebody is marked."""
    return next(n for n in range(1 << 16) if not suspicion.marked(members, index + n))


def test_an_accusation_takes_the_chunks_from_both_and_has_their_rounds_proved() -> None:
    suspicion = Suspicion()
    assert not suspicion.proves((A, B, C, D), 5)
    suspicion.accuse(A, B, 5)
    assert suspicion.idle((A, B, C, D), 5) == {A, B}
    assert suspicion.proves((B, C, D), 5)
    assert not suspicion.proves((C, D), 5)


def test_each_mark_of_a_pair_lasts_twice_as_long_as_the_one_before() -> None:
    suspicion, index, lasted = Suspicion(), 0, []
    for _ in range(5):
        suspicion.accuse(A, B, index)
        lasted.append(lasting(suspicion, (A, B), index))
        index += lasted[-1]
    assert lasted == [2, 4, 8, 16, 32]
    suspicion.accuse(A, C, index)
    assert lasting(suspicion, (A, C), index) == 2, "it is the pair that counts"


def test_a_pair_is_forgiven_after_so_many_commits_without_a_mark() -> None:
    for clean, lasts in ((FORGIVEN_AFTER - 1, 8), (FORGIVEN_AFTER, 2)):
        suspicion = Suspicion()
        suspicion.accuse(A, B, 0)
        suspicion.accuse(A, B, 0)
        suspicion.accuse(A, B, 4 + clean)
        assert lasting(suspicion, (A, B), 4 + clean) == lasts


def test_more_than_half_outvote_one() -> None:
    suspicion = Suspicion()
    for accuser in (A, B):
        suspicion.accuse(accuser, LIAR, 0)
    assert suspicion.outvoted((A, B, C, LIAR), 0) == []
    suspicion.accuse(C, LIAR, 0)
    assert suspicion.outvoted((A, B, C, LIAR), 0) == [LIAR]
    assert suspicion.outvoted((A, B, C, D, b"e", b"f", LIAR), 0) == []


def test_where_somebody_lied_and_nobody_knows_who_all_rounds_are_proved_for_a_while() -> None:
    suspicion = Suspicion()
    suspicion.distrust_all(3)
    assert suspicion.proves((A, B), 3 + DISTRUSTED_FOR - 1)
    assert not suspicion.idle((A, B, C), 3)
    assert not suspicion.proves((A, B), 3 + DISTRUSTED_FOR)


def test_a_distrusted_member_owns_chunks_and_its_rounds_are_proved_for_a_while() -> None:
    suspicion = Suspicion()
    suspicion.distrust(A, 3)
    assert not suspicion.idle((A, B, C), 3)
    assert suspicion.proves((A, B), 3)
    assert not suspicion.proves((B, C), 3)
    assert not suspicion.proves((A, B), 1000)


def test_where_fewer_than_two_are_left_all_own_after_a_wait_that_grows_and_ends() -> None:
    suspicion, waits = Suspicion(), []
    for _ in range(8):
        suspicion.accuse(A, B, 0)
        assert suspicion.idle((A, B, C), 0) == frozenset()
        assert suspicion.wait_s((A, B, C, D), 0) == 0.0
        waits.append(suspicion.wait_s((A, B, C), 0))
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, MAX_WAIT_S, MAX_WAIT_S, MAX_WAIT_S]


def test_who_is_out_for_good_marks_nobody_any_more() -> None:
    suspicion = Suspicion()
    suspicion.accuse(LIAR, A, 0)
    suspicion.accuse(B, C, 0)
    suspicion.forget(LIAR)
    assert suspicion.marked((A, B, C), 0) == {B, C}
    assert suspicion.pairs(0) == [(B, C, 2)]


MEMBERS = st.integers(2, 8).map(lambda n: tuple(bytes([i]) for i in range(n)))
WORDS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3)), max_size=60)


@given(members=MEMBERS, words=WORDS)
def test_a_single_liar_sets_nobody_else_aside_and_never_takes_the_chunks_from_all(
    members: tuple[bytes, ...], words: list[tuple[int, int]]
) -> None:
    suspicion, index, liar = Suspicion(), 0, members[0]
    for whom, commits in words:
        index += commits
        suspicion.accuse(liar, members[whom % len(members)], index)
        assert set(suspicion.outvoted(members, index)) <= {liar}
        owners = set(members) - suspicion.idle(members, index)
        assert len(owners) >= 2
        marked = suspicion.marked(members, index) - {liar}
        assert suspicion.outvoted(members, index) == [liar] or 2 * len(marked) <= len(members)


@given(members=MEMBERS, words=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=60))
def test_whoever_says_what_two_members_own_the_chunks_or_a_round_waits_no_longer_than_a_minute(
    members: tuple[bytes, ...], words: list[tuple[int, int]]
) -> None:
    suspicion = Suspicion()
    for accuser, accused in words:
        suspicion.accuse(members[accuser % len(members)], members[accused % len(members)], 0)
        assert len(members) - len(suspicion.idle(members, 0)) >= 2
        assert suspicion.wait_s(members, 0) <= MAX_WAIT_S


@given(words=st.lists(st.tuples(st.binary(min_size=1, max_size=2), st.binary(max_size=1)), max_size=200))
def test_what_is_kept_is_bounded_whoever_is_accused(words: list[tuple[bytes, bytes]]) -> None:
    suspicion = Suspicion(max_pairs=8)
    for accuser, accused in words:
        suspicion.accuse(accuser, accused, 0)
        assert len(suspicion.pairs(0)) <= 8


def test_so_many_are_distrusted_at_once_and_no_more() -> None:
    suspicion, members = Suspicion(max_pairs=8), [bytes([each]) for each in range(20)]
    for member in members:
        suspicion.distrust(member, 0)
    assert [suspicion.proves((member,), 0) for member in members] == [True] * 8 + [False] * 12


def test_who_owes_a_proof_owns_no_chunks_and_its_rounds_are_proved_until_it_is_out() -> None:
    suspicion = Suspicion()
    suspicion.owes_proof(A, 3)
    assert suspicion.idle([A, B, C], 3) == {A}
    assert suspicion.proves([A, B], 18)
    assert not suspicion.proves([A, B], 19)
    suspicion.forget(A)
    assert suspicion.idle([A, B, C], 3) == frozenset()


def test_those_who_owe_a_proof_are_bounded() -> None:
    suspicion = Suspicion(max_pairs=2)
    for member in (A, B, C):
        suspicion.owes_proof(member, 0)
    assert suspicion.marked([A, B, C], 1) == {A, B}
    suspicion.owes_proof(C, 16)
    assert suspicion.marked([A, B, C], 16) == {C}
