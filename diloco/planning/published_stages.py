"""Numbers of two papers on models in stages, and our reproduction of them by one formula each.

SWARM (arXiv 2301.11913, GPU utilization at 500 Mbit/s) and DiLoCoX (arXiv 2506.21263, tokens per second of
107B parameters): numbers are theirs and quoted at second hand, the arithmetic is ours. What is assumed is in
`Swarm` and `DILOCOX`, and printed beside the tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# -- SWARM --------------------------------------------------------------------------------------------

ROUND_TRIPS_MS = (0, 10, 50, 100, 200)
_FITTED = (0, 3)
"""The columns from which a row's two numbers are taken: 0 and 100 ms."""


@dataclass(frozen=True, slots=True)
class SwarmRow:
    """A stage that has one microbatch in flight: it computes, sends, and waits for a round trip, and none of
    that overlaps. 1 / U = 1 / U_0 + RTT / t."""

    name: str
    published: tuple[float, ...]
    """Utilization in per cent for each of `ROUND_TRIPS_MS`."""

    @property
    def compute_ms(self) -> float:
        """t: for which the entry at 100 ms comes out."""
        zero, far = (self.published[at] / 100 for at in _FITTED)
        return ROUND_TRIPS_MS[_FITTED[1]] / (1 / far - 1 / zero)

    @property
    def line_ms(self) -> float:
        """What sending takes: for which the entry without distance comes out."""
        return self.compute_ms * (100 / self.published[0] - 1)

    def alone_ms(self, rtt_ms: float) -> float:
        """One microbatch with its sending and waiting."""
        return self.compute_ms + self.line_ms + rtt_ms

    def window(self, rtt_ms: float) -> int:
        """Microbatches that should be in flight, by the rule of `StageTimes.window`."""
        return math.ceil(1.5 * self.alone_ms(rtt_ms) / max(self.compute_ms, self.line_ms))

    def utilization(self, rtt_ms: float, window: int = 1) -> float:
        """In per cent, with so many microbatches in flight: at most what the line carries."""
        in_flight = window * self.compute_ms / self.alone_ms(rtt_ms)
        return 100 * min(in_flight, self.compute_ms / max(self.compute_ms, self.line_ms))


SWARM = (
    SwarmRow("base", (18.0, 11.8, 4.88, 2.78, 1.53)),
    SwarmRow("xxlarge", (32.1, 28.9, 20.1, 14.9, 10.1)),
    SwarmRow("GPT-3", (82.1, 79.3, 70.3, 60.2, 48.5)),
    SwarmRow("GPT-3, 8 bits", (89.5, 87.2, 79.5, 71.5, 59.2)),
)


# -- DiLoCoX ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DilocoxRun:
    """Sites that hold the model in stages and exchange over one line between them; every stage's exchange
    takes its share of that line, so that together they are one exchange of the whole model."""

    num_parameters: float
    sites: int
    rate_bps: float
    bytes_per_value: float
    """Of a gradient that is not compressed."""
    step_tokens: float
    """B, of an inner step of all sites."""
    tokens_per_s: float
    """When nothing waits; as published for DiLoCoX, which hides its exchange."""
    peak_flops: float
    """Of all devices."""

    @property
    def step_s(self) -> float:
        """x: an inner step, when nothing waits."""
        return self.step_tokens / self.tokens_per_s

    @property
    def all_reduce_s(self) -> float:
        """A: of gradients that are not compressed, over the line."""
        share = 2 * (self.sites - 1) / self.sites
        return share * 8 * self.num_parameters * self.bytes_per_value / self.rate_bps

    @property
    def all_reduce_tokens_per_s(self) -> float:
        """With an all-reduce in each step, which nothing hides."""
        return self.step_tokens / (self.all_reduce_s + self.step_s)

    @property
    def speedup(self) -> float:
        """Of hiding all of the exchange, over an all-reduce in each step."""
        return (self.all_reduce_s + self.step_s) / self.step_s

    @property
    def share_of_peak(self) -> float:
        """Of the devices' peak that the published tokens per second are, at 6 operations per parameter."""
        return 6 * self.num_parameters * self.tokens_per_s / self.peak_flops

    def sync_every_for(self, tokens_per_s: float) -> float:
        """H with which a whole exchange in fp32 every H steps, beside computing, gives so many tokens."""
        return tokens_per_s * self.all_reduce_s / self.step_tokens

    def exchange_s_for(self, sync_every: float, tokens_per_s: float) -> float:
        """Of an exchange every H steps that nothing hides and that gives so many tokens."""
        return sync_every * (self.step_tokens / tokens_per_s - self.step_s)


DILOCOX = DilocoxRun(107e9, 2, 1e9, 4.0, 32_768, 3728.0, 160 * 312e12)
DILOCOX_PUBLISHED = {"all-reduce": 10.4, "no overlap": 2197.0, "no compression": 1168.0, "dilocox": 3728.0}
"""Tokens per second."""
DILOCOX_SPEEDUP = 357.0
