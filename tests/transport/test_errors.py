"""Errors below a swarm: one tree, drawn where it is defined, and each says whose fault it is."""

from __future__ import annotations

import re

import pytest

from transport import errors
from transport.errors import BadFrame, BadMessage, KnockRefused, PeerFault, Poisoned, TransportError


def subclasses(of: type) -> list[type]:
    return [each for direct in of.__subclasses__() for each in (direct, *subclasses(direct))]


def test_the_tree_that_is_drawn_is_the_tree_that_is_defined() -> None:
    drawn: dict[int, str] = {}
    found = {}
    for line in (errors.__doc__ or "").splitlines():
        if (match := re.match(r"([│├└─ ]*)([A-Z][A-Za-z]+)(  |$)", line)) is not None:
            depth = len(match[1]) // 4
            drawn[depth] = match[2]
            found[match[2]] = drawn.get(depth - 1, "Exception")
    here = [TransportError, *(c for c in subclasses(TransportError) if c.__module__ == errors.__name__)]
    assert found == {c.__name__: c.__bases__[0].__name__ for c in here}


def test_what_a_peer_sent_is_the_fault_of_a_peer_and_what_a_host_refused_is_not() -> None:
    for error in (BadFrame("x"), BadMessage("x"), Poisoned(3, "x")):
        assert isinstance(error, PeerFault)
    assert not issubclass(KnockRefused, PeerFault)


def test_a_poisoned_contribution_names_its_member() -> None:
    with pytest.raises(Poisoned, match="member 3: a value is not finite") as caught:
        raise Poisoned(3, "a value is not finite")
    assert (caught.value.member, caught.value.reason) == (3, "a value is not finite")
