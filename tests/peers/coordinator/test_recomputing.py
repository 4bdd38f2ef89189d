"""Recomputation: the host computes which state is right, however many hold another one."""

from __future__ import annotations

from typing import Any

import pytest

from peers.coordinator.disputes import UNSERVED
from peers.coordinator.recomputing import COMPUTE_TIMEOUTS, MAX_TRIES
from peers.protocol.events import Computed, RecomputeWanted
from peers.protocol.manifest import layout_name
from peers.protocol.messages import Applied, CatchUp, CaughtUp, Committed, Done, Finished, Leave, Open
from peers.protocol.naming import StateNamed
from peers.protocol.record import Record, record_in
from peers.protocol.traces import DisputedTrace, ParityTrace, RecomputedTrace
from tests.peers.coordinator.coordinator_kit import ROOT, Swarm, key, opened, trained
from tests.peers.member.fakes import check_of
from transport.collectives.fetch import Lack, Piece, Want, index_page
from transport.digests import digest_of, tree_digest
from transport.limits import Limits

RIGHT, WRONG, OTHER = b"r" * 32, b"w" * 32, b"o" * 32
TIMEOUT_S = 10.0
SMALL = Limits(payload_bytes=128, chunk_elements=25)
TEXT = b"0 a.weight 10x10 float32\n" * 4
STATE = bytes(range(250)) * 2
CHUNKS = [bytes([i]) * 30 for i in range(4)]


def pieces_of(data: bytes) -> list[bytes]:
    return [data[i : i + 128] for i in range(0, len(data), 128)]


def name_of(pieces: list[bytes]) -> bytes:
    return tree_digest(list(map(digest_of, pieces)))


HELD = {name_of(pieces): pieces for pieces in (pieces_of(TEXT), pieces_of(STATE), CHUNKS)}
FORMER, RESULT = name_of(pieces_of(STATE)), name_of(CHUNKS)


class Host(Swarm):
    """A host that can compute, and members of which each serves what it ``holds``."""

    def __init__(self, **rules: Any) -> None:
        super().__init__(limits=SMALL, failure_timeout_s=TIMEOUT_S, **rules)
        self.core.state.recompute_bytes = 10_000
        self.holds: dict[int, dict[bytes, list[bytes]]] = {}
        self.answered = 0

    def answer(self) -> None:
        """Everyone answers what it was asked for."""
        while self.answered < len(self.said):
            peer, want = self.said[self.answered]
            self.answered += 1
            if isinstance(want, Want) and peer[0] in self.holds:
                self._hand_out(peer, want)
        if self.core.recomputer.has_news:
            assert self.core.deadline() <= self.now
            self.later(0.0)

    def _hand_out(self, peer: bytes, want: Want) -> None:
        pieces = self.holds[peer[0]].get(want.blob)
        if pieces is None:
            self.hear(peer[0], Lack(want.blob))
            return
        digests = list(map(digest_of, pieces))
        payload = index_page(digests, want.piece, SMALL) if want.index else pieces[want.piece]
        message = Piece(want.blob, want.piece, want.index)
        assert self.core.recomputer.takes(peer, message)
        self.core.recomputer.take_piece(self.now, peer, message, payload)

    def asked(self, index: int) -> int:
        return len(self.told(index, Want))

    def compute(self, state: bytes | None, reason: str = "") -> None:
        """The thread is done."""
        (wanted,) = [each for each in self.events if isinstance(each, RecomputeWanted)]
        found = computed_as(state) if state is not None else None
        self.core.recomputer.take_answer(wanted.version, found, reason)
        self.later(0.0)


def computed_as(state: bytes, former: bytes = FORMER) -> Computed:
    """What a thread finds that began from the state before and came to that one."""
    return Computed(check_of(former), check_of(state), state)


def committed(*indexes: int, num_holders: int = 9, **rules: Any) -> tuple[Host, Record]:
    """Members have done a round on the state `STATE`, and nobody told its state yet."""
    swarm = Host(**rules)
    for index in indexes:
        swarm.enter(index, shapes=layout_name(TEXT, 128))
        swarm.hold(index, digest=FORMER)
        swarm.holds[index] = HELD if index <= num_holders else {}
    found = opened(swarm, *indexes)
    for index in indexes:
        swarm.hear(index, Done(found.serial, 0, RESULT))
    (message,) = swarm.told(indexes[0], Committed)
    return swarm, record_in(message.record)


