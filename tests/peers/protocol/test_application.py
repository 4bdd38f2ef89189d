"""The application's seam: how a state is cut into pieces."""

from __future__ import annotations

import pytest

from peers.protocol.application import piece_sizes


@pytest.mark.parametrize(
    ("size", "sizes"), [(0, [0]), (1, [1]), (10, [10]), (11, [10, 1]), (20, [10, 10]), (35, [10, 10, 10, 5])]
)
def test_all_pieces_but_the_last_are_whole_and_even_nothing_has_a_piece(size: int, sizes: list[int]) -> None:
    assert piece_sizes(size, 10) == sizes
