"""The run of a host's state directory while that host lives: identity, settings, journal and ticket.

Shell code: the folder is locked, files are read and written; what settings become is told by
`diloco.swarm.run_file`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from diloco.settings import RunSettings
from diloco.swarm.origin_file import OriginFile, origin_of
from diloco.swarm.run_file import BEFORE, JOINED, KeptRun, begun_with, kept_run, put_aside, settle
from diloco.swarm.setting_changes import told
from diloco.swarm.state_dir import invite_secret, journal_of, load_identity, run_id_of
from diloco.swarm.state_lock import StateLock
from peers.admission.door import Invite
from peers.admission.ticket import invite_pair
from peers.coordinator.journal import Adopted, CommitWritten, Forked, InviteMade, StepsTaken
from peers.coordinator.journal_file import Journal
from peers.coordinator.places import invites_in
from transport.frames import pack

_LOG = logging.getLogger("diloco")


class HostedRun:
    """Made by a host, which closes it; a second host is refused meanwhile."""

    def __init__(
        self,
        home: Path,
        read: RunSettings,
        given: Mapping[str, Any],
        *,
        fresh: bool,
        origin: Path | None = None,
    ) -> None:
        """``read`` is the owner's file, ``given`` are changes; with ``fresh``, and for another ``origin``
        than that of the run in the folder, what is there is put aside. Raises `UserError`, and
        `JournalError` for a journal that cannot be read."""
        self.home = home
        start = _asked_for(home, origin, fresh) if origin else None
        with ExitStack() as undone:
            lock = StateLock(home, "host")
            undone.callback(lock.release)
            if fresh or not _goes_on(home, start):
                start = _begin_anew(home, start)
            was_hosted = (home / "identity").exists() and not (home / JOINED).exists()
            self.identity, self.incarnation = load_identity(home)
            self.run_id = run_id_of(self.identity)
            if was_hosted and not journal_of(home, self.run_id).exists():
                _LOG.warning("%s", _without_journal(journal_of(home, self.run_id)))
            began = begun_with(home, KeptRun(self.run_id, read, start))
            self.origin = start or began.origin
            """Where the run's first state comes from, if that is an earlier one."""
            self.journal = Journal(journal_of(home, self.run_id))
            undone.callback(self.journal.close)
            self._entries = self.journal.entries()
            if self.journal.torn_bytes:
                _LOG.warning("%s", _torn(self.journal.torn_bytes, journal_of(home, self.run_id)))
            self.settings, changed, self._changes = settle(began.settings, self._entries, read, given)
            is_forked = any(isinstance(each, Forked) for each in self._entries)
            forked = Forked(self.origin.digest) if self.origin and not is_forked else None
            self._decided = [each for each in (forked, changed) if each is not None]
            self.close = undone.pop_all().close

    @property
    def first_state(self) -> Path | None:
        """Where the first state is to come from, as long as nothing is built on it: until then it may be lost
        and brought again, and from then on the run is what its workers hold."""
        built = any(isinstance(each, CommitWritten | Adopted | StepsTaken) for each in self._entries)
        return self.origin.path if self.origin and not built else None

    @property
    def entries(self) -> list[Any]:
        """Of the journal, with what this start decides."""
        return [*self._entries, *self._decided]

    def keep_changes(self) -> None:
        """Journal what this start decides, once it is known that the run can go on."""
        for each in self._decided:
            self.journal.append(pack(each))
        if self._changes:
            _LOG.warning("the run's settings are changed: %s", told(self._changes))

    def ticket(self, hours: float, uses: int) -> tuple[bytes, Invite]:
        """The secret of the ticket that this host prints, and its invite: that of an earlier life as it was,
        unless it expired or was revoked."""
        known, now = invites_in(self._entries), time.time()
        secret = invite_secret(self.home, self.run_id, self.identity)
        key = invite_pair(secret).public
        made = known.get(key)
        if made is None or now > made.expires_at:
            if key in known:
                secret = invite_secret(self.home, self.run_id, self.identity, fresh=True)
                key = invite_pair(secret).public
            made = InviteMade(key, int(now + 3600 * hours), uses)
            self.journal.append(pack(made))
        return secret, Invite(key, made.expires_at, made.uses)


def began_from(home: Path, path: Path) -> bool:
    """Whether the run in the folder is one that began from there, and goes on if that is asked for again."""
    return _goes_on(home, _asked_for(home, path, fresh=False))


def _without_journal(path: Path) -> str:
    return (
        f"{path} is not there: put a copy back if there is one; otherwise --adopt goes on from what workers "
        "hold, or from where the checkpoints, results and records on their disks lead"
    )


def _torn(num_bytes: int, path: Path) -> str:
    return (
        f"the last entry of {path} is not whole, and its {num_bytes} bytes are cut off: a crash leaves that "
        "of what was never said, but a damaged disk of what perhaps was, such as the last round's commit"
    )


def _asked_for(home: Path, path: Path, fresh: bool) -> OriginFile:
    """What a new run is to begin from. Of the run in the folder that may be gone by now: it was put aside
    with an earlier run's files, or its own run keeps newer checkpoints only."""
    found = kept_run(home) if not fresh else None
    began = found.origin if found is not None else None
    where = path.expanduser().resolve()
    if (
        began is not None
        and not where.exists()
        and where in (began.path, _before_put_aside(home, began.path))
    ):
        return began
    return origin_of(path)


def _before_put_aside(home: Path, path: Path) -> Path:
    """Where in the folder something was that is now in ``home/before/DATE``."""
    aside = home.resolve() / BEFORE
    return home.resolve().joinpath(*path.relative_to(aside).parts[1:]) if path.is_relative_to(aside) else path


def _goes_on(home: Path, start: OriginFile | None) -> bool:
    """Whether the run in the folder is the one that is asked for."""
    if start is None:
        return True
    found = kept_run(home)
    return found is not None and found.origin is not None and found.origin.digest == start.digest


def _begin_anew(home: Path, start: OriginFile | None) -> OriginFile | None:
    """Put a run's files aside; what the new one starts from may be among them."""
    aside = put_aside(home, time.time())
    if aside is None:
        return start
    _LOG.warning("a new run begins; the files of the old one are in %s", aside)
    if start is not None and start.path.is_relative_to(home.resolve()):
        return replace(start, path=aside.resolve() / start.path.relative_to(home.resolve()))
    return start
