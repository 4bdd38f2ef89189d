"""A driver learns from what its own core says between which two sessions a link is."""

from __future__ import annotations

from transport.effects import Effect, Send
from transport.frames import pack_items, to_items, unpack_items
from transport.limits import LIMITS
from transport.link.link import Link
from transport.link.messages import Ack, Hello, Session
from transport.sealed.headers import sessions_of

OURS, THEIRS = (3, 1), (9, 4)


def test_the_sessions_are_those_of_the_greeting_that_both_ends_have_said() -> None:
    """Whatever two cores say to each other until the link is up, in either order, tells both drivers."""
    out: dict[bytes, list[Effect]] = {b"a": [], b"b": []}
    sessions = {b"a": Session(5, 2), b"b": Session(7, 0)}
    links = {
        name: Link(
            peer,
            sessions[name],
            dials=name == b"a",
            addresses=("tcp://1.2.3.4:5",),
            heartbeat_s=1.0,
            silence_s=5.0,
            limits=LIMITS,
            out=out[name],
        )
        for name, peer in ((b"a", b"b"), (b"b", b"a"))
    }
    found = {}
    links[b"a"].connected(0.0, 0)
    for _ in range(6):
        for name, peer in ((b"a", b"b"), (b"b", b"a")):
            sent, out[name][:] = list(out[name]), []
            for effect in sent:
                assert isinstance(effect, Send)
                found[name] = sessions_of(effect.header) or found.get(name)
                links[peer].receive(0.0, 0, unpack_items(effect.header), None)
    assert links[b"a"].up
    assert links[b"b"].up
    assert found == {b"a": ((5, 2), (7, 0)), b"b": ((7, 0), (5, 2))}


def test_what_is_no_greeting_or_is_said_to_nobody_tells_no_sessions() -> None:
    assert sessions_of(pack_items([to_items(Ack(*OURS, *THEIRS, 1, 2, 3, 0))])) is None
    assert sessions_of(pack_items([to_items(Hello(*OURS, 0, 0, 0, 0, 0, False))])) is None
    assert sessions_of(pack_items([to_items(Hello(*OURS, *THEIRS, 0, 0, 0, False))])) == (OURS, THEIRS)
