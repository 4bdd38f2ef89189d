"""The run that a host has open: locked while it lives, and a change is written once it may go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from diloco.errors import SettingsError, UserError
from diloco.settings import RunSettings, parse_settings
from diloco.swarm.hosted_run import HostedRun
from peers.coordinator.journal import CommitWritten, Forked, InviteMade, RunBegan, SettingsChanged, StepsTaken
from peers.protocol.record import Record
from transport.frames import pack

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


def test_a_host_whose_journal_is_gone_says_what_the_run_can_go_on_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with opened(tmp_path):
            pass
    assert caplog.text == ""
    (journal,) = tmp_path.glob("journal-*")
    journal.unlink()
    with opened(tmp_path):
        pass
    (said,) = (each.getMessage() for each in caplog.records)
    assert said.startswith(f"{journal} is not there: ")
    assert "--adopt goes on from what workers hold" in said


def test_that_the_last_entry_of_the_journal_is_not_whole_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(forked(tmp_path)) as hosted:
        hosted.journal.append(pack(RunBegan(b"h" * 32)))
    (path,) = tmp_path.glob("journal-*")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with closing(forked(tmp_path)) as again:
        assert again.entries == []
    assert f"{path} is not whole, and its {len(whole)} bytes are cut off" in caplog.text
    caplog.clear()
    forked(tmp_path).close()
    assert caplog.text == "", "it is cut off once"


def test_a_ticket_is_kept_as_it_was_made(tmp_path: Path) -> None:
    with opened(tmp_path) as hosted:
        made = hosted.ticket(2.0, 7)
    with opened(tmp_path) as again:
        assert again.ticket(9.0, 1) == made
        assert [type(each) for each in again.entries] == [InviteMade]


def forked(home: Path, origin: Path | None = None) -> HostedRun:
    return HostedRun(home, RUN, {}, fresh=False, origin=origin)


def test_a_run_from_an_earlier_state_begins_once_and_goes_on_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, model, other = tmp_path / "home", tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    model.write_bytes(b"a")
    other.write_bytes(b"b")
    with closing(forked(home)) as plain:
        assert plain.first_state is None
    with closing(forked(home, model)) as first:
        assert first.first_state == model
        assert first.run_id != plain.run_id, "it is another run"
        assert [type(each) for each in first.entries] == [Forked]
        first.keep_changes()
    assert "the files of the old one are in" in caplog.text
    for origin in (model, None):
        with closing(forked(home, origin)) as again:
            assert (again.run_id, again.first_state, again.entries) == (first.run_id, model, first.entries)
    again = forked(home)
    again.journal.append(pack(RunBegan(b"h" * 32)))
    again.close()
    with closing(forked(home, model)) as begun:
        assert begun.first_state == model, "nothing is built on it: if it is lost it is brought again"
        begun.journal.append(
            pack(CommitWritten.of(Record(b"h" * 32, 1, 0, 1, 1, 4, (b"m" * 32,), (1.0,), b"r" * 32)))
        )
    with closing(forked(home, model)) as later:
        assert later.first_state is None, "a run that has commits is never begun anew"
    with closing(forked(home, other)) as another:
        assert another.run_id != first.run_id


def test_a_run_whose_workers_gossip_is_never_begun_anew_once_they_have_taken_an_outer_step(
    tmp_path: Path,
) -> None:
    home, model = tmp_path / "home", tmp_path / "model.safetensors"
    model.write_bytes(b"a")
    with closing(forked(home, model)) as first:
        assert first.first_state == model
        first.journal.append(pack(StepsTaken(1)))
    with closing(forked(home, model)) as later:
        assert later.first_state is None


def test_a_run_may_begin_from_a_file_in_its_own_folder(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "run" / "commit"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    with closing(forked(tmp_path)):
        pass
    with closing(forked(tmp_path, checkpoint)) as hosted:
        assert hosted.first_state is not None
        assert hosted.first_state != checkpoint
        assert (hosted.first_state / "manifest.json").exists(), "it was put aside, and is known there"
    with closing(forked(tmp_path, checkpoint)) as again:
        assert (again.run_id, again.first_state) == (hosted.run_id, hosted.first_state), "the same command"


def test_a_run_goes_on_by_the_same_command_when_what_it_began_from_is_gone(tmp_path: Path) -> None:
    home, model = tmp_path / "home", tmp_path / "a.safetensors"
    model.write_bytes(b"a")
    with closing(forked(home, model)) as first:
        pass
    model.unlink()
    with closing(forked(home, model)) as again:
        assert again.run_id == first.run_id
    with pytest.raises(UserError, match="neither a checkpoint"):
        forked(home, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="neither a checkpoint"):
        HostedRun(home, RUN, {}, fresh=True, origin=model)
