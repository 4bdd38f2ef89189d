"""A member's stage among others: whom it knows, and offers that wait for acknowledged gradients."""

from __future__ import annotations

from peers.member.contributions import Contributions
from peers.member.stages import Stages
from peers.protocol.commands import Offer
from peers.protocol.events import ContributionEnded, Fate
from peers.protocol.messages import Ready
from peers.protocol.stage_work import ConfirmOpened, Counted, Drain, ForwardBegan, MicrobatchId, StreamOpened
from peers.protocol.stream import (
    Draining,
    Forward,
    GradientHeard,
    Meet,
    ReplicaGone,
    ReplicaIs,
    RosterIs,
    StandsSince,
    Targets,
)
from peers.routing.state import StreamTerms
from tests.peers.member.fakes import BASE, HOST, ME, OTHER, SIZE, THIRD, FakeOutlet
from transport.collectives.reducer import NumpyReducer

FEEDER, MINE = 3, 5
"""Memberships of the feeder and of this member, of the second of two stages."""
FED = MicrobatchId(OTHER, FEEDER, 0)


class LastStage:
    """This member, met by a feeder."""

    def __init__(self) -> None:
        self.node = FakeOutlet()
        self.contributions = Contributions(ME, HOST, self.node)
        terms = StreamTerms(1, 2, 4, 0, 2, 4, 64, 10.0)
        self.stages = Stages(ME, HOST, terms, self.contributions, self.node, self.tell)
        self.stand(MINE)
        self.stages.streaming.link_began(0.0, OTHER)
        self.stages.streaming.take_control(0.0, OTHER, Meet(FEEDER, MINE, 0, False))

    def tell(self, now: float, fragment: int) -> None:
        self.contributions.send_offer(now, fragment)

    def hear(self, message: object) -> None:
        self.stages.handlers[type(message)](0.0, message)

    def stand(self, since: int, confirms: bool = True) -> None:
        self.hear(StandsSince(since))
        self.hear(ReplicaIs(0, OTHER, FEEDER, 0, 0, ("tcp://o:1",), 0.0, False, True))
        self.hear(ReplicaIs(0, ME, since, 1, 0, (), 0.0, False, True))
        self.hear(RosterIs(since))
        if confirms:
            self.stages.do(0.0, ConfirmOpened(since))

    def count_one(self) -> None:
        """A microbatch comes and is counted."""
        self.stages.streaming.take_payload(0.0, OTHER, Targets(FEEDER, MINE, 0, 0, 0), b"tt")
        forward = Forward(FEEDER, MINE, 0, 1, (FEEDER, MINE), 0, 0)
        self.stages.streaming.take_payload(0.0, OTHER, forward, b"aaaa")
        assert self.stages.do(0.0, ForwardBegan(FED))
        assert self.stages.do(0.0, Counted(FED, 8, b"gggg"))

    def offer(self) -> bool:
        """As `Member` does; whether it waits."""
        self.contributions.offer(BASE, Offer(0, 8, 8, NumpyReducer(SIZE), 1.0))
        waits = self.stages.holds_back(0)
        if not waits:
            self.tell(0.0, 0)
        return waits

    def offered(self) -> int:
        return sum(isinstance(message, Ready) for _, message in self.node.said)


def test_an_offer_is_told_once_its_gradients_were_acknowledged() -> None:
    here = LastStage()
    here.count_one()
    assert here.offer()
    here.contributions.send_all_offers(0.0)
    assert not here.offered(), "also when it enters again"
    here.stages.streaming.take_control(0.0, OTHER, GradientHeard(FEEDER, MINE, FEEDER, 0))
    assert here.offered() == 1
    assert here.contributions.offered[0].may_be_withdrawn


def test_an_offer_waits_for_nobody_whose_membership_is_over() -> None:
    here = LastStage()
    here.count_one()
    assert here.offer()
    here.hear(ReplicaGone(9, OTHER))
    assert here.offered() == 1


def test_what_a_membership_that_is_over_counted_and_nobody_acknowledged_is_offered_no_more() -> None:
    here = LastStage()
    here.count_one()
    assert here.offer()
    here.stand(11, confirms=False)
    assert not here.offered()
    ends = [each for each in here.node.events if isinstance(each, ContributionEnded)]
    assert [each.fate for each in ends] == [Fate.SUPERSEDED]
    assert StreamOpened(11, void=True) in here.node.events
    assert not here.stages.may_offer, "the training thread has not dropped it yet"
    here.stages.do(0.0, ConfirmOpened(11))
    assert here.stages.may_offer


def test_a_new_membership_voids_nothing_that_was_acknowledged() -> None:
    here = LastStage()
    here.count_one()
    here.stages.streaming.take_control(0.0, OTHER, GradientHeard(FEEDER, MINE, FEEDER, 0))
    here.stand(11)
    assert StreamOpened(11, void=False) in here.node.events


def test_who_leaves_says_so_again_to_a_host_that_came_back() -> None:
    here = LastStage()
    here.stages.do(0.0, Drain())
    here.stand(MINE)
    assert [message for _, message in here.node.said if isinstance(message, Draining)] == [Draining(MINE)] * 2


def test_neighbours_are_known_as_long_as_their_membership_stands() -> None:
    here = LastStage()
    assert here.stages.neighbours[OTHER].addresses == ("tcp://o:1",)
    here.hear(ReplicaIs(0, OTHER, FEEDER, 0, 0, (), 0.0, False, True))
    assert here.stages.neighbours[OTHER].addresses == ("tcp://o:1",), "a host that restarted does not know"
    here.hear(ReplicaIs(12, THIRD, 12, 1, 1, (), 0.0, False, True))
    assert THIRD not in here.stages.neighbours, "one of the same stage is another affair"
    assert here.stages.partners() == {OTHER}
    here.hear(ReplicaGone(13, OTHER))
    assert not here.stages.neighbours
