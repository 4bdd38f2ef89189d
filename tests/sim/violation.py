"""What a checker raises. It names the rule that does not hold, by its number in `docs/invariants.md`."""

from __future__ import annotations


class Violation(AssertionError):
    """An invariant does not hold; ``rule`` is its number."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule
