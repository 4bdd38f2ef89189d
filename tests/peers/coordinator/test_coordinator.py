"""The coordinator by itself: when it opens, what it commits, whom it leaves out, and what survives it."""

from __future__ import annotations

from typing import Any

import pytest

from peers.coordinator.coordinator import Coordinator
from peers.coordinator.rules import Rules
from peers.protocol.messages import (
    PROTOCOL,
    Abort,
    Applied,
    CatchUp,
    CaughtUp,
    Committed,
    Done,
    Enter,
    Finished,
    Leave,
    MemberActive,
    Open,
    Pace,
    Ready,
    Refused,
    Rejected,
    Report,
    RosterBatch,
    Seed,
    Stuck,
    Wanted,
)
from peers.protocol.record import GENESIS, Record
from peers.protocol.roster_feed import messages_in
from transport.frames import unpack
from transport.limits import LIMITS

SETTINGS = b"s" * 32
ROOT = b"0" * 32
RESULT = b"r" * 32


def key(index: int) -> bytes:
    return bytes([index]) * 32


class Swarm:
    """A coordinator, and what it says to imagined members."""

    def __init__(self, journal: list[bytes] | None = None, **rules: Any) -> None:
        self.said: list[tuple[bytes, Any]] = []
        self.journal = journal if journal is not None else []
        self.silent: dict[bytes, float] = {}
        self.now = 0.0
        self.core = Coordinator(key(255), Rules(SETTINGS, **rules), LIMITS, self)
        self.core.restore([unpack(entry) for entry in self.journal])
        self.core.start(0.0)

    # Outlet

    def send(self, now: float, peer: bytes, message: Any) -> None:
        self.said.append((peer, message))

    def forget(self, peer: bytes, reason: str) -> None: ...

    def store(self, entry: bytes) -> None:
        self.journal.append(entry)

    def trace(self, name: str, **fields: Any) -> None: ...

    def last_heard(self, now: float, peer: bytes) -> float:
        return self.silent.get(peer, now)

    # members

    def hear(self, index: int, message: Any) -> None:
        self.core.receive(self.now, key(index), message)

    def enter(self, index: int, addresses: tuple[str, ...] = ("tcp://a:1",), **changes: Any) -> None:
        self.core.certify(key(index), f"w{index}")
        fields = {
            "protocol": PROTOCOL,
            "name": f"w{index}",
            "addresses": addresses,
            "stage": 0,
            "head": GENESIS,
            "holds_state": False,
            "settings": SETTINGS,
            "tensors": SETTINGS,
            "shapes": SETTINGS,
            "codec": "fp32",
            "elements": (100,),
            "model": "a model",
        }
        self.hear(index, Enter(**{**fields, **changes}))

    def hold(self, index: int, version: bytes = ROOT, digest: bytes = b"d" * 32) -> None:
        self.hear(index, Applied(0, version, digest))
        self.hear(index, CaughtUp(version))

    def ready(self, index: int, tokens: int = 8, norm: float = 1.0, fragment: int = 0) -> None:
        self.hear(index, Ready(fragment, self.core.state.courses[0].chain.base(0), tokens, tokens, 1, norm))

    def told(self, index: int, kind: type) -> list[Any]:
        return [message for peer, message in self.said if peer == key(index) and type(message) is kind]

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick(self.now)


def trained(num_members: int, **rules: Any) -> Swarm:
    """Members 1 to n, active at the run's first state."""
    swarm = Swarm(**rules)
    for index in range(1, num_members + 1):
        swarm.enter(index)
        swarm.hold(index)
    return swarm


def opened(swarm: Swarm, *indexes: int) -> Open:
    for index in indexes:
        swarm.ready(index)
    found = swarm.told(indexes[0], Open)[-1]
    assert isinstance(found, Open)
    return found


def test_the_first_member_seeds_and_the_next_ones_fetch_from_it() -> None:
    swarm = Swarm()
    swarm.enter(1)
    swarm.enter(2)
    assert len(swarm.told(1, Seed)) == 1
    assert not swarm.told(2, Seed)
    assert not swarm.told(2, CatchUp), "nobody holds the state yet"
    swarm.hold(1)
    assert swarm.told(2, CatchUp)[0].donors == (key(1),)


def test_one_that_has_not_caught_up_is_never_a_donor() -> None:
    swarm = Swarm()
    swarm.enter(1)
    swarm.hold(1)
    swarm.enter(2)
    swarm.hear(2, Applied(0, ROOT, b"d" * 32))
    swarm.enter(3)
    assert swarm.told(3, CatchUp)[0].donors == (key(1),)


