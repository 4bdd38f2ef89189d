"""The run of a host's state directory while that host lives: identity, settings, journal and ticket.

Shell code: the folder is locked, files are read and written; what settings become is told by
`diloco.swarm.run_file`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from diloco.settings import RunSettings
from diloco.swarm.run_file import begun_with, put_aside, settle
from diloco.swarm.setting_changes import told
from diloco.swarm.state_dir import invite_secret, journal_of, load_identity, run_id_of
from diloco.swarm.state_lock import StateLock
from peers.admission.door import Invite
from peers.admission.ticket import invite_pair
from peers.coordinator.journal import InviteMade
from peers.coordinator.journal_file import Journal
from peers.coordinator.places import invites_in
from transport.frames import pack

_LOG = logging.getLogger("diloco")


class HostedRun:
    """Made by a host, which closes it; a second host is refused meanwhile."""

    def __init__(self, home: Path, read: RunSettings, given: Mapping[str, Any], *, fresh: bool) -> None:
        """``read`` is the owner's file, ``given`` are changes; with ``fresh`` what is there is put aside.
        Raises `UserError`, and `JournalError` for a journal that cannot be read."""
        self.home = home
        with ExitStack() as undone:
            lock = StateLock(home, "host")
            undone.callback(lock.release)
            if fresh and (aside := put_aside(home, time.time())):
                _LOG.warning("a new run begins; the files of the old one are in %s", aside)
            self.identity, self.incarnation = load_identity(home)
            self.run_id = run_id_of(self.identity)
            began = begun_with(home, self.run_id, read)
            self.journal = Journal(journal_of(home, self.run_id))
            undone.callback(self.journal.close)
            self._entries = self.journal.entries()
            self.settings, self._changed, self._changes = settle(began, self._entries, read, given)
            self.close = undone.pop_all().close

    @property
    def entries(self) -> list[Any]:
        """Of the journal, with the change of settings that this start makes."""
        return [*self._entries, self._changed] if self._changed else self._entries

    def keep_changes(self) -> None:
        """Journal what this start changes, once it is known that the run can go on."""
        if self._changed:
            self.journal.append(pack(self._changed))
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