def applied(swarm: Swarm, record: Record, **states: bytes) -> None:
    for name, state in states.items():
        swarm.applied(int(name[1:]), record.hash(), state)
        swarm.hear(int(name[1:]), CaughtUp(record.hash()))


def repaired(swarm: Swarm) -> list[bytes]:
    return [trace.peer for trace in swarm.traces if isinstance(trace, ParityTrace)]


def disputes(swarm: Swarm) -> list[str]:
    return [trace.why for trace in swarm.traces if isinstance(trace, DisputedTrace)]


def outcomes(swarm: Swarm) -> list[bool]:
    return [trace.found for trace in swarm.traces if isinstance(trace, RecomputedTrace)]


def test_a_record_names_the_state_that_members_agreed_on_before_it() -> None:
    _, record = committed(1, 2)
    assert record.former == FORMER


def test_what_a_disputed_step_is_computed_from_is_fetched_and_handed_over_once() -> None:
    swarm, record = committed(1, 2)
    applied(swarm, record, w1=RIGHT)
    assert swarm.asked(1) + swarm.asked(2) == 0, "nobody differs"
    applied(swarm, record, w2=WRONG)
    swarm.answer()
    (wanted,) = swarm.events
    assert (wanted.version, wanted.fragment) == (record.hash(), 0)
    assert (wanted.layout, bytes(wanted.former), wanted.result) == (TEXT, STATE, CHUNKS)
    assert (wanted.chunk_elements, wanted.num_parts) == (record.chunk_elements, 2)
    applied(swarm, record, w1=RIGHT, w2=WRONG)
    swarm.answer()
    assert len(swarm.events) == 1


def test_nobody_is_overwritten_and_no_round_opens_before_the_answer() -> None:
    swarm, record = committed(1, 2, 3)
    applied(swarm, record, w1=RIGHT, w2=WRONG, w3=WRONG)
    for index in (1, 2, 3):
        swarm.ready(index)
    for _ in range(2):
        swarm.answer()
        assert "the host computes" in swarm.core.status(swarm.now).waits
        assert repaired(swarm) == []
        assert [message for message in swarm.told(1, Open) if message.base == record.hash()] == []
    assert disputes(swarm) == []


def test_one_that_holds_what_was_computed_stands_against_any_number() -> None:
    swarm, record = committed(1, 2, 3, 4)
    applied(swarm, record, w1=RIGHT, w2=WRONG, w3=WRONG, w4=WRONG)
    swarm.answer()
    swarm.compute(RIGHT)
    assert sorted(repaired(swarm)) == sorted(map(key, (2, 3, 4)))
    assert (outcomes(swarm), disputes(swarm)) == ([True], [])
    for index in (2, 3, 4):
        assert swarm.told(index, CatchUp)[-1].state == RIGHT
        assert swarm.told(index, CatchUp)[-1].donors == (key(1),)


def test_in_a_tie_the_run_goes_on_with_who_is_right() -> None:
    swarm, record = committed(1, 2)
    applied(swarm, record, w1=RIGHT, w2=WRONG)
    swarm.answer()
    swarm.compute(RIGHT)
    assert repaired(swarm) == [key(2)]
    applied(swarm, record, w2=RIGHT)
    for index in (1, 2):
        swarm.ready(index)
    assert swarm.told(1, Open)[-1].base == record.hash()


def test_one_honest_donor_among_liars_is_enough() -> None:
    swarm, record = committed(1, 2, 3)
    rubbish = {name: [bytes(len(piece)) for piece in pieces] for name, pieces in HELD.items()}
    swarm.holds |= {2: rubbish, 3: {}}
    applied(swarm, record, w1=RIGHT, w2=WRONG, w3=WRONG)
    swarm.answer()
    swarm.compute(RIGHT)
    assert sorted(repaired(swarm)) == [key(2), key(3)]


