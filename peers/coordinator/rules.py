"""What a run's settings say to its coordinator about members and rounds.

Plain values, made once by whoever starts the run. Decides nothing, and knows no settings file.
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.protocol.placing import Wiring


@dataclass(frozen=True, slots=True)
class Rules:
    """What the run's settings say about rounds."""

    settings: bytes
    """Digest of the run's settings."""
    name: str = ""
    """What people call the run."""
    min_peers: int = 2
    rounds: int = 1 << 40
    """Commits after which the run is finished."""
    failure_timeout_s: float = 6.0
    """Silence after which a peer counts as dead; every other time follows from it."""
    grace_s: float = 30.0
    """How long a round waits for a straggler after the first member is ready, or, with a quorum, after the
    quorum is there."""
    outlier_factor: float = 100.0
    """A contribution whose norm is more times the median of the others' is refused; 0 for never."""
    max_influence: float = 12.0
    """How many times a median member's share one may move a mean by (`coordinator.influence`); 0 for any."""
    part_growth: float = 1.0
    """How many times as large encoding a contribution may make its squared norm."""
    mean_growth: float = 1.0
    """The same of means."""
    element_bytes: float = 4.0
    """Of an element in a contribution or in a mean, whichever is more."""
    copies: int = 0
    """Members that write each fragment of a checkpoint; 0: every member writes all of it."""
    save_every: int = 1
    """Commits of each fragment between two checkpoints at the least, where members share them out."""
    save_least_s: float = 10.0
    """Seconds between two such at the least."""
    quorum: int = 0
    """Contributions that make a round, among ``min_peers`` active members; 0 for ``min_peers``."""

    buffers_fragment: int = -1
    """Which fragment is that of a model's buffers, if it has one: it moves once, after the last round; -1
    where none does."""
    stages: int = 1
    """Parts that the model is cut into: each is a course of its own, of ``min_peers`` members at least."""
    wiring: Wiring = Wiring.LINES
    """How microbatches go through them."""
    gossips: bool = False
    """Members exchange in groups of their own: there are no rounds, and states differ."""
    paces: bool = False
    """Members are told how fast the fastest is, since slower ones take fewer inner steps."""
    overlap: float = 0.0
    """Share of an outer step for which a worker trains on while a result is on its way."""

    @property
    def fewest(self) -> int:
        """Fewest contributions in a round."""
        return self.quorum or self.min_peers
