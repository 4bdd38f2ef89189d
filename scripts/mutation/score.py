"""What came of mutants: the score with its interval, survivors, and those that no test can tell apart."""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mutation.operators import Mutant

KILLED = ("killed", "timeout")
"""A test failed; or the mutant ran for ever."""
ALIVE = ("survived", "uncovered")
BY_SEEDS = "killed by seeds"
"""No unit test failed, but a simulated swarm broke an invariant."""


@dataclass(frozen=True, slots=True)
class Result:
    """One mutant's fate."""

    mutant: Mutant
    outcome: str
    """killed, timeout, killed by seeds, survived, or uncovered: no test runs its line."""
    by: str
    """The test, or the seed; of one that lived, how many seeds it lived through."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A change that no test could see, and why."""

    file: str
    text: str
    change: str
    reason: str

    def is_of(self, mutant: Mutant) -> bool:
        """Lines move, so that a mutant is known by its text."""
        return (self.file, self.text, self.change) == (mutant.file, mutant.text, mutant.change)


def equivalents_in(path: Path) -> list[Equivalent]:
    """The list; every entry has a reason."""
    found = [Equivalent(**each) for each in tomllib.loads(path.read_text())["equivalent"]]
    assert all(each.reason for each in found)
    return found


def wilson(num_hits: int, num_all: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share; z = 1.96 for 95 %."""
    if not num_all:
        return 0.0, 1.0
    share = num_hits / num_all
    middle = share + z * z / (2 * num_all)
    spread = z * math.sqrt(share * (1 - share) / num_all + z * z / (4 * num_all * num_all))
    return (middle - spread) / (1 + z * z / num_all), (middle + spread) / (1 + z * z / num_all)


def summary(results: list[Result], equivalents: list[Equivalent]) -> list[str]:
    """The survivors and the score, as lines."""
    real, alike = [], []
    for result in results:
        is_alike = any(each.is_of(result.mutant) for each in equivalents)
        (alike if is_alike and result.outcome in ALIVE else real).append(result)
    counts = Counter(result.outcome for result in real)
    tried = sum(bool(result.by) for result in real if result.outcome in ALIVE) + counts[BY_SEEDS]
    by_units = sum(counts[each] for each in KILLED)
    lines = [
        f"{result.outcome:<10} {result.mutant.name}\n           {result.mutant.text}"
        for result in real
        if result.outcome in ALIVE
    ]
    lines.append("")
    for told, hits in (("by unit tests", by_units), ("with simulated seeds", by_units + counts[BY_SEEDS])):
        low, high = wilson(hits, len(real))
        share = hits / len(real) if real else 0.0
        lines.append(f"killed {told}: {hits} of {len(real)}, {share:.1%} (95 %: {low:.1%} to {high:.1%})")
    lines.append(f"{tried} of the {len(real) - by_units} others were tried against simulated seeds")
    lines.append(
        f"{counts['timeout']} of them ran for ever; {counts['uncovered']} that no unit test runs; "
        f"{len(alike)} more listed as equivalent"
    )
    return lines