def test_a_donor_that_holds_its_pieces_back_costs_one_failure_timeout() -> None:
    swarm, record = committed(1, 2)
    del swarm.holds[1]
    applied(swarm, record, w1=RIGHT, w2=WRONG)
    swarm.answer()
    assert swarm.events == []
    swarm.later(TIMEOUT_S)
    swarm.answer()
    assert len(swarm.events) == 1


def test_where_nobody_hands_it_out_most_decide_nothing_and_that_is_said_once() -> None:
    swarm, record = committed(1, 2, 3, num_holders=0)
    applied(swarm, record, w1=RIGHT, w2=WRONG, w3=WRONG)
    for index in (1, 2, 3):
        swarm.ready(index)
    for _ in range(MAX_TRIES + 5):
        swarm.answer()
        swarm.later(100 * TIMEOUT_S)
    assert (repaired(swarm), disputes(swarm)) == ([], [UNSERVED])
    assert [message for message in swarm.told(1, Open) if message.base == record.hash()] == []
    assert UNSERVED in swarm.core.status(swarm.now).waits
    assert "diloco kick" in swarm.core.status(swarm.now).waits
    assert outcomes(swarm) == [False] * MAX_TRIES, "it is asked for so often, and no more"


def test_somebody_who_comes_later_and_has_it_ends_the_wait() -> None:
    swarm, record = committed(1, 2, num_holders=0)
    applied(swarm, record, w1=RIGHT, w2=WRONG)
    for _ in range(MAX_TRIES + 5):
        swarm.answer()
        swarm.later(100 * TIMEOUT_S)
    swarm.enter(3, shapes=layout_name(TEXT, 128), head=record.parent, holds_state=True)
    swarm.holds[3] = HELD
    swarm.answer()
    swarm.compute(RIGHT)
    assert repaired(swarm) == [key(2)]


def test_who_comes_back_is_asked_again_and_one_that_comes_and_goes_for_ever_is_not() -> None:
    swarm, record = committed(1, 2, num_holders=0)
    swarm.enter(3, shapes=layout_name(TEXT, 128), head=record.parent, holds_state=True)
    swarm.holds[3] = {}
    applied(swarm, record, w1=RIGHT, w2=WRONG)
    for _ in range(MAX_TRIES + 5):
        swarm.answer()
        swarm.later(100 * TIMEOUT_S)
    before = swarm.asked(1)
    for _ in range(3 * MAX_TRIES):
        swarm.hear(3, Leave("done"))
        swarm.greet(3, shapes=layout_name(TEXT, 128), head=record.parent, holds_state=True)
        swarm.answer()
        swarm.later(TIMEOUT_S)
    assert before < swarm.asked(1) <= before + 3 * MAX_TRIES, "the three blobs, so often"
    swarm.hear(2, Leave("done"))
    swarm.greet(2, shapes=layout_name(TEXT, 128), head=record.parent, holds_state=True)
    swarm.holds[2] = HELD
    applied(swarm, record, w2=WRONG)
    swarm.answer()
    swarm.compute(RIGHT)
    assert repaired(swarm) == [key(2)]


def test_the_wait_ends_when_who_is_wrong_leaves() -> None:
    swarm, record = committed(1, 2, num_holders=0)
    applied(swarm, record, w1=RIGHT, w2=WRONG)
    swarm.answer()
    swarm.later(TIMEOUT_S)
    swarm.hear(2, Leave("done"))
    swarm.later(TIMEOUT_S)
    assert swarm.core.state.courses[0].disputes == {} or not swarm.core.status(swarm.now).waits.count("hold")
    assert len(outcomes(swarm)) == 1, "there is nothing to compute any more"


@pytest.mark.parametrize("how", ["cannot", "fails", "too large"])
def test_most_decide_where_this_host_cannot_compute(how: str) -> None:
    swarm, record = committed(1, 2, 3)
    if how == "cannot":
        swarm.core.state.recompute_bytes = 0
    elif how == "too large":
        swarm.core.state.recompute_bytes = 3 * 128
    applied(swarm, record, w1=RIGHT, w2=RIGHT, w3=WRONG)
    swarm.answer()
    if how == "fails":
        swarm.compute(None, "MemoryError")
    assert repaired(swarm) == [key(3)]


