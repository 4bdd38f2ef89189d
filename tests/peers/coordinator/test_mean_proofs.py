"""Of which means owners are asked to show of what they are made, and what follows."""

from __future__ import annotations

import pytest

from peers.admission.identity import verify
from peers.coordinator.journal import PeerKicked
from peers.coordinator.judgement import Court, Verdict
from peers.coordinator.mean_proofs import ANSWER_S
from peers.protocol.evidence import ProveMean, ShownDigests, ShownMean, ShownPart
from peers.protocol.messages import Committed, Done, Leave, Open, Ready
from peers.protocol.traces import ProvedWrongTrace
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, key
from tests.peers.coordinator.test_judgement import RUN, FiniteJudge
from transport.frames import unpack
from transport.limits import LIMITS

OWNER = 1
"""Of the only chunk."""


def distrusting(court: Court | None = None, me: int = 0) -> Swarm:
    """A run of four in which the owner is distrusted again and again."""
    swarm = Swarm(court=court or Court(RUN, verify, FiniteJudge()))
    for index in (1, 2, 3, 4):
        swarm.enter(index)
        swarm.hold(index)
    if me:
        swarm.core.state.me = key(me)
    return swarm


def commit(swarm: Swarm, distrusted: int = OWNER) -> list[ProveMean]:
    """One more round; what is asked of its owner."""
    swarm.said.clear()
    if distrusted:
        swarm.core.state.courses[0].suspicion.distrust(key(distrusted), swarm.chain.index)
    number = swarm.chain.index + 1
    for index in (1, 2, 3, 4):
        swarm.hear(index, Ready(0, swarm.chain.head, 8, 8, number, 1.0))
    opened = swarm.told(1, Open)[-1]
    for index in (1, 2, 3, 4):
        swarm.hear(index, Done(opened.serial, opened.attempt, RESULT))
    assert swarm.told(1, Committed)
    for index in (2, 3, 4):
        assert not swarm.told(index, ProveMean)
    return swarm.told(OWNER, ProveMean)


def asked(swarm: Swarm, rounds: int = 60) -> ProveMean:
    """The first question."""
    return next(found[0] for _ in range(rounds) if (found := commit(swarm)))


def answer(swarm: Swarm, serial: int, member: int = OWNER) -> None:
    about = 100, (), bytes(64)
    for author in (1, 2, 3, 4):
        swarm.core.take_evidence(swarm.now, key(member), ShownPart(serial, key(author), *about), b"part")
    for message in (ShownMean(serial), ShownDigests(serial)):
        swarm.core.take_evidence(swarm.now, key(member), message, b"")


def put_out(swarm: Swarm) -> list[bytes]:
    return [each.key for each in map(unpack, swarm.journal) if isinstance(each, PeerKicked)]


class Says(Court):
    """It comes to what a test says."""

    def __init__(self, guilty: bool) -> None:
        super().__init__(RUN, verify, FiniteJudge())
        self.guilty = guilty
        self.asked = 0

    def of_mean(self, case: object) -> Verdict | None:
        self.asked += 1
        return Verdict(key(OWNER), "it is wrong") if self.guilty else None


def test_a_distrusted_owner_is_asked_in_a_quarter_of_its_rounds_and_before_the_record_is_told() -> None:
    swarm, questions = distrusting(Says(guilty=False)), 0
    for _ in range(80):
        found = commit(swarm)
        questions += len(found)
        if found:
            kinds = [type(message) for peer, message in swarm.said if peer == key(OWNER)]
            assert kinds.index(ProveMean) < kinds.index(Committed)
            answer(swarm, found[0].serial)
    assert 8 < questions < 36


@pytest.mark.parametrize("distrusted", [0, 2])
def test_nobody_is_asked_who_is_trusted_or_owns_nothing(distrusted: int) -> None:
    swarm = distrusting()
    assert not any(commit(swarm, distrusted) for _ in range(40))


def test_a_host_that_cannot_decode_asks_nobody() -> None:
    swarm = distrusting(Court(RUN, verify, None))
    assert not any(commit(swarm) for _ in range(40))


def test_whoever_made_something_else_is_out_for_good_and_whoever_did_not_stays() -> None:
    for guilty in (True, False):
        court = Says(guilty)
        swarm = distrusting(court)
        serial = asked(swarm).serial
        answer(swarm, serial, member=2)
        answer(swarm, serial + 1)
        assert court.asked == 0, "of somebody else, or about something else"
        answer(swarm, serial)
        answer(swarm, serial)
        assert court.asked == 1
        assert put_out(swarm) == [key(OWNER)] * guilty
        assert swarm.core.state.courses[0].mean_case is None


def test_the_hosts_own_worker_is_named_and_not_put_out() -> None:
    swarm = distrusting(Says(guilty=True), me=OWNER)
    answer(swarm, asked(swarm).serial)
    assert put_out(swarm) == []
    assert [trace.peer for trace in swarm.traces if isinstance(trace, ProvedWrongTrace)] == [key(OWNER)]


def test_an_owner_that_shows_nothing_owns_no_chunks_for_a_while() -> None:
    swarm = distrusting()
    asked(swarm)
    suspicion = swarm.core.state.courses[0].suspicion
    for _ in range(5):
        assert not commit(swarm), "one question at a time"
    assert suspicion.idle([key(1), key(2), key(3)], swarm.chain.index) == frozenset()
    swarm.now += ANSWER_S
    commit(swarm)
    assert suspicion.idle([key(1), key(2), key(3)], swarm.chain.index) == frozenset(), "the slowest line"
    swarm.now += 5 * 400 / LIMITS.least_upload
    commit(swarm)
    index = swarm.chain.index
    assert suspicion.idle([key(1), key(2), key(3)], index) == {key(OWNER)}
    assert suspicion.idle([key(1), key(2), key(3)], index + 16) == frozenset()


def test_an_owner_that_is_gone_is_not_waited_for_and_owns_no_chunks_if_it_comes_back() -> None:
    swarm = distrusting()
    asked(swarm)
    swarm.hear(OWNER, Leave("enough"))
    assert swarm.core.state.courses[0].mean_case is None
    suspicion = swarm.core.state.courses[0].suspicion
    assert suspicion.idle([key(1), key(2), key(3)], swarm.chain.index) == {key(OWNER)}
