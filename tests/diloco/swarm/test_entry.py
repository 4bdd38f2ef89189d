"""host, join and solo: what each hands back, and what lives on in a state directory."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import diloco
from diloco.errors import SettingsError, SwarmClosed, UserError
from diloco.settings import commented_toml, parse_settings
from diloco.swarm.entry import host, join, solo
from peers.admission.ticket import Ticket
from peers.coordinator.journal_file import Journal
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
