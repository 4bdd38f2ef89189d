"""What a status tells of tickets, and that the hour of new identities goes on over a restart."""

from __future__ import annotations

import pytest

from peers.coordinator.coordinator import Coordinator
from peers.coordinator.journal import InviteMade, InviteRevoked
from peers.coordinator.rules import Rules
from peers.coordinator.tickets import TicketStatus
from peers.protocol.messages import Refused
from tests.peers.coordinator.coordinator_kit import SETTINGS, Swarm, key
from transport.errors import BadFrame
from transport.frames import unpack
from transport.keys import short
from transport.limits import LIMITS

TICKET, OTHER = b"t" * 32, b"o" * 32


def test_a_status_tells_of_each_ticket_its_uses_and_end_and_of_a_stop() -> None:
    swarm = Swarm()
    swarm.core.make_invite(TICKET, 2_000_000_000, 3)
    swarm.core.make_invite(OTHER, 2_000_000_001, 0)
    assert swarm.core.admit(0.0, key(1), "w1", TICKET, 3) is None
    swarm.core.revoke_invite(OTHER)
    swarm.core.stop(0.0)
    found = Swarm(journal=swarm.journal).core.status(0.0)
    expected = (
        TicketStatus(short(TICKET), 3, 1, 2_000_000_000, False),
        TicketStatus(short(OTHER), 0, 0, 2_000_000_001, True),
    )
    assert swarm.core.status(0.0).tickets == found.tickets == expected
    assert (swarm.core.status(0.0).stopped, found.stopped) == (True, True)


@pytest.mark.parametrize("size", [64, 65])
def test_a_name_of_a_ticket_has_64_characters_at_most(size: int) -> None:
    plain = ["n" * size, 3, 1, 2_000_000_000, False]
    if size > 64:
        with pytest.raises(BadFrame, match="no name"):
            TicketStatus.from_plain(plain)
    else:
        assert TicketStatus.from_plain(plain).name == plain[0]


def test_tickets_that_a_status_shows_are_bounded() -> None:
    swarm = Swarm()
    for number in range(5 * LIMITS.invites):
        swarm.core.state.tickets.replay(InviteMade(number.to_bytes(32, "big"), 1, 0))
        swarm.core.state.tickets.replay(InviteRevoked(number.to_bytes(32, "big")))
    shown = swarm.core.status(0.0).tickets
    assert len(shown) == 2 * LIMITS.invites
    assert shown[-1].name == short((5 * LIMITS.invites - 1).to_bytes(32, "big"))


def full_hour() -> Swarm:
    swarm = Swarm()
    swarm.core.began_at = 1_000_000.0
    for number in range(LIMITS.identities_per_hour):
        admitted = number.to_bytes(32, "little")
        assert swarm.core.admit(1000.0, admitted, "w", TICKET, 0) is None
        swarm.core.roster.entries[admitted].has_place = False
    return swarm


def restarted(swarm: Swarm, unix_s: float) -> Coordinator:
    """Another process, whose clock shows 50 s at that time."""
    core = Coordinator(key(255), Rules(SETTINGS), LIMITS, Swarm())
    core.began_at = unix_s - 50.0
    core.restore([unpack(entry) for entry in swarm.journal])
    core.start(50.0)
    for entry in core.roster.entries.values():
        entry.has_place = False
    return core


def test_new_identities_of_the_last_hour_count_after_a_restart() -> None:
    swarm = full_hour()
    core = restarted(swarm, 1_001_000.0 + 600.0)
    refused = core.admit(51.0, b"n" * 32, "new", TICKET, 0)
    assert isinstance(refused, Refused)
    assert refused.code == "often"
    assert core.admit(50.0 + 3001.0, b"n" * 32, "new", TICKET, 0) is None


def test_a_clock_that_was_put_back_or_on_by_a_year_keeps_nobody_out_for_longer_than_an_hour() -> None:
    year = 365 * 24 * 3600.0
    assert restarted(full_hour(), 1_001_000.0 + year).admit(51.0, b"n" * 32, "new", TICKET, 0) is None
    core = restarted(full_hour(), 1_001_000.0 - year / 100)
    assert core.admit(50.0 + 3601.0, b"n" * 32, "new", TICKET, 0) is None
