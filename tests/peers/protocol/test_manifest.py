"""Manifests: whoever differs is told what differs, the first thing first (X6)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from peers.protocol.manifest import Manifest, difference, manifest_in, unpack_manifest
from peers.protocol.messages import PROTOCOL, Applied, CaughtUp, Enter, Ready
from peers.protocol.record import GENESIS
from transport.errors import BadFrame
from transport.frames import pack

OURS = Manifest(b"s" * 32, b"t" * 32, b"h" * 32, "int8", (5, 6), "a model of 11")
DIFFERENT: list[tuple[str, Any, str]] = [
    ("settings", b"x" * 32, "settings"),
    ("tensors", b"x" * 32, "tensors"),
    ("shapes", b"x" * 32, "shapes"),
    ("codec", "fp32", "codec"),
    ("elements", (5, 7), "fragments"),
]


def test_equal_manifests_do_not_differ_and_the_readable_line_is_no_difference() -> None:
    assert difference(OURS, OURS, PROTOCOL) is None
    assert difference(OURS, replace(OURS, model="the same, told otherwise"), PROTOCOL) is None


@pytest.mark.parametrize(("name", "value", "code"), DIFFERENT)
def test_what_differs_is_named(name: str, value: Any, code: str) -> None:
    found = difference(OURS, replace(OURS, **{name: value}), PROTOCOL)
    assert found is not None
    assert found[0] == code


def test_the_first_of_many_differences_is_named() -> None:
    theirs = Manifest(b"x" * 32, b"x" * 32, b"x" * 32, "fp32", (1,), "another")
    expected = ["protocol", *(code for _, _, code in DIFFERENT)]
    protocol, found = PROTOCOL + 1, []
    for name in ["protocol", *(name for name, _, _ in DIFFERENT)]:
        different = difference(OURS, theirs, protocol)
        assert different is not None
        found.append(different[0])
        protocol = PROTOCOL
        if name != "protocol":
            theirs = replace(theirs, **{name: getattr(OURS, name)})
    assert found == expected
    assert difference(OURS, theirs, protocol) is None


def test_people_read_both_models_and_both_protocols() -> None:
    theirs = replace(OURS, shapes=b"x" * 32, model="a model of 12")
    _, sentence = difference(OURS, theirs, PROTOCOL) or ("", "")
    assert "a model of 11" in sentence
    assert "a model of 12" in sentence
    _, sentence = difference(OURS, OURS, 99) or ("", "")
    assert f"protocol {PROTOCOL}, this member 99" in sentence


def test_a_manifest_is_read_from_who_enters() -> None:
    enter = Enter(
        PROTOCOL,
        "me",
        (),
        0,
        GENESIS,
        False,
        OURS.settings,
        OURS.tensors,
        OURS.shapes,
        OURS.codec,
        OURS.elements,
        OURS.model,
    )
    assert manifest_in(enter) == OURS
    assert manifest_in(enter).num_fragments == 2


def test_a_message_about_a_fragment_that_the_model_does_not_have_is_refused() -> None:
    OURS.check_fragment(Applied(1, GENESIS, GENESIS[:16]))
    OURS.check_fragment(CaughtUp(GENESIS))
    for message in (Applied(2, GENESIS, GENESIS[:16]), Ready(255, GENESIS, 1, 1, 1, 1.0)):
        with pytest.raises(BadFrame, match=f"fragment {message.fragment} of 2"):
            OURS.check_fragment(message)


def test_a_manifest_comes_back_from_its_bytes_and_nothing_else_does() -> None:
    assert unpack_manifest(pack(OURS)) == OURS
    for other in (pack(CaughtUp(GENESIS)), b"", pack(OURS)[:-1]):
        with pytest.raises(BadFrame):
            unpack_manifest(other)
