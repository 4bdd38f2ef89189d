"""Sealing and opening: nothing that was not sent is taken, and what was taken before stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.transport.sealed.lane_kit import SpyCipher, keys_of, lane_ends, opened_pair, turned
from transport.errors import BadMessage, BadRecord
from transport.limits import Limits
from transport.sealed.keys import next_key
from transport.sealed.records import (
    SEALED_HEADER_BYTES,
    TAG_BYTES,
    Kind,
    Record,
    max_sealed_bytes,
)
from transport.sealed.seals import RATCHET_RECORDS, Opener, Sealer

SMALL = Limits(header_bytes=64, payload_bytes=256)
HEAD = b"head"


def frame(payload_bytes: int | None = None) -> Record:
    return Record(Kind.FRAME, len(HEAD), payload_bytes)


def sealed(sealer: Sealer, payload: bytes | None, prefix: bytes = HEAD) -> bytes:
    record = Record(Kind.FRAME, len(prefix), None if payload is None else len(payload))
    into = bytearray(record.sealed_bytes)
    assert sealer.seal(record, prefix, payload, memoryview(into)) == len(into)
    return bytes(into)


def opened(opener: Opener, wire: bytes, place: memoryview | None = None) -> tuple[bytes, bytes | None]:
    """One whole record, its payload to ``place`` if there is one."""
    record, at = opener.header(wire[:SEALED_HEADER_BYTES]), SEALED_HEADER_BYTES
    prefix = opener.prefix(wire[at : at + record.parts[0]])
    at += record.parts[0]
    if record.payload_bytes is None:
        assert len(wire) == at
        return prefix, None
    into = memoryview(bytearray(record.payload_bytes)) if place is None else place[: record.payload_bytes]
    opener.payload(wire[at:], into)
    return prefix, bytes(into)


@pytest.mark.parametrize(
    ("prefix", "payload"),
    [(b"prefix", None), (b"prefix", b""), (b"prefix", b"abc"), (b"p" * 64, b"b" * 256)],
)
def test_what_is_sealed_is_opened(prefix: bytes, payload: bytes | None) -> None:
    sealer, opener = opened_pair(limits=SMALL)
    for _ in range(3):
        wire = sealed(sealer, payload, prefix)
        assert opened(opener, wire) == (prefix, payload)
        assert len(wire) <= max_sealed_bytes(SMALL)
    assert sealer.num_frames == opener.num_frames == 3


def test_no_plain_byte_is_on_the_wire() -> None:
    sealer, _ = opened_pair()
    wire = sealed(sealer, b"secret gradients", b"a prefix of 20 bytes")
    assert b"gradients" not in wire
    assert b"prefix" not in wire


def test_a_record_with_any_bit_flipped_ends_the_lane_and_changes_nothing_that_was_taken() -> None:
    def pair() -> tuple[Opener, bytes, bytearray]:
        sealer, opener = opened_pair(limits=SMALL)
        slab = bytearray(18)
        opened(opener, sealed(sealer, b"old bytes"), memoryview(slab)[:9])
        return opener, sealed(sealer, b"new bytes"), slab

    before_payload = SEALED_HEADER_BYTES + len(HEAD) + TAG_BYTES
    for bit in range(8 * frame(9).sealed_bytes):
        opener, wire, slab = pair()
        flipped = bytearray(wire)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadRecord):
            opened(opener, bytes(flipped), memoryview(slab)[9:])
        assert slab[:9] == b"old bytes"
        if bit < 8 * before_payload:
            assert slab[9:] == bytes(9), "a wrong header reached a place"
        with pytest.raises(BadRecord):
            opener.header(wire[:SEALED_HEADER_BYTES])


def three() -> tuple[Opener, list[bytes]]:
    sealer, opener = opened_pair()
    return opener, [sealed(sealer, b"chunk") for chunk in range(3)]


@pytest.mark.parametrize("order", [[1], [0, 2], [0, 0], [0, 1, 1], [0, 1, 0], [1, 0], [0, 2, 1]], ids=str)
def test_a_record_that_is_dropped_doubled_or_swapped_ends_the_lane(order: list[int]) -> None:
    opener, wires = three()
    for due, position in enumerate(order):
        if position != due:
            with pytest.raises(BadRecord):
                opened(opener, wires[position])
            break
        opened(opener, wires[position])
    for wire in wires:
        with pytest.raises(BadRecord):
            opened(opener, wire)


def test_the_parts_of_two_records_cannot_be_exchanged() -> None:
    opener, wires = three()
    mixed = wires[0][:SEALED_HEADER_BYTES] + wires[1][SEALED_HEADER_BYTES:]
    with pytest.raises(BadRecord):
        opened(opener, mixed)


def test_a_prefix_is_not_taken_for_a_payload_of_the_same_size() -> None:
    sealer, opener = opened_pair()
    wire = sealed(sealer, b"body")
    at = SEALED_HEADER_BYTES
    with pytest.raises(BadRecord):
        opened(opener, wire[:at] + wire[at + 20 :] + wire[at : at + 20])


@pytest.mark.parametrize("other", ["lane", "session", "peer_session", "run"])
def test_records_of_two_lanes_sessions_or_runs_cannot_be_exchanged(other: str) -> None:
    ends = lane_ends()
    change = {"lane": 2, "session": (1, 1), "peer_session": (2, 1), "run": b"another"}[other]
    theirs = replace(ends, **{other: change})  # type: ignore[arg-type]
    sealer, _ = opened_pair(keys_of(theirs))
    _, opener = opened_pair(keys_of(ends))
    with pytest.raises(BadRecord):
        opened(opener, sealed(sealer, b"chunk"))


def test_a_record_that_is_sent_back_to_its_author_ends_the_lane() -> None:
    ends = lane_ends()
    here, there = keys_of(ends), keys_of(turned(ends))
    sealer, own = Sealer(here.sending), Opener(here.receiving)
    other = Sealer(there.sending)
    assert own.is_opening(other.opening())
    sealer.opening()
    with pytest.raises(BadRecord):
        opened(own, sealed(sealer, b"chunk"))


def test_the_empty_record_of_one_direction_opens_no_other() -> None:
    ends = lane_ends()
    here, there = keys_of(ends), keys_of(turned(ends))
    assert not Opener(here.receiving).is_opening(Sealer(here.sending).opening())
    assert Opener(here.receiving).is_opening(Sealer(there.sending).opening())


def test_a_lane_whose_opening_was_wrong_opens_nothing() -> None:
    keys = keys_of(lane_ends())
    sealer, opener = Sealer(keys.sending), Opener(keys.sending)
    assert not opener.is_opening(bytes(16))
    sealer.opening()
    with pytest.raises(BadRecord):
        opened(opener, sealed(sealer, b"chunk"))


@pytest.mark.parametrize("size", [257, 1 << 20, (1 << 64) - 1])
def test_a_member_that_says_too_large_a_size_is_found_before_it_is_used(size: int) -> None:
    """The tag is right: it is the other end that says so, and it is told apart from somebody between."""
    key = keys_of(lane_ends()).sending
    opener = Opener(key, SMALL)
    assert opener.is_opening(Sealer(key).opening())
    cipher = AESGCM(key)
    headers = [frame(size).pack(), frame().pack()]
    wires = [cipher.encrypt(number.to_bytes(12, "big"), each, None) for number, each in enumerate(headers, 1)]
    with pytest.raises(BadMessage, match="payload of"):
        opener.header(wires[0])
    with pytest.raises(BadRecord):
        opener.header(wires[1])


def spied(key: bytes, num_records: int, each: Callable[[Sealer], object]) -> list[tuple[bytes, bytes]]:
    used: list[tuple[bytes, bytes]] = []
    sealer = Sealer(key, cipher_of=lambda each: SpyCipher(each, used))
    sealer.opening()
    for _ in range(num_records - 1):
        each(sealer)
    return used


def test_after_65536_records_the_key_is_another_and_the_counter_goes_on() -> None:
    key = keys_of(lane_ends()).sending
    into = memoryview(bytearray(frame().sealed_bytes))
    used = spied(key, RATCHET_RECORDS + 2, lambda sealer: sealer.seal(frame(), HEAD, None, into))
    assert len(set(used)) == len(used) == 1 + 2 * (RATCHET_RECORDS + 1)
    keys, num_old = [each for each, _ in used], 1 + 2 * (RATCHET_RECORDS - 1)
    assert set(keys[:num_old]) == {key}
    assert keys[num_old:] == [next_key(key)] * 4
    nonces = [int.from_bytes(nonce, "big") for _, nonce in used]
    assert nonces == list(range(len(nonces)))


def test_both_ends_change_keys_at_the_same_record() -> None:
    sealer, opener = opened_pair()
    into = bytearray(frame().sealed_bytes)
    for number in range(RATCHET_RECORDS + 3):
        head = number.to_bytes(4, "big")
        sealer.seal(frame(), head, None, memoryview(into))
        opener.header(into[:SEALED_HEADER_BYTES])
        assert opener.prefix(into[SEALED_HEADER_BYTES:]) == head
