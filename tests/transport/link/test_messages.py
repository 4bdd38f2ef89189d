"""What two ends of a link say beside messages: sessions grow, and headers come back as they were."""

from __future__ import annotations

import pytest

from transport.frames import pack, unpack
from transport.link.messages import GENERATIONS, Ack, Ask, Hello, Stale, session_of


def test_a_session_grows_with_the_incarnation_first_and_then_with_the_generation() -> None:
    in_order = [(1, 0), (1, 1), (1, GENERATIONS - 1), (2, 0), (2, 7), (3, 1)]
    sessions = [session_of(*each) for each in in_order]
    assert sessions == sorted(set(sessions))
    assert [session // GENERATIONS for session in sessions] == [each[0] for each in in_order]


def test_a_generation_beyond_the_last_begins_at_none_and_never_reaches_the_next_incarnation() -> None:
    assert session_of(5, GENERATIONS + 3) == session_of(5, 3)


@pytest.mark.parametrize(
    "said", [Hello(1, 2, 3, 4, 5, True), Ack(1, 2, 3, 4, 5, 6), Ask(1, 2, 3, 4, 5, 6), Stale(1)]
)
def test_what_is_said_is_understood_as_what_it_is(said: object) -> None:
    understood = unpack(pack(said))
    assert understood == said
    assert type(understood) is type(said)