def test_most_decide_if_nobody_holds_what_was_computed_and_nobody_is_awaited() -> None:
    swarm, record = committed(1, 2, 3, 4)
    applied(swarm, record, w1=RIGHT, w2=RIGHT, w3=WRONG)
    swarm.answer()
    swarm.compute(OTHER)
    assert repaired(swarm) == [], "the fourth may hold it"
    applied(swarm, record, w4=RIGHT)
    assert repaired(swarm) == [key(3)]


def test_most_decide_of_a_state_to_which_no_step_leads() -> None:
    swarm = trained(3)
    swarm.core.state.recompute_bytes = 10_000
    swarm.applied(1, ROOT, WRONG)
    assert repaired(swarm) == [key(1)]
    assert swarm.told(2, Want) == []


def test_who_is_found_wrong_again_and_again_gets_the_state_later_each_time() -> None:
    swarm, record = committed(1, 2)
    waited = []
    for _ in range(4):
        num_orders = len(swarm.told(2, CatchUp))
        applied(swarm, record, w1=RIGHT, w2=WRONG)
        swarm.answer()
        if not outcomes(swarm):
            swarm.compute(RIGHT)
        began = swarm.now
        while len(swarm.told(2, CatchUp)) == num_orders:
            swarm.later(TIMEOUT_S / 4)
        waited.append((swarm.now - began) / TIMEOUT_S)
    assert waited == [0.0, 1.0, 2.0, 4.0]


def test_an_answer_about_another_version_or_a_piece_that_was_not_asked_for_counts_for_nothing() -> None:
    swarm, record = committed(1, 2)
    assert not swarm.core.recomputer.takes(key(1), Piece(FORMER, 0, False))
    applied(swarm, record, w1=RIGHT, w2=WRONG)
    swarm.core.recomputer.take_answer(record.hash(), computed_as(WRONG), "")
    swarm.answer()
    swarm.core.recomputer.take_answer(ROOT, computed_as(WRONG), "")
    swarm.later(0.0)
    assert repaired(swarm) == []
    assert swarm.core.recomputer.takes(key(1), Piece(FORMER, 0, False)), "it may come late"
    assert not swarm.core.recomputer.takes(key(1), Piece(b"x" * 32, 0, False))


def test_what_the_hosts_own_worker_holds_does_not_travel() -> None:
    swarm, record = committed(1, 2)
    swarm.core.recomputer.find_blob = lambda now, blob: (
        list(map(digest_of, HELD[blob])),
        HELD[blob].__getitem__,
    )
    applied(swarm, record, w1=RIGHT, w2=WRONG)
    assert [each for _, each in swarm.said if isinstance(each, Want)] == []
    assert bytes(swarm.events[0].former) == STATE


def test_a_large_state_that_is_here_is_copied_in_pieces_between_other_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transport.collectives.fetch.TAKEN_AT_ONCE", 1)
    swarm, record = committed(1, 2)
    swarm.core.recomputer.find_blob = lambda now, blob: (
        list(map(digest_of, HELD[blob])),
        HELD[blob].__getitem__,
    )
    applied(swarm, record, w1=RIGHT)
    swarm.hear(2, Applied(0, record.hash(), check_of(WRONG)))
    turns = 0
    while not swarm.events:
        assert swarm.core.deadline() <= swarm.now, "it waits for nothing"
        swarm.later(0.0)
        turns += 1
    assert turns > 0
    assert bytes(swarm.events[0].former) == STATE


def test_an_answer_that_never_comes_is_not_waited_for_without_end() -> None:
    swarm, record = committed(1, 2, 3)
    applied(swarm, record, w1=RIGHT, w2=RIGHT, w3=WRONG)
    swarm.answer()
    swarm.later(COMPUTE_TIMEOUTS * TIMEOUT_S - 1.0)
    assert repaired(swarm) == []
    swarm.later(2.0)
    assert outcomes(swarm) == [False]
    assert repaired(swarm) == [key(3)], "most decide, as where nothing can be computed"


def test_nobody_leaves_a_run_that_is_done_with_a_state_that_is_wrong() -> None:
    swarm, record = committed(1, 2, rounds=1)
    applied(swarm, record, w1=RIGHT, w2=WRONG)
    swarm.answer()
    assert [message for _, message in swarm.said if isinstance(message, Finished)] == []
    swarm.compute(RIGHT)
    assert [message for _, message in swarm.said if isinstance(message, Finished)] == []
    applied(swarm, record, w2=RIGHT)
    assert len(swarm.told(1, Finished)) == len(swarm.told(2, Finished)) == 1


