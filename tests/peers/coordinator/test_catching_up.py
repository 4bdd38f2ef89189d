"""Who falls behind again and again is waited for while it gets the state, for a bounded part of the time."""

from __future__ import annotations

from peers.coordinator.catching_up import SHARE, TIMES, next_end
from peers.coordinator.waiting import awaited_members, waits_for
from peers.protocol.messages import CatchUp, Done, NeedState, Open
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, key, trained

GRACE_S = 4.0


def alone_and_fast(**rules: int) -> Swarm:
    """One member of two commits whenever it likes; the other needs the state for the first time."""
    swarm = trained(2, min_peers=1, grace_s=GRACE_S, failure_timeout_s=2.0, **rules)
    swarm.hear(2, NeedState("no member has a committed result any more"))
    return swarm


def commits(swarm: Swarm) -> bool:
    """Whether a round of the first member opens as soon as it offers; then it commits."""
    num_before = len(swarm.told(1, Open))
    swarm.ready(1)
    if len(swarm.told(1, Open)) == num_before:
        return False
    swarm.hear(1, Done(swarm.told(1, Open)[-1].serial, 0, RESULT))
    swarm.hold(1, swarm.chain.head)
    return True


def fall_behind(swarm: Swarm) -> None:
    """The second member lacks a result, and is told donors at once."""
    num_before = len(swarm.told(2, CatchUp))
    swarm.hear(2, NeedState("no member has a committed result any more"))
    assert len(swarm.told(2, CatchUp)) == num_before + 1


def test_who_falls_behind_once_is_not_waited_for() -> None:
    assert TIMES == 2
    assert commits(alone_and_fast())


def test_who_falls_behind_again_gets_the_state_while_no_round_opens_and_is_in_the_next_one() -> None:
    swarm = alone_and_fast()
    assert commits(swarm)
    fall_behind(swarm)
    assert not commits(swarm)
    assert "waits for w2, which fell behind again and again" in waits_for(swarm.core.state, swarm.now)
    assert awaited_members(swarm.core.state, swarm.now) == {key(2)}
    swarm.hold(2, swarm.chain.head)
    assert swarm.core.roster.entries[key(2)].active
    assert "the next round waits for w2, for 4 s" in waits_for(swarm.core.state, swarm.now)
    swarm.ready(2)
    assert swarm.told(1, Open)[-1].founders == (key(1), key(2))


def test_who_does_not_come_is_waited_for_for_the_grace_and_not_again_for_eight_times_as_long() -> None:
    swarm = alone_and_fast()
    fall_behind(swarm)
    assert not commits(swarm)
    assert next_end(swarm.core.state, swarm.now) == GRACE_S
    swarm.later(GRACE_S)
    assert swarm.told(1, Open), "the wait is over by itself"
    swarm.hear(1, Done(swarm.told(1, Open)[-1].serial, 0, RESULT))
    swarm.hold(1, swarm.chain.head)
    for _ in range(3):
        fall_behind(swarm)
        assert commits(swarm)
    swarm.later(SHARE * GRACE_S)
    fall_behind(swarm)
    assert not commits(swarm)


def test_who_has_been_behind_for_long_has_an_eighth_of_that_time() -> None:
    swarm = alone_and_fast()
    swarm.later(80 * GRACE_S)
    assert commits(swarm)
    fall_behind(swarm)
    assert next_end(swarm.core.state, swarm.now) == swarm.now + 10 * GRACE_S


def test_who_was_in_a_commit_since_begins_anew() -> None:
    swarm = alone_and_fast()
    swarm.hold(2, swarm.chain.head)
    for index in (1, 2):
        swarm.ready(index)
    serial = swarm.told(1, Open)[-1].serial
    for index in (1, 2):
        swarm.hear(index, Done(serial, 0, RESULT))
    for index in (1, 2):
        swarm.hold(index, swarm.chain.head)
    fall_behind(swarm)
    assert commits(swarm)


def test_nobody_is_waited_for_who_gives_no_sign_of_life_or_is_gone() -> None:
    swarm = alone_and_fast()
    fall_behind(swarm)
    swarm.core.roster.entries[key(2)].is_silent = True
    assert commits(swarm)


def test_with_a_quorum_rounds_wait_for_nobody() -> None:
    swarm = alone_and_fast(quorum=1)
    fall_behind(swarm)
    swarm.ready(1)
    swarm.later(GRACE_S / 2)
    assert next_end(swarm.core.state, swarm.now) == float("inf")
