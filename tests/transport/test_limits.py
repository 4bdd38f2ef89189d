"""Limits: what one peer may have in flight shrinks as peers join, between two bounds."""

from __future__ import annotations

from transport.limits import KIB, LIMITS, MIB, Limits


def test_few_peers_are_granted_a_whole_window_and_many_share_the_buffer() -> None:
    assert LIMITS.window(0) == LIMITS.window(1) == LIMITS.window(8) == 32 * MIB
    assert LIMITS.window(16) == 16 * MIB
    assert 63 * LIMITS.window(63) <= LIMITS.buffer_bytes


def test_a_single_peer_is_granted_the_whole_buffer_if_its_window_is_as_large() -> None:
    limits = Limits(payload_bytes=KIB, buffer_bytes=MIB, window_bytes=2 * MIB)
    assert [limits.window(count) for count in (0, 1, 2)] == [MIB, MIB, MIB // 2]


def test_no_peer_is_granted_less_than_four_payloads() -> None:
    limits = Limits(payload_bytes=64 * KIB, buffer_bytes=MIB, window_bytes=MIB)
    assert limits.window(1000) == 4 * 64 * KIB


def test_a_chunk_fits_into_one_frame() -> None:
    assert LIMITS.chunk_bytes <= LIMITS.payload_bytes
