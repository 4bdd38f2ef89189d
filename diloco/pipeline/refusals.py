"""Microbatches that this worker refuses: who is told, and when there is no use in going on.

Owns the counts and the sentences; what becomes of a microbatch is the member's, and of a model that is not
finite `loop.setbacks`'. Nothing is refused in silence, no part is fed for ever that makes nothing, and none
leaves the run because of what its neighbours send.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from diloco.errors import TrainingDiverged

_LOG = logging.getLogger("diloco")
LEAST_IN_A_ROW = 100
STEPS_IN_A_ROW = 10
"""Inner steps' worth of microbatches, one after the other, of which a part made nothing: then it is
tried on its own."""


class Refusals:
    """Of one replica."""

    def __init__(self, stage: int, quota: int, makes_nothing: Callable[[], bool]) -> None:
        """``makes_nothing()`` tries whether the part makes nothing of ordinary values either."""
        self.count = 0
        self._makes_nothing = makes_nothing
        self._stage = stage
        self._most = max(LEAST_IN_A_ROW, STEPS_IN_A_ROW * quota)
        self._in_a_row = 0

    def got(self, reason: str) -> None:
        """What came is of no use. People hear of the 1st, 10th, 100th, ..."""
        self.count += 1
        if str(self.count).strip("0") == "1":
            first = "a microbatch" if self.count == 1 else f"{self.count:,} microbatches so far, now one"
            _LOG.warning("stage %d refuses %s, which is given up: %s", self._stage, first, reason)

    def made(self, reason: str) -> None:
        """What this part itself made is of no use. Raises `TrainingDiverged` if that goes on, and does not
        come of what neighbours sent."""
        self.got(reason)
        self._in_a_row += 1
        if self._in_a_row < self._most:
            return
        nothing = f"stage {self._stage} made nothing of use of {self._in_a_row} microbatches in a row"
        if self._makes_nothing():
            raise TrainingDiverged(
                f"{nothing}, and leaves the run: {reason}. Look at its data, its learning rate and its mixed"
                " precision"
            )
        _LOG.warning(
            "%s, but something of ordinary values: what its neighbours send is wild, and it stays", nothing
        )
        self._in_a_row = 0

    def counted(self) -> None:
        """Something came of one."""
        self._in_a_row = 0
