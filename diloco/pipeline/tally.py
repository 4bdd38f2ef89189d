"""What became of microbatches at one replica, for people and for the status of the run. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from peers.protocol.stage_work import How, MicrobatchEnded, TellEnds


@dataclass(slots=True)
class Tally:
    """What became of microbatches at this replica."""

    counted: int = 0
    settled: int = 0
    """At stage 0, like the two below: of those that were fed here."""
    partial: int = 0
    lost: int = 0
    below: dict[int, int] = field(default_factory=dict)
    """Partial ones by the stage below which they were given up."""
    by_cause: dict[str, int] = field(default_factory=dict)

    @property
    def fed(self) -> int:
        """Of which the end is known."""
        return self.settled + self.partial + self.lost

    def ended(self, event: MicrobatchEnded) -> None:
        """One that was fed here has."""
        match event.how:
            case How.SETTLED:
                self.settled += 1
            case How.PARTIAL:
                self.partial += 1
                self.below[event.stage] = self.below.get(event.stage, 0) + 1
            case How.LOST:
                self.lost += 1
        if event.how is not How.SETTLED:
            cause = event.cause.name.lower()
            self.by_cause[cause] = self.by_cause.get(cause, 0) + 1

    def told(self, stages: int) -> TellEnds:
        """For the run's status."""
        return TellEnds(self.settled, tuple(self.below.get(stage, 0) for stage in range(stages)), self.lost)
