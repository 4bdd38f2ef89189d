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
from peers.node import Node
from peers.protocol.manifest import Manifest
from peers.protocol.profile import Profile
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
    with pytest.raises(KnockTimeout, match=r"no reply from tcp://127\.0\.0\.1:9 within 0\.1 s") as caught:
        knock_for_settings(replace(ticket, addresses=(NOBODY,)), Identity.ephemeral(), "guest", 0.1)
    (note,) = caught.value.__notes__
    assert note.startswith("tcp://127.0.0.1:9 in the ticket can be reached from its own machine alone")


def test_settings_that_mean_something_else_here_are_refused(
    ticket: Ticket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunSettings, "digest", lambda self: bytes(32))
    with pytest.raises(JoinError, match="install the same version"):
        knock_for_settings(ticket, Identity.ephemeral(), "guest", 20.0)


def test_whoever_holds_a_ticket_may_ask_for_the_status(ticket: Ticket) -> None:
    found = status(ticket.encode(), 20.0)
    assert found["members"] == []


def test_the_status_of_a_run_with_more_members_than_a_message_has_items_is_read(tmp_path: Path) -> None:
    # Nobody hears of these members: they stay for as long as silence is no death.
    patient = {"name": "many", "failure_timeout_s": 600.0}
    run = parse_settings({"run": patient, "method": {"preset": "noloco"}}, "")
    with diloco.host(run, listen=LOCAL, state=tmp_path / "host") as swarm:
        swarm.call(lambda now, node: enter_many(node, now, 300))
        assert len(status(swarm.ticket, 20.0)["members"]) == 300


def enter_many(node: Node, now: float, count: int) -> None:
    """Members that were certified enter, without links."""
    coordinator = node.coordinator
    assert coordinator is not None
    settings = coordinator.state.rules.settings
    for index in range(count):
        key = index.to_bytes(32, "big")
        coordinator.certify(key, f"w{index}")
        profile = Profile(
            f"w{index}", ("tcp://127.0.0.1:9",), Manifest(settings, *[bytes(32)] * 2, "fp32", (4,), "")
        )
        coordinator.receive(now, key, profile.enter(bytes(32), False))
