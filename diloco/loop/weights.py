"""What a contribution weighs in a mean, and what share of one it was. Pure numbers."""

from __future__ import annotations

from diloco.methods.schedule import Schedule
from peers.protocol.events import RoundCommitted


def weight_of(schedule: Schedule, tokens: int, steps: int) -> int:
    """The weight with which a contribution is offered; tokens times tokens per step is Decoupled DiLoCo's
    (arXiv 2604.21428)."""
    match schedule.weights:
        case "equal":
            return 1
        case "tokens_rate":
            return tokens * tokens // max(1, steps)
        case _:
            return tokens


def share_of(event: RoundCommitted) -> float:
    """This member's share of the round's weights."""
    record, total = event.record, sum(event.record.weights)
    return event.weight / total if total and record.members else 0.0
