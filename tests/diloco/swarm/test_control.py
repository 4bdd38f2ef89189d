"""Orders to a running host over loopback: who may give them, and what becomes of the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import diloco
from diloco.errors import JoinError, UserError
from diloco.settings import parse_settings
from diloco.swarm import control
from diloco.swarm.state_dir import local_address
from peers.admission.ticket import Ticket, invite_pair
from peers.protocol.messages import PROTOCOL, Refused
from peers.protocol.orders import Kick, MakeInvite, RevokeInvite, Stop
from transport.errors import KnockRefused, KnockTimeout
from transport.frames import pack, unpack
from transport.sockets.libzmq import knock

LOCAL = "tcp://127.0.0.1:0"
NOWHERE = "tcp://127.0.0.1:9"
RUN = parse_settings({"run": {"name": "orders", "rounds": 3}}, "")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "host"


@pytest.fixture
def host(home: Path) -> Iterator[diloco.Swarm]:
    with diloco.host(RUN, listen=LOCAL, state=home) as swarm:
        yield swarm


def test_who_is_put_out_is_refused_from_then_on_after_a_restart_of_the_host_too(
    home: Path, tmp_path: Path
) -> None:
    guest = tmp_path / "guest"
    with diloco.host(RUN, listen=LOCAL, state=home) as host:
        diloco.join(host.ticket, listen=None, name="ann", state=guest).close()
        assert control.kick(host.ticket, "ann", home).startswith("ann-")
    with diloco.host(RUN, listen=LOCAL, state=home) as host:
        with pytest.raises(JoinError, match="put this worker out") as caught:
            diloco.join(host.ticket, listen=None, name="bea", state=guest)
        assert caught.value.code == "kicked"
        diloco.join(host.ticket, listen=None, name="ann").close()  # another identity is another worker


def test_a_run_that_is_stopped_is_over_after_a_restart_of_the_host_too(home: Path) -> None:
    with diloco.host(RUN, listen=LOCAL, state=home) as host:
        assert control.stop(host.ticket, home) == "the run ends with 0 of 3 rounds"
        assert host.status()["over"]
        assert "over already" in control.stop(host.ticket, home)
    with diloco.host(RUN, listen=LOCAL, state=home) as host:
        assert "over already" in control.stop(host.ticket, home)


def test_an_order_needs_no_live_ticket_and_no_address_that_works_from_here(
    host: diloco.Swarm, home: Path
) -> None:
    ticket = replace(Ticket.parse(host.ticket), expiry=1, addresses=(NOWHERE,), secret=bytes(16))
    assert control.stop(ticket.encode(), home).endswith("3 rounds")


def test_without_the_hosts_state_nobody_orders(
    host: diloco.Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with diloco.host(RUN, listen=LOCAL, state=tmp_path / "other"):
        pass
    for state in (tmp_path / "other", tmp_path / "none"):
        with pytest.raises(UserError, match=r"is not in .*--state"):
            control.stop(host.ticket, state)
    assert not (tmp_path / "none").exists()
    monkeypatch.setattr(control, "default_state", lambda: tmp_path / "all")
    with pytest.raises(UserError, match="any folder in"):
        control.stop(host.ticket)
    (tmp_path / "all").mkdir()
    (tmp_path / "host").rename(tmp_path / "all" / "one")
    assert control.stop(host.ticket).endswith("3 rounds")


@pytest.mark.parametrize(
    "order",
    [
        Kick(PROTOCOL, "ann"),
        Stop(PROTOCOL),
        MakeInvite(PROTOCOL, b"k" * 32, 1 << 32, 9),
        RevokeInvite(PROTOCOL, b"k" * 32),
    ],
)
def test_a_ticket_alone_orders_nothing(host: diloco.Swarm, order: object) -> None:
    ticket = Ticket.parse(host.ticket)
    reply, _ = knock(ticket.addresses[0], ticket.host, invite_pair(ticket.secret), pack(order), 20.0)
    answer = unpack(reply)
    assert isinstance(answer, Refused)
    assert not host.status()["over"]


def test_a_host_that_is_not_there_is_named_and_a_name_has_a_bound(home: Path) -> None:
    with diloco.host(RUN, listen=LOCAL, state=home) as host:
        word = host.ticket
        with pytest.raises(UserError, match="1 to 96"):
            control.kick(word, "x" * 97, home)
        with pytest.raises(JoinError, match="no worker is called bob"):
            control.kick(word, "bob", home)
    (address,) = local_address(home)
    with pytest.raises(KnockTimeout, match=address):
        control.stop(word, home, 0.2)


def knocks(ticket: str, name: str = "ann") -> str:
    """How the door answers a new worker with a ticket."""
    try:
        diloco.join(ticket, listen=None, name=name, timeout_s=10.0).close()
    except JoinError as error:
        return error.code
    except KnockRefused:
        return "opens nothing"
    return "welcome"


def test_a_ticket_is_good_for_its_uses_and_its_hours_and_stays_revoked_over_restarts_of_the_host(
    home: Path,
) -> None:
    with diloco.host(RUN, listen=LOCAL, state=home, advertise="tcp://127.0.0.1:9") as host:
        (address,) = local_address(home)
        tickets = [control.new_ticket(uses, 2.0, home) for uses in (1, 0)]
        assert {Ticket.parse(each).addresses for each in tickets} == {("tcp://127.0.0.1:9",)}
        assert len({Ticket.parse(each).run for each in [host.ticket, *tickets]}) == 1
        once, many, first = (
            replace(Ticket.parse(each), addresses=(address,)).encode() for each in [*tickets, host.ticket]
        )
        assert [knocks(once), knocks(once)] == ["welcome", "spent"]
        assert [knocks(many), knocks(many)] == ["welcome", "welcome"]
        assert "opens nothing any more" in control.revoke(many, home)
        with pytest.raises(JoinError, match="opens nothing here already"):
            control.revoke(many, home)
        assert knocks(many) == "opens nothing"
    with diloco.host(RUN, listen=LOCAL, state=home, ticket_hours=7.0) as host:
        assert [knocks(once), knocks(many), knocks(first)] == ["spent", "opens nothing", "welcome"]
        assert Ticket.parse(host.ticket).expiry == Ticket.parse(first).expiry, "it keeps its terms"
        control.revoke(first, home)
        assert knocks(first) == "opens nothing"
    with diloco.host(RUN, listen=LOCAL, state=home) as host:
        assert Ticket.parse(host.ticket).secret != Ticket.parse(first).secret, "another one follows it"
        assert [knocks(first), knocks(host.ticket)] == ["opens nothing", "welcome"]


def test_a_ticket_that_expired_stays_so_over_restarts_of_the_host(home: Path) -> None:
    with diloco.host(RUN, listen=LOCAL, state=home, ticket_hours=-0.01) as host:
        first = host.ticket
        assert knocks(first) == "expired"
    with diloco.host(RUN, listen=LOCAL, state=home) as host:
        assert [knocks(first), knocks(host.ticket)] == ["expired", "welcome"]


def test_a_host_may_say_for_how_many_workers_its_ticket_is_good(home: Path) -> None:
    with diloco.host(RUN, listen=LOCAL, state=home, ticket_uses=1) as host:
        assert [knocks(host.ticket), knocks(host.ticket)] == ["welcome", "spent"]


def test_for_a_new_ticket_the_host_must_be_clear(
    host: diloco.Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "default_state", lambda: tmp_path)
    assert knocks(control.new_ticket(0, 1.0)) == "welcome"
    diloco.host(RUN, listen=LOCAL, state=tmp_path / "other").close()
    with pytest.raises(UserError, match="the state of 2 hosts is in"):
        control.new_ticket(0, 1.0)
    with pytest.raises(UserError, match="the state of no hosts is in"):
        control.new_ticket(0, 1.0, tmp_path / "none")
