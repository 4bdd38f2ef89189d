"""Checks of states: what differs in a bit has another one, at the commit that writes it or at the next."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diloco.compression.vectors import SLICE
from diloco.methods.presets import method
from diloco.methods.spec import Method
from diloco.outer.checks import Written, check_of, check_of_bytes, followed_by
from diloco.outer.gossip_step import GossipStep
from diloco.outer.layout import Layout
from diloco.outer.state import OuterState
from tests.diloco.outer.kit import make, normal

METHODS = {
    "diloco": method("diloco"),
    "shared error feedback": method(
        "diloco", codec="int8", error_feedback="ef21", weights="equal", mean_codec="fp32"
    ),
    "low rank": method("diloco", projection="low_rank", rank=2, codec="fp32"),
    "adam": method("diloco", outer="adam"),
    "delayed": method("diloco", outer="delayed_nesterov"),
    "sgd": method("local_sgd"),
    "signs": method("demo"),
}


def held(chosen: Method, seed: int = 1) -> OuterState:
    """The state of one fragment, of random values."""
    outer = OuterState(Layout.of(make(24), chosen.num_fragments), chosen)
    outer.start_from(0, lambda out: out.copy_(normal(outer.num_elements(0), seed)))
    return outer


def commit(outer: OuterState, seed: int) -> bytes:
    """One more commit, of a mean that is the same for the same seed."""
    length = outer.components(0).projection.length(outer.projection_state(0))
    moves = outer.take_sketch if outer.sketches(0) else outer.step
    moves(0, normal(length, seed))
    return outer.check(0)


def flip(vector: Tensor, at: int = 5) -> None:
    """The lowest bit of an exponent, as a worn memory would."""
    vector.view(torch.int32)[at] ^= 1 << 23


@pytest.mark.parametrize("told", [0, 5, 24])
def test_what_nobody_told_of_as_written_is_looked_at_in_the_end(told: int) -> None:
    vectors, projection = [normal(24, 1), normal(24, 2)], normal(0, 3)
    written = Written(vectors)
    written.take(slice(0, told))
    assert written.check(3, projection) == check_of(vectors, 3, projection)


@pytest.mark.parametrize("name", METHODS)
def test_the_check_of_a_step_is_that_of_the_state_as_it_was_written(name: str) -> None:
    outer = held(METHODS[name])
    for seed in range(4):
        found = commit(outer, seed)
        other = held(METHODS[name])
        with outer.reading(0) as view:
            incoming = other.room(0)
            incoming.write(0, bytes(view.read(0, view.size_bytes)))
        other.take_over(0, incoming)
        assert other.check(0) == found


@pytest.mark.parametrize("name", METHODS)
def test_a_bit_that_is_flipped_before_a_step_is_in_the_check_of_that_step(name: str) -> None:
    outer, twin = held(METHODS[name]), held(METHODS[name])
    assert [commit(outer, seed) for seed in range(2)] == [commit(twin, seed) for seed in range(2)]
    flip(twin.outer_parameters(0))
    assert commit(outer, 2) != commit(twin, 2)


@pytest.mark.parametrize("name", METHODS)
def test_a_bit_that_is_flipped_after_a_step_is_in_the_check_of_the_next(name: str) -> None:
    outer, twin = held(METHODS[name]), held(METHODS[name])
    found = commit(outer, 0)
    assert commit(twin, 0) == found
    flip(twin.outer_parameters(0))
    assert twin.check(0) == found, "it is of what was written"
    assert commit(outer, 1) != commit(twin, 1)


def test_whatever_is_kept_beside_the_parameters_is_in_the_check_too() -> None:
    outer = held(METHODS["adam"])
    commit(outer, 0)
    for vector in (outer.outer_parameters(0), *outer.buffers(0)):
        vectors = [outer.outer_parameters(0), *outer.buffers(0)]
        before = check_of(vectors, 1, torch.ones(2))
        flip(vector)
        assert check_of(vectors, 1, torch.ones(2)) != before
    assert check_of(vectors, 1, torch.ones(2)) != check_of(vectors, 2, torch.ones(2))
    assert check_of(vectors, 1, torch.ones(2)) != check_of(vectors, 1, torch.zeros(2))


def test_how_a_state_is_cut_changes_nothing_and_where_a_value_lies_does() -> None:
    vectors = [normal(SLICE + 7, 1), normal(SLICE + 7, 2)]
    cut = Written(vectors)
    for start in range(0, SLICE + 7, 1000):
        cut.take(slice(start, min(start + 1000, SLICE + 7)))
    assert cut.check(3, torch.empty(0)) == check_of(vectors, 3, torch.empty(0))
    assert check_of(vectors[::-1], 3, torch.empty(0)) != check_of(vectors, 3, torch.empty(0))


def test_what_follows_a_state_is_in_its_check() -> None:
    check = check_of([normal(5, 1)], 0, torch.empty(0))
    assert check_of_bytes([]) == check_of_bytes([memoryview(b"")]) == b""
    assert followed_by(check, b"") == check
    behind = [check_of_bytes([memoryview(each)]) for each in (b"ab", b"ba")]
    assert behind[0] == check_of_bytes([memoryview(b"a"), memoryview(b"b")])
    assert len({check, *(followed_by(check, each) for each in behind)}) == 3


def test_a_step_of_gossip_tells_each_slice_once_it_is_written() -> None:
    n = SLICE + 3
    old, new = [normal(n, 1), normal(n, 2)], [torch.empty(n), torch.empty(n)]
    written = Written(new)
    GossipStep(lr=0.7, momentum=0.5, gamma=1.0).step(old, normal(n, 3), normal(n, 4), new, written.take)
    assert written.check(1, torch.empty(0)) == check_of(new, 1, torch.empty(0))
