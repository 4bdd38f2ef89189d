"""Tickets: one word, checked, that never shows its secret."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.admission.ticket import CLOCK_SKEW_S, Ticket, invite_pair, read_ticket
from peers.errors import ExpiredTicket, MistypedTicket, NewerTicket, NotATicket, TicketError

EXPIRY = 1_800_000_000
TICKET = Ticket(bytes(range(16)), b"h" * 32, b"SECRETsecretSECR", EXPIRY, ("tcp://host.example:4711",))
CHARACTERS = st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789ABC=+/. \n\u00e9")
ADDRESSES = st.lists(
    st.builds("tcp://{}:{}".format, st.from_regex(r"[a-z0-9]{1,30}", fullmatch=True), st.integers(1, 65535)),
    min_size=1,
    max_size=3,
)


def word_of(body: bytes) -> str:
    """The word for any body, with the checksum that fits it."""
    data = body + hashlib.sha256(b"diloco ticket" + body).digest()[:4]
    return "dlc1" + base64.b32encode(data).decode().rstrip("=").lower()


@given(
    run=st.binary(min_size=16, max_size=16),
    host=st.binary(min_size=32, max_size=32),
    secret=st.binary(min_size=16, max_size=16),
    expiry=st.integers(0, 2**32 - 1),
    addresses=ADDRESSES,
    flags=st.integers(0, 255),
)
@settings(max_examples=50)
def test_a_ticket_comes_back_as_it_went(
    run: bytes, host: bytes, secret: bytes, expiry: int, addresses: list[str], flags: int
) -> None:
    ticket = Ticket(run, host, secret, expiry, tuple(addresses), flags)
    word = ticket.encode()
    assert word.isalnum()
    assert word == word.lower()
    assert Ticket.parse(f"  {word}\n") == ticket


def body_of_ticket() -> bytes:
    """TICKET as the format says, field by field."""
    fixed = b"\x01" + TICKET.run + TICKET.host + TICKET.secret + EXPIRY.to_bytes(4, "big") + b"\x00"
    return fixed + bytes([1, len(TICKET.addresses[0])]) + TICKET.addresses[0].encode()


def test_a_ticket_is_its_bytes_in_the_order_that_the_format_says() -> None:
    assert TICKET.encode() == word_of(body_of_ticket())


def test_a_ticket_with_something_behind_its_end_is_refused() -> None:
    with pytest.raises(NotATicket, match="damaged"):
        Ticket.parse(word_of(body_of_ticket() + b"x"))


def test_a_ticket_whose_last_address_ends_too_soon_is_refused() -> None:
    body = body_of_ticket()
    longer = body.replace(bytes([1, len(TICKET.addresses[0])]), bytes([1, len(TICKET.addresses[0]) + 1]))
    assert longer != body
    with pytest.raises(NotATicket, match="damaged"):
        Ticket.parse(word_of(longer))


@given(position=st.integers(0, len(TICKET.encode()) - 1), character=CHARACTERS)
@settings(max_examples=300)
def test_any_changed_character_is_refused(position: int, character: str) -> None:
    word = TICKET.encode()
    changed = word[:position] + character + word[position + 1 :]
    if changed.strip() != word:
        with pytest.raises(TicketError):
            Ticket.parse(changed)


@given(st.text(max_size=400) | st.from_regex(r"dlc1[a-z2-7]{0,300}", fullmatch=True))
@settings(max_examples=200)
def test_other_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(TicketError) as caught:
        Ticket.parse(text)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200).map(lambda rest: b"\x01" + rest))
@settings(max_examples=200)
def test_a_fitting_checksum_over_nonsense_is_refused(body: bytes) -> None:
    with pytest.raises(TicketError):
        Ticket.parse(word_of(body))


def test_a_cut_ticket_says_copy_it_again() -> None:
    with pytest.raises(MistypedTicket, match="copy the whole word"):
        Ticket.parse(TICKET.encode()[:-3])


def test_something_else_is_not_a_ticket() -> None:
    with pytest.raises(NotATicket, match="single word"):
        Ticket.parse("hello")


def test_a_newer_ticket_says_update() -> None:
    body = struct.pack(">B", 2) + bytes(90)
    with pytest.raises(NewerTicket, match="update diloco"):
        Ticket.parse(word_of(body))
    with pytest.raises(NewerTicket):
        Ticket.parse("dlc2" + "a" * 100)


def test_an_expired_ticket_says_when_and_clocks_may_differ_by_five_minutes() -> None:
    TICKET.check_expiry(EXPIRY + CLOCK_SKEW_S)
    with pytest.raises(ExpiredTicket, match=r"2027-01-15 08:00 UTC"):
        TICKET.check_expiry(EXPIRY + CLOCK_SKEW_S + 1)


def test_neither_ticket_nor_pair_shows_the_secret() -> None:
    pair = invite_pair(TICKET.secret)
    shown = repr(TICKET) + str(TICKET) + repr(pair) + str(pair)
    assert "SECRET" not in shown
    assert pair.secret.hex() not in shown
    assert repr(pair.secret)[2:-1] not in shown


def test_both_sides_derive_the_same_pair_and_another_secret_gives_another() -> None:
    assert invite_pair(TICKET.secret) == invite_pair(TICKET.secret)
    assert invite_pair(TICKET.secret).public != invite_pair(b"x" * 16).public


def test_a_ticket_is_read_from_the_word_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").write_text(TICKET.encode() + "\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(TICKET.encode() + "\n"))
    for argument in (TICKET.encode(), f"@{tmp_path}/t", "-"):
        assert read_ticket(argument, now=0) == TICKET
    with pytest.raises(TicketError, match="cannot read the ticket"):
        read_ticket(f"@{tmp_path}/absent", now=0)
    with pytest.raises(ExpiredTicket):
        read_ticket(TICKET.encode(), now=EXPIRY * 2)


@pytest.mark.parametrize(
    "address",
    ["tcp://h", "h:1", "tcp://h:0", "tcp://h:70000", "tcp://h:1 ", "udp://h:1", "tcp://" + "h" * 60 + ":1"],
)
def test_an_address_that_cannot_be_dialled_makes_no_ticket(address: str) -> None:
    with pytest.raises(ValueError, match="tcp://host:port"):
        Ticket(b"r" * 16, b"h" * 32, b"s" * 16, 1, (address,))
