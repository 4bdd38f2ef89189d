"""What a host answers at its door, over loopback: settings, a status, or no."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import diloco
from diloco.errors import JoinError
from diloco.settings import RunSettings, parse_settings
from diloco.swarm.handshake import knock_for_settings, status
from peers.admission.identity import Identity
from peers.admission.ticket import Ticket
from transport.errors import KnockTimeout

LOCAL = "tcp://127.0.0.1:0"
NOBODY = "tcp://127.0.0.1:9"
RUN = parse_settings({"run": {"name": "door", "rounds": 3}, "method": {"sync_every": 5}}, "")


@pytest.fixture
def ticket(tmp_path: Path) -> Iterator[Ticket]:
    with diloco.host(RUN, listen=LOCAL, state=tmp_path / "host") as swarm:
        yield Ticket.parse(swarm.ticket)


def test_who_knocks_gets_the_settings_of_the_run(ticket: Ticket) -> None:
    assert knock_for_settings(ticket, Identity.ephemeral(), "guest", 20.0).digest() == RUN.digest()


def test_another_run_of_the_same_host_is_refused_with_a_code_and_a_sentence(ticket: Ticket) -> None:
    with pytest.raises(JoinError) as caught:
        knock_for_settings(replace(ticket, run=bytes(16)), Identity.ephemeral(), "guest", 20.0)
    assert caught.value.code
    assert " " in str(caught.value)


def test_the_addresses_of_a_ticket_are_tried_in_turn(ticket: Ticket) -> None:
    both = replace(ticket, addresses=(NOBODY, *ticket.addresses))
    assert knock_for_settings(both, Identity.ephemeral(), "guest", 0.5).digest() == RUN.digest()


def test_a_host_that_does_not_answer_is_named(ticket: Ticket) -> None:
    with pytest.raises(KnockTimeout, match=r"no reply from tcp://127\.0\.0\.1:9 within 0\.1 s"):
        knock_for_settings(replace(ticket, addresses=(NOBODY,)), Identity.ephemeral(), "guest", 0.1)


def test_settings_that_mean_something_else_here_are_refused(
    ticket: Ticket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunSettings, "digest", lambda self: bytes(32))
    with pytest.raises(JoinError, match="install the same version"):
        knock_for_settings(ticket, Identity.ephemeral(), "guest", 20.0)


def test_whoever_holds_a_ticket_may_ask_for_the_status(ticket: Ticket) -> None:
    found = status(ticket.encode(), 20.0)
    assert found["members"] == []