def test_a_round_opens_with_everyone_or_after_the_grace() -> None:
    swarm = trained(3, grace_s=10.0)
    swarm.ready(1)
    swarm.ready(2)
    assert not swarm.told(1, Open)
    swarm.later(9.0)
    assert not swarm.told(1, Open)
    swarm.later(2.0)
    assert swarm.told(1, Open)[0].founders == (key(1), key(2))
    assert not swarm.told(3, Open)


def test_fewer_than_the_minimum_never_open_a_round() -> None:
    swarm = trained(1, min_peers=2)
    swarm.ready(1)
    swarm.later(1000.0)
    assert not swarm.told(1, Open)


def test_weights_are_tokens_and_nothing_trained_is_no_offer() -> None:
    swarm = trained(3, grace_s=1.0)
    swarm.ready(1, tokens=30)
    swarm.ready(2, tokens=10)
    swarm.ready(3, tokens=0)
    swarm.later(2.0)
    assert swarm.told(1, Open)[0].weights == (30.0, 10.0)


def test_it_commits_only_what_every_live_member_holds_and_journals_it_first() -> None:
    swarm = trained(2)
    serial = opened(swarm, 1, 2).serial
    swarm.hear(1, Done(serial, 0, RESULT))
    assert not swarm.told(1, Committed)
    stored = len(swarm.journal)
    swarm.hear(2, Done(serial, 0, RESULT))
    assert len(swarm.journal) == stored + 1
    record = unpack(swarm.told(1, Committed)[0].record)
    assert isinstance(record, Record)
    assert (record.parent, record.members, record.result) == (ROOT, (key(1), key(2)), RESULT)


def test_a_member_that_goes_silent_is_left_out_and_the_others_go_on() -> None:
    swarm = trained(3, failure_timeout_s=2.0)
    serial = opened(swarm, 1, 2, 3).serial
    swarm.hear(1, Done(serial, 0, RESULT))
    swarm.silent[key(3)] = 0.0
    swarm.later(2.5)
    again = swarm.told(1, Open)[-1]
    assert (again.serial, again.attempt, again.lost) == (serial, 1, (2,))
    swarm.hear(1, Done(serial, 0, RESULT))  # of the attempt before: void
    swarm.hear(2, Done(serial, 1, RESULT))
    assert not swarm.told(1, Committed)
    swarm.hear(1, Done(serial, 1, RESULT))
    record = unpack(swarm.told(1, Committed)[0].record)
    assert record.members == (key(1), key(2))


def test_a_result_that_all_survivors_hold_stands_with_the_one_that_left() -> None:
    swarm = trained(3)
    serial = opened(swarm, 1, 2, 3).serial
    for index in (1, 2):
        swarm.hear(index, Done(serial, 0, RESULT))
    swarm.hear(3, Leave("done"))
    record = unpack(swarm.told(1, Committed)[0].record)
    assert record.members == (key(1), key(2), key(3))


def finished_run(num_members: int, **rules: Any) -> tuple[Swarm, bytes]:
    """Its only round is committed, and nobody has said yet that it holds the result."""
    swarm = trained(num_members, rounds=1, **rules)
    indexes = range(1, num_members + 1)
    serial = opened(swarm, *indexes).serial
    for index in indexes:
        swarm.hear(index, Done(serial, 0, RESULT))
    return swarm, swarm.core.state.courses[0].chain.head


def test_the_end_of_a_run_is_told_once_all_hold_the_last_result() -> None:
    swarm, head = finished_run(2)
    swarm.hold(1, head)
    assert not swarm.told(1, Finished), "it would leave, and the other has nobody to fetch from"
    assert not swarm.core.over(swarm.now)
    swarm.hold(2, head)
    assert [len(swarm.told(index, Finished)) for index in (1, 2)] == [1, 1]
    assert swarm.core.over(swarm.now)


def test_a_host_that_died_at_the_end_waits_for_members_to_come_back_and_hear_of_it() -> None:
    before, head = finished_run(1, min_peers=1)
    after = Swarm(before.journal, rounds=1, min_peers=1, failure_timeout_s=2.0)
    assert not after.core.over(3.9)
    after.enter(1, head=head, holds_state=True)
    assert after.told(1, Finished)
    assert after.core.over(4.1)


