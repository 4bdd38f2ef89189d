"""Rows of what peers make us keep beyond what is each one's own: shared credit, and parts that come early."""

from __future__ import annotations

from peers.links import LinkTable
from peers.member.contributions import Contributions
from peers.member.exchanges import Exchanges
from peers.member.rounds import Rounds
from peers.protocol.shares import PartHeld
from tests.hostile.bounds_kit import SIZE_AND_BOUND, SMALL, Rows
from tests.peers.coordinator.coordinator_kit import key, trained
from tests.peers.member.fakes import HOST, ME, OTHER, FakeOutlet
from transport.collectives.chunks import EarlyPart, PartChunk
from transport.frames import to_items
from transport.link.messages import Ack, Session
from transport.link.streams import FRAME_COST

US, THEM = Session(1, 1), Session(2, 1)
NOTE = to_items(PartChunk(1, 0, 0))
SHARED = Rows()


@SHARED.add
def states_of_which_a_member_says_that_it_has_a_share() -> SIZE_AND_BOUND:
    swarm = trained(1)
    for number in range(100):
        state = number.to_bytes(32, "big")
        swarm.hear(1, PartHeld(number, state, 0, state, state, True))
    return len(swarm.core.roster.entries[key(1)].parts), 16


@SHARED.add
def credit_of_peers_that_take_it_at_a_great_rate_and_answer_late() -> SIZE_AND_BOUND:
    """Each makes its line look fast and long, takes all that it may, and then uses none of it."""
    table, now, in_flight = LinkTable(1, 4.0, SMALL, []), 0.0, 0
    for each in range(1, 6):
        link = table.open(0.0, bytes([each]) * 32, (), dials=False).streams
        link.begin_anew(US, THEM, keep_control=False)
        link.hello(reply=True)
        window = link.window
        for seq in range(1, 2000):
            now += 0.001
            if seq % 100 == 1:
                asked = window.ask(now)
            if seq % 100 == 51:
                window.answered(now, asked)
            link.bulk_arrived(now, seq, NOTE, bytes(SMALL.payload_bytes))
            link.consumed(now, SMALL.payload_bytes + FRAME_COST)
        in_flight += window.granted - window.consumed
        assert window.size > window.base
    return in_flight, SMALL.buffer_bytes + 64 * 1024 + SMALL.spare_bytes


@SHARED.add
def what_peers_that_acknowledge_nothing_make_us_keep_together() -> SIZE_AND_BOUND:
    table, num = LinkTable(1, 4.0, SMALL, []), 6
    for each in range(num):
        link = table.open(0.0, bytes([each]) * 32, (), dials=False).streams
        link.begin_anew(US, THEM, keep_control=False)
        link.acknowledged(Ack(*THEM, *US, 0, 0, 1 << 40, 0))
        while link.room() >= 500:
            link.send_bulk(0.0, PartChunk(1, 0, 0), bytes(500), "exchange")
    kept = sum(link.streams.kept().bulk_out_cost for link in table.by_peer.values())
    return kept, num * SMALL.window_bytes + SMALL.spare_bytes


@SHARED.add
def parts_that_come_before_rounds_that_never_open() -> SIZE_AND_BOUND:
    """Credit for what is dropped is given back, and what is held is of the newest contribution alone."""
    rounds, cost = waiting_for_rounds(), 100 + FRAME_COST
    for number in range(20):
        for chunk in range(200):
            rounds.take_early(0.0, OTHER, EarlyPart(number, bytes(16), chunk), bytes(100), cost)
    assert len(rounds.early.held) == 1
    held = sum(cost for _, cost in rounds.early.held[OTHER].parts.values())
    return held, SMALL.early_bytes


def waiting_for_rounds() -> Rounds:
    outlet = FakeOutlet()
    contributions, exchanges = Contributions(ME, HOST, outlet), Exchanges(outlet, 10.0, 60.0)
    return Rounds(ME, HOST, contributions, exchanges, outlet, limits=SMALL)
