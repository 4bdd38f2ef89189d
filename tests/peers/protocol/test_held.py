"""Held: its name is that of all that it says, and of nothing else."""

from __future__ import annotations

from dataclasses import replace

from peers.protocol.held import Held, state_name

HELD = Held(b"h" * 32, 7, (b"v" * 32, b"w" * 32), (b"d" * 32, b"e" * 32))


def test_all_who_hold_one_state_at_one_head_name_it_alike() -> None:
    assert HELD.digest() == replace(HELD, record=b"known here alone").digest()
    assert HELD.digest() == state_name(7, b"h" * 32, [b"v" * 32, b"w" * 32], [b"d" * 32, b"e" * 32])


def test_whatever_differs_changes_the_name() -> None:
    others = [
        replace(HELD, index=8),
        replace(HELD, head=b"H" * 32),
        replace(HELD, versions=(b"w" * 32, b"v" * 32)),
        replace(HELD, digests=(b"d" * 32, b"f" * 32)),
    ]
    assert len({HELD.digest(), *(each.digest() for each in others)}) == 5
