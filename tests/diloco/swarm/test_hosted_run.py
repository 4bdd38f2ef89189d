"""The run that a host has open: locked while it lives, and a change is written once it may go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from diloco.errors import SettingsError, UserError
from diloco.settings import RunSettings, parse_settings
from diloco.swarm.hosted_run import HostedRun
from peers.coordinator.journal import InviteMade, SettingsChanged

RUN = parse_settings({}, "")
OTHER = parse_settings({"model": {"width": 64}}, "")
LONGER = parse_settings({"run": {"rounds": 200}}, "")


@contextmanager
def opened(home: Path, read: RunSettings = RUN) -> Iterator[HostedRun]:
    with closing(HostedRun(home, read, {}, fresh=False)) as hosted:
        yield hosted


def test_a_change_is_journaled_when_it_is_said_to_be_kept_and_not_before(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with opened(tmp_path, LONGER) as hosted:
        assert [type(each) for each in hosted.entries] == [SettingsChanged]
    with opened(tmp_path) as hosted:
        assert hosted.entries == [], "nothing was kept"
    with opened(tmp_path, LONGER) as hosted:
        hosted.keep_changes()
    with opened(tmp_path, LONGER) as again:
        assert (again.entries, again.settings.run.rounds) == (hosted.entries, 200)


def test_a_run_that_cannot_be_opened_is_free_for_another_host(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with pytest.raises(SettingsError, match="cannot change"), opened(tmp_path, OTHER):
        pass
    with (
        opened(tmp_path),
        pytest.raises(UserError, match="in use by the host with process"),
        opened(tmp_path),
    ):
        pass


def test_a_ticket_is_kept_as_it_was_made(tmp_path: Path) -> None:
    with opened(tmp_path) as hosted:
        made = hosted.ticket(2.0, 7)
    with opened(tmp_path) as again:
        assert again.ticket(9.0, 1) == made
        assert [type(each) for each in again.entries] == [InviteMade]
