"""Byte counters: by peer, direction and purpose, bounded in peers, and the total stays right."""

from __future__ import annotations

from transport.counters import MAX_PEERS, OTHERS, Counters, Traffic


def test_counters_count_by_peer_direction_and_purpose_with_repeats_apart() -> None:
    counters = Counters()
    counters.add(b"p", "sent", "exchange", 10)
    counters.add(b"p", "sent", "exchange", 5, again=True)
    counters.add(b"q", "sent", "control", 1)
    assert counters.snapshot()[b"p", "sent", "exchange"] == Traffic(1, 10, 1, 5)
    assert counters.total("sent") == Traffic(2, 11, 1, 5)
    assert counters.total("received") == Traffic()


def test_counters_of_many_peers_are_folded_without_loss() -> None:
    counters = Counters()
    for number in range(3 * MAX_PEERS):
        counters.add(number.to_bytes(4, "big"), "sent", "control", 1)
    peers = {key[0] for key in counters.snapshot()}
    assert len(peers) == MAX_PEERS + 1
    assert OTHERS in peers
    assert counters.total("sent").size_bytes == 3 * MAX_PEERS
