"""Pieces on their way to a file: unchanged, hashed, with a pause after each."""

from __future__ import annotations

from blake3 import blake3

from diloco.checkpoints.streaming import Hashed


def test_pieces_come_out_as_they_are_and_are_hashed_with_a_pause_after_each() -> None:
    pauses: list[int] = []
    pieces = [b"one", memoryview(b"two"), b""]
    hashed = Hashed(pieces, lambda: pauses.append(hashed.size_bytes))
    assert list(hashed) == pieces
    assert pauses == [3, 6, 6]
    assert hashed.size_bytes == 6
    assert hashed.hexdigest() == blake3(b"onetwo").hexdigest()
