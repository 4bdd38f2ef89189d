"""The record of a worker's run: one JSON object per line, for programs.

Owns the names and fields of its events; knows nothing of tensors.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

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

_LOG = logging.getLogger("diloco")


class EventLog:
    """What happened, one JSON object per line; nothing at all without a path. While the disk is full, say,
    lines are lost and training goes on: that is told when it begins and when it ends."""

    def __init__(self, path: Path | None) -> None:
        self._began = time.monotonic()
        self._path = path
        self._file: int | None = None
        self._num_lost = 0
        """Lines since one was written."""
        self._torn = b""
        """What is missing of a line that was written in part."""
        try:
            if path:
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None

    def write(self, what: str, **fields: Any) -> None:
        if self._file is None:
            return
        seconds = round(time.monotonic() - self._began, 3)
        try:
            self._append(json.dumps({"event": what, "seconds": seconds, **fields}) + "\n")
        except OSError as error:
            self._num_lost += 1
            if self._num_lost == 1:
                reason = error.strerror
                _LOG.warning("%s cannot be written: %s; training goes on without it", self._path, reason)
            return
        if self._num_lost:
            lost, self._num_lost = self._num_lost, 0
            _LOG.warning("%s is written again; %d of its lines are lost", self._path, lost)

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
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # every line was written by itself
                os.close(file)
            if self._num_lost:
                _LOG.warning("%s lacks its last %d lines", self._path, self._num_lost)

    def _append(self, line: str) -> None:
        """Write a line, after what is missing of an earlier one. A line of which a part is written counts as
        written: its end follows."""
        assert self._file is not None, "somebody writes"
        while self._torn:
            self._torn = self._torn[os.write(self._file, self._torn) :]
        data = line.encode()
        written = os.write(self._file, data)
        self._torn = data[written:]
