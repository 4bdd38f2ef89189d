"""`coordinator.last_round`: after the last round of parameters one of buffers, for which nobody is needed."""

from __future__ import annotations

from peers.coordinator.last_round import ELEMENT_BYTES
from peers.protocol.messages import Abort, Committed, Done, Finished, Open, Ready, Wanted
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, key
from transport.limits import LIMITS

BUFFERS = 1


def commit(swarm: Swarm, *indexes: int) -> None:
    """Those who are in the newest round hold its result."""
    found = swarm.told(indexes[0], Open)[-1]
    for index in indexes:
        swarm.hear(index, Done(found.serial, found.attempt, RESULT))
    for index in indexes:
        swarm.hold(index, swarm.chain.head)


def ready(swarm: Swarm, index: int, fragment: int = 0) -> None:
    swarm.hear(index, Ready(fragment, swarm.chain.base(fragment), 8, 8, 1, 1.0))


def swarm_of(num_members: int, elements: tuple[int, ...] = (100, 5), **rules: object) -> Swarm:
    found = Swarm(**{"rounds": 1, "buffers_fragment": BUFFERS, "min_peers": 2, **rules})
    for index in range(1, num_members + 1):
        found.enter(index, elements=elements)
        found.hold(index)
    return found


def at_the_end(num_members: int = 2, **rules: object) -> Swarm:
    """Its only round of parameters is over."""
    swarm = swarm_of(num_members, **rules)
    members = range(1, num_members + 1)
    for index in members:
        ready(swarm, index)
    commit(swarm, *members)
    return swarm


def test_buffers_are_asked_for_after_the_last_round_and_then_the_run_is_over() -> None:
    swarm = swarm_of(2)
    ready(swarm, 1, BUFFERS)
    ready(swarm, 2, BUFFERS)
    assert not swarm.told(1, Open), "not before"
    ready(swarm, 1)
    ready(swarm, 2)
    assert not swarm.told(1, Wanted)
    commit(swarm, 1, 2)
    assert not swarm.core.finished
    assert swarm.told(1, Open)[-1].fragment == BUFFERS, "they were offered already"
    commit(swarm, 1, 2)
    assert swarm.core.finished
    assert swarm.told(1, Finished) == swarm.told(2, Finished) == [Finished(1)]


def test_each_is_asked_once_and_again_when_it_has_entered_anew() -> None:
    swarm = at_the_end()
    swarm.later(1.0)
    assert [len(swarm.told(index, Wanted)) for index in (1, 2)] == [1, 1]
    swarm.core.session_began(swarm.now, key(2))
    swarm.enter(2, elements=(100, 5), head=swarm.chain.head, holds_state=True)
    swarm.hold(2, swarm.chain.head)
    assert [len(swarm.told(index, Wanted)) for index in (1, 2)] == [1, 2]


def test_no_round_of_parameters_opens_any_more_and_one_that_is_open_is_given_up() -> None:
    swarm = at_the_end()
    ready(swarm, 1)
    ready(swarm, 2)
    assert len(swarm.told(1, Open)) == 1
    two = swarm_of(2, elements=(100, 100, 5), buffers_fragment=2)
    for fragment in (0, 1):
        for index in (1, 2):
            ready(two, index, fragment)
    first = two.told(1, Open)[0]
    for index in (1, 2):
        two.hear(index, Done(first.serial, first.attempt, RESULT))
    assert [each.reason for each in two.told(1, Abort)] == ["the run has all its rounds"]


def test_one_that_is_left_ends_the_run_by_itself() -> None:
    swarm = at_the_end()
    swarm.core.remove(swarm.now, swarm.core.roster.entries[key(2)], "gone", forget=True)
    assert "too few" not in swarm.core.status(swarm.now).waits
    ready(swarm, 1, BUFFERS)
    commit(swarm, 1)
    assert swarm.core.finished


