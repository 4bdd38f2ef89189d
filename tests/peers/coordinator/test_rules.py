"""What a run's settings mean for the size of rounds."""

from __future__ import annotations

from peers.coordinator.rules import Rules


def test_a_round_needs_the_quorum_or_without_one_as_many_as_a_run_needs() -> None:
    assert Rules(b"s" * 32, min_peers=3).fewest == 3
    assert Rules(b"s" * 32, min_peers=3, quorum=1).fewest == 1
