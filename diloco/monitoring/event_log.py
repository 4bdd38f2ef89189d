"""The record of a process in a run: one JSON object per line, for programs and for `diloco replay`.

Each has its ``event``, the time of the wall (``wall``, which may jump) and that since the process began
(``seconds``, which does not), the newest commit that it knew (``index``) and in which term of the host that
was (``term``), and for what people should read a ``text``. Owns the file; words are in `event_text` and
`run_view`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

from diloco.errors import UserError
from diloco.monitoring.event_text import plain_fields, told
from peers.protocol.record import term_of
from peers.protocol.traces import CommittedTrace, fields_of
from transport.effects import Trace

_LOG = logging.getLogger("diloco")
_COMMITS = ("round", "committed")
"""Names of the events of a member and of a host that tell of a commit."""


class EventLog:
    """What happened, one JSON object per line, behind what an earlier process told; nothing at all without a
    path. While the disk is full, say, lines are lost and training goes on: that is told when it begins and
    when it ends. Any thread may write."""

    def __init__(self, path: Path | None, who: str = "") -> None:
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._known = {"term": 0, "index": 0}
        self._path = path
        self._file: int | None = None
        self._num_lost = 0
        """Lines since one was written."""
        self._torn = b""
        """What is missing of a line that was written in part."""
        try:
            if path:
                self._torn = _end_of_last_line(path)
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None
        self.write("began", text="begins", who=who, process=os.getpid())

    def write(self, what: str, **fields: Any) -> None:
        """One line. Fields of an event come after those that all have, and replace them."""
        with self._lock:
            if self._file is not None:
                self._write(what, fields)

    def _write(self, what: str, fields: dict[str, Any]) -> None:
        if what in _COMMITS:
            self._known = {"term": fields["term"], "index": fields["index"]}
        times = {"wall": round(time.time(), 3), "seconds": round(time.monotonic() - self._began, 3)}
        try:
            self._append(json.dumps({"event": what, **times, **self._known, **fields}) + "\n")
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
        """A member's event, if it is of the run's story."""
        if (found := told(event)) is not None:
            self.write(found.name, text=found.text, **found.fields)

    def trace(self, trace: Trace, text: str) -> None:
        """A host's trace, and the line that tells of it."""
        given = plain_fields(fields_of(trace))
        if isinstance(trace, CommittedTrace):
            given["term"] = term_of(trace.serial)
        self.write(trace.name, text=text, **given)

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


def _end_of_last_line(path: Path) -> bytes:
    """What is missing of the last line of a process that ended before it could write all of it."""
    if not path.is_file() or not (size := path.stat().st_size):
        return b""
    with path.open("rb") as file:
        file.seek(size - 1)
        return b"" if file.read() == b"\n" else b"\n"
