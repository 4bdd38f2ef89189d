"""A worker's own state over restarts: error feedback's residuals, in a file that only their owner can read.

The file is right until this worker's next contribution is committed, for what it holds is sent with that. So
each such commit writes it anew, or removes it where writing again so soon would take too much of the time. A
worker that is killed between its commit and this one's news of it has sent a part of its residuals twice.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from diloco.errors import StateError, UserError
from diloco.training.attach import Outer
from peers.admission.identity import replace_private
from peers.protocol.events import RoundCommitted

_MAX_SHARE_OF_TIME = 0.05
"""Share of the time that writing may take."""


class ResidualFile:
    """Keeps a worker's own state in ``path``; does nothing without one, or where there is no such state."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._outer: Outer | None = None
        self._not_before = 0.0
        self._warned = False

    @classmethod
    def of(cls, home: Path | None, settings_digest: bytes) -> ResidualFile:
        """In a worker's ``--state`` directory, by the run's settings: one directory may serve many runs."""
        return cls(home / f"residuals-{settings_digest.hex()[:16]}.safetensors" if home else None)

    def begin(self, outer: Outer) -> None:
        """Take up what an earlier process left. Raises `UserError` for a file that is damaged."""
        if self._path is None or not outer.state_dict():
            return
        self._outer = outer
        if self._path.exists():
            try:
                outer.load_state_dict(load_file(self._path))
            except (SafetensorError, StateError, OSError) as error:
                raise UserError(
                    f"{self._path} cannot be used: {error}; remove it to go on without residuals"
                ) from None

    def swarm_event(self, event: object) -> None:
        """To be told of every event, once the loop has taken it."""
        if self._outer is None or not isinstance(event, RoundCommitted) or event.number is None:
            return
        if event.tokens == 0:
            return  # the first of two exchanges of an outer step moved no residual
        if time.monotonic() < self._not_before:
            self.remove()
        else:
            self.write()

    def write(self) -> None:
        """Write the state as it is; a disk that is full costs a warning and no training."""
        if self._outer is None or self._path is None:
            return
        began = time.monotonic()
        try:
            replace_private(self._path, partial(save_file, self._outer.state_dict()))
        except (OSError, SafetensorError) as error:
            self._warn(error)
            self.remove()  # what an earlier write left there is sent by now
        now = time.monotonic()
        self._not_before = now + (now - began) / _MAX_SHARE_OF_TIME

    def remove(self) -> None:
        """What the file holds is not true any more, or of no use."""
        if self._outer is None or self._path is None:
            return
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            print(f"diloco: {self._path}: {error}; training goes on", file=sys.stderr)