def test_who_does_not_offer_is_waited_for_as_long_as_in_any_round() -> None:
    swarm = at_the_end(grace_s=10.0)
    ready(swarm, 1, BUFFERS)
    assert len(swarm.told(1, Open)) == 1
    swarm.later(11.0)
    assert swarm.told(1, Open)[-1].founders == (key(1),)


def test_a_run_whose_members_are_all_gone_waits_for_one_with_its_state() -> None:
    swarm = at_the_end()
    for index in (1, 2):
        swarm.core.remove(swarm.now, swarm.core.roster.entries[key(index)], "gone", forget=True)
    assert not swarm.core.finished
    assert "whose buffers could be averaged: start w1, w2" in swarm.core.status(swarm.now).waits
    again = Swarm(swarm.journal, rounds=1, buffers_fragment=BUFFERS, min_peers=2)
    assert not again.core.finished, "its journal says the same"


def test_what_the_owner_stops_ends_with_the_buffers_of_who_is_here_or_without() -> None:
    swarm = at_the_end(rounds=5)
    swarm.core.stop(swarm.now)
    assert [len(swarm.told(index, Wanted)) for index in (1, 2)] == [1, 1]
    assert not swarm.core.finished
    for index in (1, 2):
        swarm.core.remove(swarm.now, swarm.core.roster.entries[key(index)], "gone", forget=True)
    swarm.later(1.0)
    assert swarm.core.finished
    fresh = swarm_of(2, rounds=5)
    fresh.core.stop(0.0)
    assert fresh.core.finished, "nothing was trained yet"


def test_a_restarted_host_knows_that_buffers_were_averaged_and_of_a_longer_run_that_they_are_not() -> None:
    swarm = at_the_end()
    for index in (1, 2):
        ready(swarm, index, BUFFERS)
    commit(swarm, 1, 2)
    assert [type(each) for _, each in swarm.said].count(Committed) == 4
    assert Swarm(swarm.journal, rounds=1, buffers_fragment=BUFFERS, min_peers=2).core.finished
    longer = Swarm(swarm.journal, rounds=2, buffers_fragment=BUFFERS, min_peers=2)
    assert (longer.core.finished, longer.core.state.num_rounds) == (False, 1)


def test_a_model_without_buffers_ends_with_its_last_round() -> None:
    swarm = swarm_of(2, elements=(100,))
    ready(swarm, 1)
    ready(swarm, 2)
    commit(swarm, 1, 2)
    assert swarm.core.finished
    assert not swarm.told(1, Wanted)


def test_chunks_of_buffers_fit_a_frame_whatever_the_format_of_parameters() -> None:
    most = LIMITS.payload_bytes
    swarm = swarm_of(2, elements=(100, 8 * most), element_bytes=0.5)
    for index in (1, 2):
        ready(swarm, index)
    commit(swarm, 1, 2)
    for index in (1, 2):
        ready(swarm, index, BUFFERS)
    assert swarm.told(1, Open)[-1].chunk_elements * ELEMENT_BYTES <= most


def test_a_restarted_host_waits_for_who_was_in_the_last_round_but_not_for_ever() -> None:
    swarm = at_the_end()
    rules = {"rounds": 1, "buffers_fragment": BUFFERS, "min_peers": 2, "grace_s": 5.0}
    for comes_back in (True, False):
        again = Swarm([*swarm.journal], **rules)
        head = again.chain.head
        again.greet(1, elements=(100, 5), head=head, holds_state=True)
        again.hold(1, head)
        assert len(again.told(1, Wanted)) == 1
        ready(again, 1, BUFFERS)
        again.later(1.0)
        assert not again.told(1, Open), "the other one is on its way"
        if comes_back:
            again.greet(2, elements=(100, 5), head=head, holds_state=True)
            again.hold(2, head)
            ready(again, 2, BUFFERS)
        else:
            again.later(1000.0)
        assert len(again.told(1, Open)[-1].founders) == 1 + comes_back
