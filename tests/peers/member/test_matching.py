"""Matching: everyone finds the same groups alone, and a full grid averages exactly."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.member.matching import group_of, lines, pairs
from peers.protocol.profile import Matching


def members(count: int) -> list[bytes]:
    return [hashlib.sha256(bytes([i])).digest() for i in range(count)]


@given(st.integers(0, 40), st.integers(0, 5), st.integers(0, 1000))
def test_pairs_are_a_partition_in_which_at_most_one_is_alone(count: int, seed: int, step: int) -> None:
    groups = pairs(members(count), seed, step)
    assert sorted(m for group in groups for m in group) == sorted(members(count))
    assert sum(len(group) == 1 for group in groups) == count % 2
    assert all(len(group) <= 2 for group in groups)


@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 20))
def test_lines_are_a_partition_into_groups_of_at_most_their_size(count: int, side: int, step: int) -> None:
    groups = lines(members(count), 0, step, side)
    assert sorted(m for group in groups for m in group) == sorted(members(count))
    assert all(1 <= len(group) <= side for group in groups)


@pytest.mark.parametrize("kind", ["pair", "grid"])
def test_everyone_finds_the_same_group_whatever_order_it_knows_the_others_in(kind: str) -> None:
    matching, known = Matching(kind, seed=3, group_size=3), members(9)  # type: ignore[arg-type]
    for step, me in itertools.product(range(6), known):
        group = group_of(matching, known, step, me)
        assert me in group
        for other in group:
            assert group_of(matching, reversed(known), step, other) == group


def test_pairs_change_from_step_to_step() -> None:
    known = members(10)
    assert len({tuple(sorted(pairs(known, 0, step))) for step in range(20)}) > 15


@pytest.mark.parametrize(("side", "axes"), [(2, 3), (3, 2), (4, 2), (5, 1)])
def test_a_full_grid_holds_the_exact_mean_after_as_many_steps_as_it_has_axes(side: int, axes: int) -> None:
    known = members(side**axes)
    values = {member: np.float64(i) for i, member in enumerate(known)}
    for step in range(axes):
        for group in lines(known, 7, step, side):
            mean = np.mean([values[member] for member in group])
            values |= dict.fromkeys(group, mean)
    assert np.allclose(list(values.values()), np.mean(range(side**axes)))


def test_one_who_is_not_among_the_members_is_alone() -> None:
    assert group_of(Matching("pair"), members(4), 0, b"x" * 32) == (b"x" * 32,)


@pytest.mark.parametrize(("side", "axes"), [(2, 1), (2, 2), (2, 3), (3, 2)])
def test_in_a_full_grid_nobody_is_ever_alone(side: int, axes: int) -> None:
    for step in range(2 * axes):
        assert {len(line) for line in lines(members(side**axes), 0, step, side)} == {side}
