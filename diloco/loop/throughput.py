"""How fast a worker computes, for methods that give slower ones fewer inner steps. Needs no torch."""

from __future__ import annotations


class Throughput:
    """Tokens per second of compute over the last steps, older ones counting ever less: a machine that slows
    down, or warms up, is known by what it does now. Waiting for the network is not in it."""

    def __init__(self, half_life_steps: int) -> None:
        self._keep = 0.5 ** (1.0 / half_life_steps)
        self._tokens = self._seconds = 0.0

    def count(self, steps: int, tokens: int, seconds: float) -> None:
        """So many inner steps took ``seconds``."""
        keep = self._keep**steps
        self._tokens = keep * self._tokens + tokens
        self._seconds = keep * self._seconds + seconds

    @property
    def tokens_per_s(self) -> float:
        """0 before the first step."""
        return self._tokens / self._seconds if self._seconds else 0.0
