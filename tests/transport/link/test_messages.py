"""What two ends of a link say beside messages: sessions grow, and headers come back as they were."""

from __future__ import annotations

import pytest

from transport.errors import BadFrame
from transport.frames import pack, unpack
from transport.link.messages import GENERATIONS, NOBODY, Ack, Ask, DiskFull, Hello, Session, Stale


def test_a_session_grows_with_the_incarnation_first_and_then_with_the_generation() -> None:
    in_order = [(1, 0), (1, 1), (1, 1 << 12), (1, GENERATIONS - 1), (2, 0), (2, 7), (1 << 62, 1)]
    sessions = [Session(*each) for each in in_order]
    assert [NOBODY, *sessions] == sorted({NOBODY, *sessions})


def test_sessions_are_the_first_fields_of_what_is_said_ours_before_the_other() -> None:
    ours, theirs = Session(1 << 62, 7), Session(9, GENERATIONS - 1)
    for said in (Hello(*ours, *theirs, 0, 0, 0, False), Ack(*ours, *theirs, 0, 0, 0, 0)):
        understood = unpack(pack(said))
        assert (understood.session, understood.known) == (ours, theirs)


def test_a_generation_beyond_the_last_is_no_word_of_ours() -> None:
    for sessions in ((1, GENERATIONS, 1, 1), (1, 1, 1, GENERATIONS)):
        with pytest.raises(BadFrame, match="generation"):
            unpack(pack(Ack(*sessions, 0, 0, 0, 0)))
        with pytest.raises(BadFrame, match="generation"):
            unpack(pack(Hello(*sessions, 0, 0, 0, False)))


@pytest.mark.parametrize(
    "said",
    [
        Hello(1, 2, 3, 4, 5, 6, 7, True),
        Ack(1, 2, 3, 4, 5, 6, 7, 8),
        Ask(1, 2, 3, 4, 5, 6, 7, 8),
        Stale(1),
        DiskFull(),
    ],
)
def test_what_is_said_is_understood_as_what_it_is(said: object) -> None:
    understood = unpack(pack(said))
    assert understood == said
    assert type(understood) is type(said)


def test_any_process_that_greets_is_later_than_nobody() -> None:
    assert Session(0, 1) > NOBODY
    assert NOBODY.incarnation == 0
