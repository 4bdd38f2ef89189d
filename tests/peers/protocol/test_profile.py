"""A profile is data: what two members fill in alike is one value, and it means rounds unless it says more."""

from __future__ import annotations

import dataclasses

import pytest

from peers.protocol.manifest import Manifest, manifest_in
from peers.protocol.messages import PROTOCOL
from peers.protocol.profile import Matching, Profile

MANIFEST = Manifest(b"s" * 32, b"t" * 32, b"f" * 32, "int8", (8, 4), "vectors")


def test_members_that_say_the_same_have_the_same_profile() -> None:
    ours, theirs = (Profile("w", ("tcp://w:1",), MANIFEST, matching=Matching("grid", 7, 3)) for _ in range(2))
    assert {ours} == {theirs}
    assert ours != dataclasses.replace(theirs, matching=Matching("grid", 8, 3))


def test_a_profile_without_a_matching_takes_part_in_rounds_and_waits_for_everyone() -> None:
    profile = Profile("w", (), MANIFEST)
    assert (profile.matching, profile.rebases, profile.adapts, profile.stage) == (None, False, False, 0)


def test_a_profile_does_not_change_once_it_is_handed_over() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Profile("w", (), MANIFEST).name = "v"  # type: ignore[misc]


def test_a_member_enters_with_its_manifest_and_the_state_that_it_holds() -> None:
    manifest = Manifest(b"1" * 32, b"2" * 32, b"3" * 32, "int8", (5, 6), "a model")
    profile = Profile("me", ("tcp://a:1",), manifest, stage=3)
    enter = profile.enter(b"h" * 32, True)
    assert manifest_in(enter) == manifest
    assert (enter.protocol, enter.name, enter.addresses, enter.stage) == (PROTOCOL, "me", ("tcp://a:1",), 3)
    assert (enter.head, enter.holds_state) == (b"h" * 32, True)


def test_a_grid_has_lines_of_two_unless_it_is_told_otherwise() -> None:
    assert Matching("grid").group_size == 2
