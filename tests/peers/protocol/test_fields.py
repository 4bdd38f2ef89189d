"""One type per field: what one message may hold may be carried on by every other one that has that field."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.protocol.fields import (
    ALL_FRAGMENTS,
    MAX_FRAGMENTS,
    MAX_MEMBERS,
    MAX_STAGES,
    MAX_WEIGHT,
    RoundWeight,
    Weight,
    cut,
)
from peers.protocol.messages import Open, Ready, RosterBatch
from peers.protocol.record import Record
from transport.collectives.fields import Attempt, ChunkIndex, Serial
from transport.errors import BadFrame
from transport.frames import from_items, kinds, to_items
from transport.limits import LIMITS

OTHER = {
    ("Record", "fragment"),  # a restoring one is of no fragment
    ("Counted", "record"),  # its hash
    ("StatusFollows", "members"),  # their number
    ("Want", "index"),  # whether it is about one
    ("Piece", "index"),
}
"""What is called like the field of other messages, and is another one."""


def fields_of(where: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """By field: its type in each message of these packages."""
    found: dict[str, dict[str, Any]] = {}
    for cls in kinds().values():
        if cls.__module__.startswith(where):
            hints = get_type_hints(cls, include_extras=True)
            for each in dataclasses.fields(cls):
                if (cls.__name__, each.name) not in OTHER:
                    found.setdefault(each.name, {})[cls.__name__] = hints[each.name]
    return found


def test_a_field_has_one_type_in_all_messages_and_journal_entries() -> None:
    found = fields_of(("peers.", "transport.collectives."))
    assert {"weights", "tokens", "norm", "fragment", "serial", "addresses", "name", "reason"} < set(found)
    several = {name: types for name, types in found.items() if len(set(map(repr, types.values()))) > 1}
    assert not several


def test_a_weight_that_may_be_offered_may_be_in_a_round_as_the_same_number() -> None:
    ready = Ready(0, b"b" * 32, 1, MAX_WEIGHT, 1, 1.0)
    assert from_items(to_items(ready)) == ready
    opened = Open(1, 0, 0, b"b" * 32, 1, (b"k" * 32,), (float(ready.weight),), ())
    assert from_items(to_items(opened)) == opened
    assert int(opened.weights[0]) == ready.weight
    with pytest.raises(BadFrame, match="weight"):
        from_items(to_items(dataclasses.replace(ready, weight=MAX_WEIGHT + 1)))
    assert get_type_hints(Ready, include_extras=True)["weight"] == Weight
    assert Weight != RoundWeight


def test_bounds_are_those_of_the_transport() -> None:
    assert LIMITS.members == MAX_MEMBERS
    assert LIMITS.fragments == MAX_FRAGMENTS
    assert LIMITS.stages == MAX_STAGES
    assert ALL_FRAGMENTS >= MAX_FRAGMENTS
    assert Attempt == Serial == ChunkIndex
    assert RosterBatch in kinds().values()
    assert Record in kinds().values()


@given(text=st.text(st.characters()), most=st.integers(3, 40))
def test_a_text_is_cut_by_bytes_between_characters_and_can_travel(text: str, most: int) -> None:
    found = cut(text, most)
    assert len(found.encode()) <= most
    whole = text.encode("utf-8", "replace").decode()
    if len(whole.encode()) <= most:
        assert found == whole
    else:
        assert found.endswith("…")
        assert whole.startswith(found[:-1])
        assert len(whole[: len(found)].encode()) > most - 3


def test_a_reason_inside_a_reason_still_fits() -> None:
    reason = "é" * 400
    for _ in range(4):
        reason = cut(f"declined: {reason}")
        assert len(reason.encode()) <= 256
