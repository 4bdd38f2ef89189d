"""How many identities a ticket lets in: uses, places and the hour, and what a long absence gives back."""

from __future__ import annotations

from peers.coordinator.journal import InviteMade, InviteRevoked, TermBegan
from peers.coordinator.places import give_back, invites_in, refusal
from peers.protocol.messages import Refused
from tests.peers.coordinator.coordinator_kit import Swarm, key
from transport.limits import LIMITS

TICKET, OTHER = b"t" * 32, b"o" * 32
HALF = LIMITS.members // 2


def asks(swarm: Swarm, index: int, invite: bytes = TICKET, uses: int = 0) -> str:
    """What a worker that comes with a ticket hears: a code, or nothing if it is let in."""
    refused = swarm.core.admit(swarm.now, key(index), f"w{index}", invite, uses)
    return refused.code if refused else ""


def test_a_ticket_without_uses_fills_at_most_half_of_the_run_and_others_still_get_in() -> None:
    swarm = Swarm()
    assert [asks(swarm, index) for index in range(HALF + 1)] == [""] * HALF + ["full"]
    assert asks(swarm, 0) == "", "who has a place may always come back"
    assert asks(swarm, HALF, OTHER) == ""
    again = Swarm(swarm.journal)
    assert [asks(again, HALF + 1), asks(again, HALF + 1, OTHER)] == ["full", ""]


def test_a_run_that_gossips_has_more_places() -> None:
    half = LIMITS.gossip_members // 2
    swarm = Swarm(gossips=True)
    for index in range(half):
        swarm.core.certify(index.to_bytes(32, "big"), "w", TICKET)
    refused = refusal(swarm.core.roster, LIMITS, 2 * half, 0.0, b"k" * 32, TICKET, 0)
    assert refused is not None
    assert refused.code == "full"


def test_uses_count_identities_ever_and_may_be_more_than_half_of_the_run() -> None:
    swarm = Swarm()
    assert [asks(swarm, index, TICKET, 2) for index in (1, 2, 1, 3, 2)] == ["", "", "", "spent", ""]
    assert asks(Swarm(swarm.journal), 3, TICKET, 2) == "spent"
    assert [asks(swarm, 100 + index, OTHER, 40) for index in range(41)] == [""] * 40 + ["spent"]


def test_who_was_away_for_a_day_gives_its_place_back_over_restarts_too_and_may_ask_anew() -> None:
    swarm = Swarm(failure_timeout_s=1e9)
    for index in range(HALF):
        asks(swarm, index)
    swarm.enter(0)
    swarm.later(LIMITS.absence_s - 1.0)
    assert asks(swarm, HALF) == "full"
    swarm.later(2.0)
    for each in (swarm, Swarm(swarm.journal)):
        assert each.core.roster.entries[key(0)].has_place, "it was here all the time"
        assert [asks(each, HALF + index) for index in range(HALF)] == [""] * (HALF - 1) + ["full"]
        assert asks(each, 1) == "full", "its place is taken"
        assert asks(each, 1, OTHER) == ""
    swarm.greet(2)
    (refused,) = swarm.told(2, Refused)
    assert refused.code == "absent", "a link that stood all the time is no place"


def test_who_came_late_and_never_entered_keeps_its_place_for_a_day_from_then_on() -> None:
    swarm = Swarm()
    swarm.later(LIMITS.absence_s)
    assert asks(swarm, 1, TICKET, 1) == ""
    swarm.later(LIMITS.absence_s - 1.0)
    give_back(swarm.core.state, swarm.now)
    assert swarm.core.roster.entries[key(1)].has_place
    swarm.later(2.0)
    give_back(swarm.core.state, swarm.now)
    assert not swarm.core.roster.entries[key(1)].has_place


def test_a_place_that_is_given_back_and_asked_for_anew_is_no_new_identity() -> None:
    swarm = Swarm()
    assert asks(swarm, 1, TICKET, 1) == ""
    swarm.later(LIMITS.absence_s)
    give_back(swarm.core.state, swarm.now)
    assert [asks(swarm, 2, TICKET, 1), asks(swarm, 1, TICKET, 1)] == ["spent", ""]


def test_one_who_is_put_out_has_no_place_and_stays_a_use() -> None:
    swarm = Swarm()
    for index in range(HALF):
        asks(swarm, index)
    swarm.core.kick(0.0, "w0")
    assert [asks(swarm, HALF), asks(swarm, HALF + 1), asks(swarm, 0)] == ["", "full", "kicked"]
    asks(swarm, 200, OTHER, 1)
    swarm.core.kick(0.0, "w200")
    assert asks(swarm, 201, OTHER, 1) == "spent"


def test_new_identities_of_a_ticket_are_bounded_by_the_hour_unless_their_number_is() -> None:
    swarm = Swarm(gossips=True)

    def many(invite: bytes, uses: int) -> list[str]:
        codes = []
        for index in range(LIMITS.identities_per_hour + 1):
            found = swarm.core.admit(swarm.now, invite[:1] + index.to_bytes(31, "big"), "w", invite, uses)
            codes.append(found.code if found else "")
        return codes

    assert many(TICKET, 0) == [""] * LIMITS.identities_per_hour + ["often"]
    assert set(many(OTHER, 500)) == {""}
    swarm.later(3600.0)
    assert asks(swarm, 1) == ""


def test_a_journal_knows_its_tickets_and_which_of_them_were_revoked() -> None:
    made = [InviteMade(TICKET, 9, 0), InviteMade(OTHER, 7, 1)]
    assert invites_in([TermBegan(1), *made, InviteRevoked(TICKET)]) == {TICKET: None, OTHER: made[1]}
