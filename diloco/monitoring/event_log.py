"""The record of a worker's run: one JSON object per line, for programs.

Owns the names and fields of its events; knows nothing of tensors.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import IO, Any

from diloco.errors import UserError
from peers.protocol.events import (
    ContributionEnded,
    CoordinatorBack,
    CoordinatorLost,
    FellBehind,
    GotUnusable,
    HostIsBehind,
    ProgressLost,
    RoundCommitted,
)


class EventLog:
    """What happened, one JSON object per line; nothing at all without a path."""

    def __init__(self, path: Path | None) -> None:
        self._began = time.monotonic()
        self._file: IO[str] | None = None
        try:
            self._file = path.open("w", encoding="utf-8") if path else None
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None

    def write(self, what: str, **fields: Any) -> None:
        if self._file is not None:
            seconds = round(time.monotonic() - self._began, 3)
            self._file.write(json.dumps({"event": what, "seconds": seconds, **fields}) + "\n")
            self._file.flush()

    def swarm_event(self, event: object) -> None:
        """The swarm's events that tell the story of a run."""
        match event:
            case RoundCommitted():
                self.write(
                    "round",
                    index=event.record.index,
                    commit=event.record.hash().hex(),
                    result=event.record.result.hex(),
                    participants=len(event.record.members),
                    contributed=event.number is not None,
                    sync_seconds=round(event.seconds, 4),
                )
            case ContributionEnded():
                self.write("fate", fate=event.fate.value, tokens=event.tokens, reason=event.reason)
            case ProgressLost():
                self.write(
                    "non_finite",
                    fragment=event.fragment,
                    fragments=event.fragments,
                    tokens=event.tokens,
                    reason=event.reason,
                    in_a_row=event.in_a_row,
                    mended=event.mended,
                )
            case GotUnusable():
                self.write("unusable", fragment=event.fragment, reason=event.reason)
            case FellBehind() | CoordinatorLost() | CoordinatorBack() | HostIsBehind():
                self.write(type(event).__name__)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
