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
from peers.protocol.messages import PROTOCOL, Kick, Refused, Stop
from tests.net.swarm_kit import eventually
from transport.errors import KnockTimeout, TransportError
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
    monkeypatch.setattr(control, "DEFAULT_STATE", tmp_path / "all")
    with pytest.raises(UserError, match="any folder in"):
        control.stop(host.ticket)
    (tmp_path / "all").mkdir()
    (tmp_path / "host").rename(tmp_path / "all" / "one")
    assert control.stop(host.ticket).endswith("3 rounds")


@pytest.mark.parametrize("order", [Kick(PROTOCOL, "ann"), Stop(PROTOCOL)])
def test_a_ticket_alone_orders_nothing(host: diloco.Swarm, order: Kick | Stop) -> None:
    ticket = Ticket.parse(host.ticket)
    reply, _ = knock(ticket.addresses[0], ticket.host, invite_pair(ticket.secret), pack(order), 20.0)
    answer = unpack(reply)
    assert isinstance(answer, Refused)
    assert not host.status()["over"]


def test_a_flood_of_tickets_holders_does_not_keep_the_owner_out(host: diloco.Swarm, home: Path) -> None:
    ticket = Ticket.parse(host.ticket)

    def flooded() -> bool:
        try:
            knock(ticket.addresses[0], ticket.host, invite_pair(ticket.secret), pack(Stop(PROTOCOL)), 0.3)
        except TransportError:
            return True
        return False

    eventually(flooded)
    assert control.stop(host.ticket, home, 5.0).endswith("3 rounds")


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