def test_the_end_of_a_run_waits_for_nobody_without_bound() -> None:
    swarm, head = finished_run(2, grace_s=3.0, failure_timeout_s=2.0)
    swarm.hold(1, head)
    swarm.later(6.0)
    assert not swarm.told(1, Finished)
    swarm.later(2.0)
    assert swarm.told(1, Finished)
    assert swarm.told(2, Finished)


def test_a_newcomer_to_a_finished_run_is_told_at_once() -> None:
    swarm, _ = finished_run(2)
    swarm.enter(3)
    assert swarm.told(3, Finished)
    assert not swarm.told(1, Finished)


def test_below_the_minimum_a_round_is_given_up_and_offers_stand() -> None:
    swarm = trained(2)
    opened(swarm, 1, 2)
    swarm.hear(2, Leave("done"))
    assert swarm.told(1, Abort)[0].again


def test_whoever_differs_from_most_is_set_aside() -> None:
    swarm = trained(3)
    serial = opened(swarm, 1, 2, 3).serial
    for index, digest in ((1, RESULT), (2, b"x" * 32), (3, RESULT)):
        swarm.hear(index, Done(serial, 0, digest))
    assert not swarm.told(2, Abort)[0].again
    assert unpack(swarm.told(1, Committed)[0].record).result == RESULT


def test_a_split_without_a_majority_is_done_again_by_all() -> None:
    swarm = trained(2)
    serial = opened(swarm, 1, 2).serial
    swarm.hear(1, Done(serial, 0, RESULT))
    swarm.hear(2, Done(serial, 0, b"x" * 32))
    again = swarm.told(1, Open)[-1]
    assert (again.attempt, again.lost) == (1, ())
    assert not swarm.told(1, Committed)


def test_of_two_that_do_not_reach_each_other_one_sits_out() -> None:
    swarm = trained(4, failure_timeout_s=2.0)
    serial = opened(swarm, 1, 2, 3, 4).serial
    swarm.hear(2, Stuck(serial, 0, (key(4),), ""))
    swarm.hear(4, Stuck(serial, 0, (key(2),), ""))
    swarm.later(1.0)
    assert swarm.told(4, Abort), "the one that came last"
    assert swarm.told(1, Open)[-1].lost == (3,)


def test_an_outlier_is_rejected_with_the_reason() -> None:
    swarm = trained(3)
    swarm.ready(1)
    swarm.ready(2, norm=1.2)
    swarm.ready(3, norm=1e6)
    assert "far above" in swarm.told(3, Rejected)[0].reason


def test_a_contribution_on_another_base_is_not_taken() -> None:
    swarm = trained(2)
    swarm.ready(1)
    swarm.hear(2, Ready(0, b"?" * 32, 8, 8, 1, 1.0))
    assert not swarm.told(1, Open)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"settings": b"x" * 32}, "settings"),
        ({"tensors": b"x" * 32}, "tensors"),
        ({"shapes": b"x" * 32}, "shapes"),
        ({"codec": "int8"}, "codec"),
        ({"elements": (50, 50)}, "fragments"),
        ({"protocol": PROTOCOL + 1}, "protocol"),
    ],
)
def test_whoever_differs_learns_what_differs(changes: dict[str, Any], code: str) -> None:
    swarm = trained(1)
    swarm.enter(2, **changes)
    assert swarm.told(2, Refused)[0].code == code
    assert len(swarm.core.roster.entered()) == 1


def test_a_second_member_that_accepts_no_connections_is_refused() -> None:
    swarm = Swarm()
    swarm.enter(1, addresses=())
    swarm.enter(2, addresses=())
    assert swarm.told(2, Refused)[0].code == "unreachable"


def test_a_restarted_coordinator_goes_on_where_it_was() -> None:
    swarm = trained(2)
    serial = opened(swarm, 1, 2).serial
    for index in (1, 2):
        swarm.hear(index, Done(serial, 0, RESULT))
    again = Swarm(journal=swarm.journal)
    assert again.core.state.courses[0].chain.head == swarm.core.state.courses[0].chain.head
    assert again.core.state.term == swarm.core.state.term + 1
    again.enter(1, head=ROOT, holds_state=True)
    assert unpack(again.told(1, Committed)[0].record).result == RESULT
    assert again.core.state.next_serial() > serial