def test_a_dispute_that_is_taken_back_is_computed_once_and_who_was_wrong_is_found_out() -> None:
    swarm, record = committed(1, 2, 3)
    applied(swarm, record, w1=RIGHT, w2=RIGHT, w3=WRONG)
    for index in (1, 2, 3):
        swarm.ready(index)
    for _ in range(5):
        applied(swarm, record, w3=RIGHT)
        applied(swarm, record, w3=WRONG)
    applied(swarm, record, w3=RIGHT)
    assert [swarm.asked(index) for index in (1, 2, 3)] == [3, 0, 0], "an index of each blob, once"
    assert len(swarm.told(1, Open)) == 1, "no round opens before it is known"
    num_orders = len(swarm.told(3, CatchUp))
    swarm.answer()
    swarm.compute(RIGHT)
    assert swarm.core.roster.entries[key(3)].num_wrong == 1
    assert swarm.core.roster.entries[key(1)].num_wrong == 0
    assert len(swarm.told(3, CatchUp)) == num_orders + 1


def test_who_leaves_before_its_state_is_found_wrong_is_found_out_all_the_same() -> None:
    swarm, record = committed(1, 2, 3)
    applied(swarm, record, w1=RIGHT, w2=RIGHT, w3=WRONG)
    swarm.hear(3, Leave("done"))
    swarm.answer()
    swarm.compute(RIGHT)
    wrong = [swarm.core.roster.entries[key(index)].num_wrong for index in (1, 2, 3)]
    assert wrong == [0, 0, 1]


@pytest.mark.parametrize("how", ["says that it caught up", "comes anew"])
def test_who_is_found_wrong_again_and_again_disputes_nothing_while_it_waits(how: str) -> None:
    swarm, record = committed(1, 2)
    for _ in range(4):
        applied(swarm, record, w1=RIGHT, w2=WRONG)
        swarm.answer()
        if not outcomes(swarm):
            swarm.compute(RIGHT)
        if how == "comes anew":
            swarm.hear(2, Leave("done"))
            swarm.greet(2, shapes=layout_name(TEXT, 128), head=record.hash(), holds_state=True)
    assert len(repaired(swarm)) == 2
    swarm.later(TIMEOUT_S)
    applied(swarm, record, w2=RIGHT)
    assert len(repaired(swarm)) == 2
    assert swarm.core.roster.entries[key(2)].active


def test_a_digest_that_another_one_made_up_under_the_same_check_is_nobody_elses_word() -> None:
    swarm, record = committed(1, 2, 3)
    version = record.hash()
    swarm.hear(1, Applied(0, version, check_of(RIGHT)))
    swarm.hear(3, Applied(0, version, check_of(WRONG)))
    swarm.hear(3, Applied(0, version, check_of(RIGHT)))
    swarm.hear(3, StateNamed(0, version, OTHER))
    swarm.hear(1, StateNamed(0, version, RIGHT))
    swarm.applied(2, version, RIGHT)
    swarm.answer()
    swarm.compute(RIGHT)
    entries = swarm.core.roster.entries
    assert [entries[key(index)].holds_state for index in (1, 2, 3)] == [True, True, False]
    assert [entries[key(index)].num_wrong for index in (1, 2)] == [0, 0]


def test_who_holds_what_was_computed_is_right_whatever_another_one_names_under_its_check() -> None:
    swarm, record = committed(1, 2, 3, 4, 5)
    version = record.hash()
    swarm.hear(1, Applied(0, version, check_of(RIGHT)))
    swarm.applied(2, version, RIGHT)
    swarm.hear(2, StateNamed(0, version, OTHER))
    applied(swarm, record, w3=WRONG, w4=WRONG, w5=WRONG)
    swarm.answer()
    swarm.compute(RIGHT)
    assert sorted(repaired(swarm)) == sorted(map(key, (2, 3, 4, 5)))
    assert swarm.core.roster.entries[key(1)].holds_state
    assert disputes(swarm) == []
