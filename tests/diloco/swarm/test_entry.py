"""host, join and solo: what each hands back, and what lives on in a state directory."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import diloco
from diloco.errors import EntryError, SettingsError, SwarmClosed, UserError
from diloco.settings import commented_toml, parse_settings
from diloco.swarm.entry import host, join, solo
from diloco.swarm.setting_changes import with_values
from peers.admission.ticket import Ticket
from peers.coordinator.journal_file import Journal
from peers.errors import ResumeError
from transport.effects import Trace
from transport.errors import TransportError

LOCAL = "tcp://127.0.0.1:0"
RUN = parse_settings({"run": {"name": "entry", "rounds": 3}}, "")


def test_a_restarted_host_keeps_its_run_its_ticket_and_its_port(tmp_path: Path) -> None:
    tickets = []
    for _ in range(2):
        with host(RUN, listen=LOCAL, state=tmp_path) as swarm:
            tickets.append(Ticket.parse(swarm.ticket))
            assert swarm.addresses == tickets[-1].addresses
    first, second = tickets
    assert (first.run, first.host, first.secret, first.addresses) == (
        second.run,
        second.host,
        second.secret,
        second.addresses,
    )


def test_two_hosts_on_one_state_directory_the_second_is_refused_naming_the_firsts_process(
    tmp_path: Path,
) -> None:
    with host(RUN, listen=LOCAL, state=tmp_path) as first:
        with pytest.raises(UserError, match=f"in use by the host with process {os.getpid()} on "):
            host(RUN, listen=LOCAL, state=tmp_path)
        assert first.status()["members"] == [], "the first goes on"
    host(RUN, listen=LOCAL, state=tmp_path).close()


def test_a_host_that_cannot_start_leaves_its_state_directory_to_others(tmp_path: Path) -> None:
    with host(RUN, listen=LOCAL, state=tmp_path / "one") as swarm, pytest.raises(TransportError):
        host(RUN, listen=swarm.addresses[0], state=tmp_path / "two")
    host(RUN, listen=LOCAL, state=tmp_path / "two").close()


def test_a_host_takes_the_path_of_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "RUN.toml"
    path.write_text(commented_toml(RUN))
    with host(str(path), listen=LOCAL, state=tmp_path / "host") as swarm:
        assert (swarm.settings, swarm.is_host) == (RUN, True)
    with pytest.raises(SettingsError, match="does not exist"):
        host(tmp_path / "OTHER.toml", state=tmp_path / "host")


def test_an_advertised_address_is_what_others_are_told(tmp_path: Path) -> None:
    there = "tcp://192.0.2.7:5000"
    with host(RUN, listen=LOCAL, advertise=there, state=tmp_path) as swarm:
        assert swarm.addresses == Ticket.parse(swarm.ticket).addresses == (there,)


def test_addresses_need_no_scheme(tmp_path: Path) -> None:
    with host(RUN, listen="127.0.0.1:0", advertise="192.0.2.7:81", state=tmp_path / "host") as swarm:
        assert swarm.addresses == ("tcp://192.0.2.7:81",)
    with pytest.raises(UserError, match=r"others cannot dial 'tcp://0\.0\.0\.0:81'"):
        host(RUN, listen="127.0.0.1:0", advertise="0.0.0.0:81", state=tmp_path / "host")


def test_a_port_that_there_is_not_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no port 65536 to listen on"):
        host(RUN, listen="tcp://127.0.0.1:65536", state=tmp_path / "host")
    assert not (tmp_path / "host").exists()


def test_an_address_that_is_taken_is_refused(tmp_path: Path) -> None:
    with host(RUN, listen=LOCAL, state=tmp_path) as swarm:
        (address,) = swarm.addresses
        with pytest.raises(TransportError, match=address):
            join(swarm.ticket, listen=address)


def test_a_host_that_cannot_listen_leaves_no_journal_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Journal] = []
    with host(RUN, listen=LOCAL, state=tmp_path / "one") as swarm:
        monkeypatch.setattr(Journal, "close", lambda journal: closed.append(journal))
        with pytest.raises(TransportError):
            host(RUN, listen=swarm.addresses[0], state=tmp_path / "two")
        monkeypatch.undo()
    assert len(closed) == 1
    closed[0].close()


def test_a_host_that_cannot_keep_its_address_runs_no_longer_and_leaves_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*told: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr("diloco.swarm.entry.remember_address", full)
    before = threading.active_count()
    with pytest.raises(UserError, match="the disk is full"):
        host(RUN, listen=LOCAL, state=tmp_path)
    assert threading.active_count() == before
    monkeypatch.undo()
    host(RUN, listen=LOCAL, state=tmp_path).close()


def test_a_hosts_journal_is_closed_once_also_if_its_loop_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, close = [], Journal.close

    def closing(journal: Journal) -> None:
        closed.append(journal)
        close(journal)

    monkeypatch.setattr(Journal, "close", closing)
    with pytest.raises(ZeroDivisionError), host(RUN, listen=LOCAL, state=tmp_path) as swarm:
        raise ZeroDivisionError
    swarm.close()
    assert len(closed) == 1


def test_who_joins_has_the_hosts_settings_and_no_ticket_to_give(tmp_path: Path) -> None:
    with host(RUN, listen=LOCAL, state=tmp_path / "host") as here:
        with join(here.ticket, listen=None, name="guest") as there:
            assert there.settings.digest() == RUN.digest()
            assert (there.name, there.addresses, there.is_host, there.home) == ("guest", (), False, None)
            for ask in (lambda: there.ticket, there.status):
                with pytest.raises(SwarmClosed, match="only the host"):
                    ask()
        with join(here.ticket, listen=LOCAL, state=tmp_path / "guest") as there:
            assert there.home == tmp_path / "guest"
            assert there.addresses[0].startswith("tcp://127.0.0.1:")


def test_who_joins_a_run_in_stages_is_told_which_and_may_wish(tmp_path: Path) -> None:
    cut = parse_settings({"run": {"name": "cut"}, "pipeline": {"stages": 3}}, "")
    with host(cut, listen=LOCAL, state=tmp_path / "host") as here:
        assert here.ask_stage(2) == 2
        with join(here.ticket, listen=None, name="a") as a, join(here.ticket, listen=None, name="b") as b:
            assert {a.ask_stage(), b.ask_stage()} == {0, 1}, "those that have nobody yet"
            with pytest.raises(EntryError, match="ask for no other one, or join as a new worker"):
                a.ask_stage(2)
            with pytest.raises(UserError, match="there is no stage 3: 3 stages are numbered 0 to 2"):
                b.ask_stage(3)


def test_a_member_with_a_state_directory_is_the_same_peer_again(tmp_path: Path) -> None:
    with host(RUN, listen=LOCAL, state=tmp_path / "host") as here:
        names = []
        for home in (tmp_path / "guest", tmp_path / "guest", None):
            with join(here.ticket, listen=None, name="guest", state=home) as there:
                names.append(there.peer_name)
    assert names[0] == names[1] != names[2]


def test_what_is_traced_is_told_from_the_first_moment_on(tmp_path: Path) -> None:
    """Also what happens while the driver starts: the callback is there before its thread is."""
    told: list[Trace] = []
    with host(RUN, listen=LOCAL, state=tmp_path, on_trace=told.append) as swarm:
        swarm.call(lambda now, node: None)
        with join(swarm.ticket, listen=None, name="guest"):
            pass
    assert told
    assert all(isinstance(each, Trace) for each in told)


def test_a_swarm_of_one_opens_rounds_alone_and_has_no_ticket() -> None:
    with solo(parse_settings({"run": {"min_peers": 5}}, "")) as swarm:
        assert swarm.settings.run.min_peers == 1
        assert swarm.is_host
        assert swarm.status()["members"] == []
        with pytest.raises(SwarmClosed, match="only the host has a ticket"):
            swarm.ticket  # noqa: B018


def test_the_package_hands_out_these_entries() -> None:
    assert (diloco.host, diloco.join, diloco.solo) == (host, join, solo)


def test_a_run_goes_on_with_settings_that_its_file_or_a_person_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with host(RUN, listen=LOCAL, state=tmp_path) as swarm:
        first = swarm.run
    longer = with_values(RUN, {"run.rounds": 9})
    with host(longer, listen=LOCAL, state=tmp_path, changes={"train.inner_lr": 0.5}) as swarm:
        assert (swarm.run, swarm.settings.run.rounds, swarm.settings.train.inner_lr) == (first, 9, 0.5)
        assert swarm.status()["rounds_wanted"] == 9
        assert "the run's settings are changed: run.rounds 3 -> 9, train.inner_lr 0.002 -> 0.5" in caplog.text
        with join(swarm.ticket, listen=None, name="guest") as there:
            assert there.settings == swarm.settings
            assert there.run == first
    caplog.clear()
    with host(longer, listen=LOCAL, state=tmp_path) as swarm:
        assert swarm.settings.train.inner_lr == 0.5, "what was given stays"
    assert caplog.text == ""


def test_what_cannot_change_is_refused_by_name_and_the_run_is_as_it_was(tmp_path: Path) -> None:
    with host(RUN, listen=LOCAL, state=tmp_path):
        pass
    before = {path.name: path.read_bytes() for path in tmp_path.glob("journal-*")}
    other = parse_settings({"run": {"name": "entry", "rounds": 4}, "model": {"width": 64}}, "")
    with pytest.raises(UserError, match=r"cannot change: model\.width 128 -> 64; put it back, or .*--fresh"):
        host(other, listen=LOCAL, state=tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("journal-*")}
    host(RUN, listen=LOCAL, state=tmp_path).close()


def test_a_fresh_run_has_a_new_ticket_and_the_old_ones_files_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with host(RUN, listen=LOCAL, state=tmp_path) as swarm:
        old, address = Ticket.parse(swarm.ticket), swarm.addresses
    other = parse_settings({"run": {"name": "entry"}, "model": {"width": 64}}, "")
    with host(other, listen=LOCAL, state=tmp_path, fresh=True) as swarm:
        new = Ticket.parse(swarm.ticket)
        assert swarm.addresses == address
        assert swarm.settings == other
    assert not {old.run, old.host, old.secret} & {new.run, new.host, new.secret}
    (kept,) = (tmp_path / "before").iterdir()
    assert str(kept) in caplog.text
    with host(RUN, listen=LOCAL, state=kept) as swarm:
        assert Ticket.parse(swarm.ticket).run == old.run, "what was put aside is whole"


def test_a_run_resumes_from_no_commit_that_it_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="cannot go on from commit 7: it has 0 commits"):
        host(RUN, listen=LOCAL, state=tmp_path, resume=7)
    with host(RUN, listen=LOCAL, state=tmp_path, resume=0) as swarm:
        assert swarm.resume == 0