def test_a_member_with_another_digest_than_most_is_repaired() -> None:
    swarm = trained(3)
    serial = opened(swarm, 1, 2, 3).serial
    for index in (1, 2, 3):
        swarm.hear(index, Done(serial, 0, RESULT))
    head = swarm.core.state.courses[0].chain.head
    for index, digest in ((1, b"a" * 32), (2, b"a" * 32), (3, b"b" * 32)):
        swarm.hear(index, Applied(0, head, digest))
    order = swarm.told(3, CatchUp)[-1]
    assert (order.state, order.donors) == (b"a" * 32, (key(1), key(2)))


def speed(tokens_per_second: float, rounds: int = 0) -> Report:
    return Report(1, rounds, 8, 1.0, 0.0, tokens_per_second, 0, 0)


def test_with_a_quorum_a_round_waits_for_no_more_than_that() -> None:
    swarm = Swarm(quorum=1, min_peers=2, grace_s=0.0)
    for index in range(3):
        swarm.enter(index)
    swarm.hold(0)
    for index in (1, 2):
        swarm.hold(index)
    swarm.ready(1)
    (opened,) = swarm.told(1, Open)
    assert opened.founders == (key(1),)
    assert not swarm.told(2, Open)


def test_a_quorum_does_not_let_one_train_alone_unnoticed() -> None:
    swarm = Swarm(quorum=1, min_peers=2, grace_s=0.0)
    swarm.enter(0)
    swarm.hold(0)
    swarm.ready(0)
    assert not swarm.told(0, Open)


def test_members_that_wait_for_each_other_in_a_circle_are_asked_for_what_has_waited_longest() -> None:
    swarm = Swarm(min_peers=2)
    for index in range(2):
        swarm.enter(index, elements=(100, 100))
    for index in range(2):
        for fragment in range(2):
            swarm.hear(index, Applied(fragment, ROOT, b"d" * 32))
        swarm.hear(index, CaughtUp(ROOT))
    swarm.ready(0, fragment=1)
    swarm.later(1.0)
    assert not swarm.told(1, Wanted)  # it may still be on its way there
    swarm.ready(1, fragment=0)
    swarm.later(0.1)
    assert (swarm.told(0, Wanted), swarm.told(1, Wanted)) == ([], [Wanted(1)])
    swarm.later(0.1)
    assert (swarm.told(0, Wanted), swarm.told(1, Wanted)) == ([Wanted(0)], [Wanted(1)])
    swarm.later(0.1)
    assert len(swarm.told(0, Wanted) + swarm.told(1, Wanted)) == 2  # each is asked once
    swarm.ready(1, fragment=1)
    assert swarm.told(0, Open)


def test_slow_members_are_told_how_fast_the_fastest_is_when_that_changes() -> None:
    swarm = Swarm(paces=True)
    for index in range(2):
        swarm.enter(index)
    swarm.hear(0, speed(100.0))
    swarm.hear(1, speed(20.0))
    swarm.hear(1, speed(21.0))
    assert [told.fastest for told in swarm.told(1, Pace)] == [100.0]
    swarm.hear(0, speed(200.0))
    swarm.hear(1, speed(20.0))
    assert [told.fastest for told in swarm.told(1, Pace)] == [100.0, 200.0]


def test_gossip_opens_no_rounds_introduces_members_and_ends_when_all_have_taken_their_steps() -> None:
    swarm = Swarm(gossips=True, rounds=5)
    for index in range(2):
        swarm.enter(index)
    for index in range(2):
        swarm.hold(index, digest=bytes([index]) * 32)
        swarm.ready(index)
    assert not swarm.told(0, Open)
    for index in range(2):
        news = [each for told in swarm.told(index, RosterBatch) for each in messages_in(told.batch)]
        assert {each.key for each in news if isinstance(each, MemberActive)} == {key(0), key(1)}
    swarm.hear(0, speed(1.0, rounds=5))
    assert not swarm.told(0, Finished)
    swarm.hear(1, speed(1.0, rounds=5))
    assert swarm.told(0, Finished)
    assert swarm.core.finished


def test_a_gossip_joiner_copies_one_member_as_it_is_now() -> None:
    swarm = Swarm(gossips=True)
    for index in range(2):
        swarm.enter(index)
        swarm.hold(index, digest=bytes([index]) * 32)
    swarm.enter(2)
    (order,) = swarm.told(2, CatchUp)
    assert len(order.donors) == 1
    donor = 0 if order.donors[0] == key(0) else 1
    assert order.state == bytes([donor]) * 32
