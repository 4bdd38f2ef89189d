"""What a newcomer costs those who hand it the state, in virtual time, where every byte has its price (L3)."""

from __future__ import annotations

import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from diloco.simulation.runner import simulate

TOML = Path(__file__).parents[3] / "scripts" / "join.toml"


def round_lengths(upload: str, *, with_joiner: bool) -> list[float]:
    """From commit to commit."""
    scenario = tomllib.loads(TOML.read_text("utf-8"))
    scenario["peers"] = [{**each, "up": upload} for each in scenario["peers"][: 2 if with_joiner else 1]]
    report = simulate(scenario)
    assert report.ended == "the run is finished"
    assert report.rounds[-1].participants == 4 + with_joiner
    return [later.end_s - earlier.end_s for earlier, later in pairwise(report.rounds)]


@pytest.mark.parametrize(("upload", "longest"), [("100Mbps", 1.10), ("20Mbps", 1.30)])
def test_a_join_makes_two_rounds_longer_at_most_and_the_others_next_to_nothing(
    upload: str, longest: float
) -> None:
    """That in which donors send the state, and the first that waits for the newcomer's contribution."""
    alone = max(round_lengths(upload, with_joiner=False))
    *others, second, most = sorted(each / alone for each in round_lengths(upload, with_joiner=True))
    assert 1.05 < most < longest
    assert second < longest
    assert max(others) < 1.03, "one more contributes"
