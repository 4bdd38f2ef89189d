"""Profile: what a member says when it enters is what it was made with."""

from __future__ import annotations

from peers.member.profile import Profile
from peers.protocol.manifest import Manifest, manifest_in
from peers.protocol.messages import PROTOCOL


def test_a_member_enters_with_its_manifest_and_the_state_that_it_holds() -> None:
    manifest = Manifest(b"1" * 32, b"2" * 32, b"3" * 32, "int8", (5, 6), "a model")
    profile = Profile("me", ("tcp://a:1",), manifest, stage=3)
    enter = profile.enter(b"h" * 32, True)
    assert manifest_in(enter) == manifest
    assert (enter.protocol, enter.name, enter.addresses, enter.stage) == (PROTOCOL, "me", ("tcp://a:1",), 3)
    assert (enter.head, enter.holds_state) == (b"h" * 32, True)
