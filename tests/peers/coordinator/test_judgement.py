"""The coordinator's judgement: whoever was wrong is out, and it can be told who that is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from peers.admission.identity import Identity, verify
from peers.coordinator.hearing import Hearing
from peers.coordinator.journal import PeerKicked
from peers.coordinator.judgement import Court
from peers.coordinator.open_round import OpenRound
from peers.protocol.evidence import ROOT_BYTES, Roots, Shown, ToldTwoThings
from peers.protocol.messages import Done, Open, Refused, Stuck
from peers.protocol.signing import INDEX_TAG
from peers.protocol.traces import ProvedWrongTrace, SetAsideTrace
from tests.peers.coordinator.coordinator_kit import RESULT, Swarm, key, opened
from transport.collectives.plan import Plan
from transport.collectives.proofs import Index, Terms
from transport.digests import digest_of
from transport.effects import Payload
from transport.errors import BadFrame
from transport.frames import unpack

RUN = b"r" * 32
AUTHOR, ACCUSER, THIRD = key(1), key(2), key(3)
WHO_IN_RUN = Identity(b"\x01" * 32)
WHO, OTHER = Identity(b"1" * 32), Identity(b"2" * 32)
FINE, BAD = np.ones(4, np.float32).tobytes(), np.full(4, np.nan, np.float32).tobytes()


class FiniteJudge:
    """fp32 is all right if it is finite."""

    def fault(self, fragment: int, payload: Payload, num_elements: int, num_parts: int | None) -> str | None:
        assert isinstance(payload, bytes)
        return "" if np.isfinite(np.frombuffer(payload, np.float32)).all() else "a value is not finite"

    def square(
        self, fragment: int, payload: Payload, num_elements: int, num_parts: int | None
    ) -> float | None:
        assert isinstance(payload, bytes)
        return float(np.square(np.frombuffer(payload, np.float32), dtype=np.float64).sum())


def current() -> OpenRound:
    """A proved attempt, of 12 elements in three chunks; the author owns the first."""
    founders = (AUTHOR, ACCUSER, THIRD)
    made = OpenRound(7, 0, b"b" * 32, 4, founders, (1.0,) * 3, opened_at=0.0)
    made.attempt, made.proved = 1, True
    made.plans = {
        0: Plan(0, founders, (1.0,) * 3),
        1: Plan(1, founders, (1.0,) * 3, proved=True),
    }
    return made


def statement(root: bytes, mean: bool, about: OpenRound, attempt: int = 1, num_elements: int = 12) -> bytes:
    terms = Terms(RUN, about.serial, about.base, about.fragment, num_elements)
    return terms.statement(root, 0, about.founders, attempt if mean else -1)


def shown(payload: bytes, mean: bool, chunk: int = 0, signer: Identity = WHO, **changes: Any) -> Shown:
    chunks = [payload] if mean else [payload if c == chunk else FINE for c in range(3)]
    index = Index([digest_of(each) for each in chunks])
    signature = signer.sign(INDEX_TAG, statement(index.root, mean, current()))
    path = index.path(0 if mean else chunk)
    return replace(Shown(7, 1, AUTHOR, mean, 12, chunk, path, signature, "not finite"), **changes)


COURT = Court(RUN, verify, FiniteJudge())


def guilty(message: Shown, payload: bytes, court: Court = COURT) -> bytes | None:
    found = court.of_shown(current(), ACCUSER, WHO.public, message, payload)
    return found.guilty if found else None


@pytest.mark.parametrize("mean", [True, False])
def test_of_a_chunk_that_was_vouched_for_it_is_decoded_who_is_wrong(mean: bool) -> None:
    assert guilty(shown(BAD, mean), BAD) == AUTHOR
    assert guilty(shown(FINE, mean), FINE) == ACCUSER


@pytest.mark.parametrize("mean", [True, False])
def test_whoever_shows_what_nobody_vouched_for_is_wrong(mean: bool) -> None:
    assert guilty(shown(FINE, mean), BAD) == ACCUSER
    assert guilty(shown(BAD, mean, signer=OTHER), BAD) == ACCUSER
    assert guilty(shown(BAD, mean, num_elements=11), BAD) == ACCUSER


def test_a_mean_is_vouched_for_in_one_attempt_and_a_part_in_all() -> None:
    about, index = current(), Index([digest_of(BAD)])
    elsewhere = WHO.sign(INDEX_TAG, statement(index.root, True, about, attempt=0))
    assert guilty(shown(BAD, True, signature=elsewhere), BAD) == ACCUSER
    about.plans[2] = replace(about.plans[1], attempt=2, lost=frozenset([THIRD]))
    found = COURT.of_shown(about, ACCUSER, WHO.public, shown(BAD, False, attempt=2), BAD)
    assert found is not None
    assert found.guilty == AUTHOR


def test_where_nothing_can_be_decoded_nobody_is_judged() -> None:
    class CannotTell:
        def fault(
            self, fragment: int, payload: Payload, num_elements: int, num_parts: int | None
        ) -> str | None:
            return None

        def square(
            self, fragment: int, payload: Payload, num_elements: int, num_parts: int | None
        ) -> float | None:
            return None

    for judge in (None, CannotTell()):
        assert guilty(shown(BAD, True), BAD, Court(RUN, verify, judge)) is None


@pytest.mark.parametrize(
    ("changes", "mean"),
    [
        ({"attempt": 0}, False),
        ({"attempt": 2}, False),
        ({"author": ACCUSER}, False),
        ({"author": key(9)}, False),
        ({"chunk": 3}, False),
        ({"chunk": 1}, True),
        ({"num_elements": 1 << 60}, False),
        ({"path": (bytes(32),) * 3}, False),
    ],
)
def test_what_no_member_can_have_got_is_no_evidence(changes: dict[str, Any], mean: bool) -> None:
    with pytest.raises(BadFrame):
        guilty(replace(shown(BAD, mean), **changes), BAD)


@pytest.mark.parametrize("mean", [True, False])
def test_two_roots_under_one_statement_are_their_authors_fault_and_one_is_the_accusers(mean: bool) -> None:
    def told(*roots: tuple[bytes, Identity]) -> bytes:
        signed = [(r, who.sign(INDEX_TAG, statement(r, mean, current()))) for r, who in roots]
        message = ToldTwoThings(7, 1, AUTHOR, mean, 12, 0, *signed[0], *signed[1])
        return COURT.of_two_things(current(), ACCUSER, WHO.public, message).guilty

    one, other = b"1" * 32, b"2" * 32
    assert told((one, WHO), (other, WHO)) == AUTHOR
    assert told((one, WHO), (one, WHO)) == ACCUSER
    assert told((one, WHO), (other, OTHER)) == ACCUSER


# -- in a run ---------------------------------------------------------------------------------------


class Proving(Swarm):
    """Five members whose round is proved, of which the author has vouched for one mean or part."""

    def __init__(self, court: Court | None = COURT) -> None:
        super().__init__(court=court)
        for index in range(1, 6):
            self.core.certify(key(index), f"w{index}", identity=Identity(bytes([index]) * 32).public)
            self.greet(index)
            self.hold(index)
        self.core.state.courses[0].suspicion.distrust(AUTHOR, 0)
        self.open = opened(self, 1, 2, 3, 4, 5)
        assert self.open.proved

    def show(self, payload: bytes, accuser: int = 2, author: int = 1) -> None:
        index = Index([digest_of(payload)])
        terms = Terms(RUN, self.open.serial, self.open.base, 0, 100, self.open.life)
        signature = Identity(bytes([author]) * 32).sign(
            INDEX_TAG, terms.statement(index.root, 0, self.open.founders)
        )
        message = Shown(self.open.serial, 0, key(author), False, 100, 0, (), signature, "not finite")
        self.core.take_evidence(self.now, key(accuser), message, payload)

    def differ(self, attempt: int, **roots: bytes) -> None:
        """Members 1 to 5 are done, the second with another result; each shows the root by ``w1`` to ``w5``
        under which it had the author's means."""
        terms = Terms(RUN, self.open.serial, self.open.base, 0, 100, self.open.life)
        plan = self.core.state.courses[0].rounds[0].plans[attempt]
        for index in range(1, 6):
            root = roots.get(f"w{index}")
            if root is not None:
                said = terms.statement(root, 0, plan.founders, attempt, plan.lost)
                beside = root + WHO_IN_RUN.sign(INDEX_TAG, said)
                self.core.take_evidence(self.now, key(index), Roots(self.open.serial, attempt, 100), beside)
            self.hear(index, Done(self.open.serial, attempt, b"x" * 32 if index == 2 else RESULT))

    def put_out(self) -> list[bytes]:
        return [e.key for e in map(unpack, self.journal) if isinstance(e, PeerKicked)]


def test_whoever_was_wrong_is_out_for_good_and_the_round_goes_on() -> None:
    for payload, wrong, right in ((BAD, 1, 2), (FINE, 2, 1)):
        swarm = Proving()
        swarm.show(payload)
        assert swarm.put_out() == [key(wrong)]
        assert [t.peer for t in swarm.traces if isinstance(t, ProvedWrongTrace)] == [key(wrong)]
        assert swarm.told(wrong, Refused)[0].code == "proved"
        again = swarm.told(right, Open)[-1]
        assert (again.attempt, again.lost, again.idle) == (1, (wrong - 1,), ())
        assert swarm.core.certify(key(wrong), "again") is not None
        assert swarm.core.certify(key(right), "again") is None


def test_who_signed_two_roots_is_out_at_the_word_of_one_member_that_shows_both() -> None:
    swarm = Proving()
    terms = Terms(RUN, swarm.open.serial, swarm.open.base, 0, 100, swarm.open.life)
    roots = [b"1" * 32, b"2" * 32]
    signed = [WHO_IN_RUN.sign(INDEX_TAG, terms.statement(root, 0, swarm.open.founders)) for root in roots]
    told = ToldTwoThings(
        swarm.open.serial, 0, AUTHOR, False, 100, 0, roots[0], signed[0], roots[1], signed[1]
    )
    swarm.hear(2, told)
    assert swarm.put_out() == [AUTHOR]
    assert swarm.told(3, Open)[-1].lost == (0,)


def test_evidence_about_a_round_that_is_over_is_passed_over() -> None:
    swarm = Proving()
    put_out: list[bytes] = []
    hearing = Hearing(swarm.core.state, COURT, lambda now, entry, why: put_out.append(entry.key))
    late = Shown(swarm.open.serial + 1, 0, key(1), False, 100, 0, (), bytes(64), "not finite")
    hearing.take_chunk(0.0, key(2), late, BAD)
    assert put_out == []
    hearing.take_chunk(0.0, key(2), replace(late, serial=swarm.open.serial), BAD)
    assert put_out == [key(2)], "nobody vouched for that"


def test_of_what_a_member_shows_in_a_round_one_thing_is_judged_and_the_next_is_a_word() -> None:
    swarm = Proving()
    swarm.show(BAD, 2)
    assert swarm.told(4, Open)[-1].lost == (0,)
    swarm.show(BAD, 2, author=3)
    assert swarm.put_out() == [key(1)]
    again = swarm.told(4, Open)[-1]
    assert (again.attempt, again.lost, again.idle) == (2, (0,), (1, 2)), "or it would wait for ever"


def test_two_roots_that_are_shown_second_are_a_word_too() -> None:
    swarm = Proving()
    swarm.show(BAD, 2)
    two = ToldTwoThings(
        swarm.open.serial, 0, key(3), False, 100, 0, b"1" * 32, bytes(64), b"2" * 32, bytes(64)
    )
    swarm.hear(2, two)
    assert swarm.put_out() == [key(1)]
    assert swarm.told(4, Open)[-1].idle == (1, 2)


def test_of_a_host_that_cannot_decode_what_is_shown_is_a_word() -> None:
    swarm = Proving(Court(RUN, verify, None))
    swarm.show(BAD)
    assert swarm.put_out() == []
    assert swarm.told(3, Open)[-1].idle == (0, 1)


def test_marks_of_and_by_whoever_is_out_are_forgotten() -> None:
    swarm = Proving()
    swarm.hear(2, Stuck(swarm.open.serial, 0, (key(1),), "a value is not finite"))
    assert swarm.told(3, Open)[-1].idle == (0, 1)
    swarm.show(FINE)
    assert swarm.put_out() == [key(2)]
    assert swarm.told(3, Open)[-1].idle == ()
    assert swarm.core.status(0.0).marks == ()


def test_the_hosts_own_worker_is_set_aside_and_not_put_out() -> None:
    swarm = Proving()
    swarm.core.state.me = key(1)
    swarm.show(BAD)
    assert swarm.put_out() == []
    assert swarm.told(2, Open)[-1].lost == (0,)


def set_aside(swarm: Swarm) -> list[bytes]:
    return [trace.peer for trace in swarm.traces if isinstance(trace, SetAsideTrace)]


def test_whoever_vouches_for_different_means_is_out_and_its_victim_stays() -> None:
    swarm, one, other = Proving(), b"1" * 32, b"2" * 32
    swarm.differ(0, w1=one, w2=other, w3=one, w4=one, w5=one)
    assert swarm.put_out() == [key(1)]
    assert set_aside(swarm) == []
    assert swarm.told(2, Open)[-1].lost == (0,)


def test_where_all_had_the_same_means_who_differs_from_most_sits_out() -> None:
    swarm, one = Proving(), b"1" * 32
    swarm.differ(0, w1=one, w2=one, w3=one, w4=one, w5=one)
    assert swarm.put_out() == []
    assert set_aside(swarm) == [key(2)]


def test_roots_that_do_not_come_are_waited_for_and_not_for_ever() -> None:
    swarm, one = Proving(), b"1" * 32
    swarm.differ(0, w1=one, w3=one, w4=one, w5=one)
    assert set_aside(swarm) == []
    swarm.later(swarm.core.state.rules.failure_timeout_s + 0.1)
    assert set_aside(swarm) == [key(2)]


def test_whoever_shows_a_root_that_nobody_vouched_for_is_out() -> None:
    swarm, one = Proving(), b"1" * 32
    forged = b"2" * 32 + bytes(64)
    swarm.core.take_evidence(0.0, key(2), Roots(swarm.open.serial, 0, 100), forged)
    swarm.differ(0, w1=one, w2=one, w3=one, w4=one, w5=one)
    assert swarm.put_out() == [key(2)]


def test_of_equal_roots_each_is_checked_once_and_of_a_liar_one_at_most() -> None:
    checked: list[bytes] = []

    def counting(public: bytes, tag: bytes, data: bytes, signature: bytes) -> bool:
        checked.append(data)
        return verify(public, tag, data, signature)

    swarm, one = Proving(Court(RUN, counting, FiniteJudge())), b"1" * 32
    swarm.differ(0, w1=one, w2=one, w3=one, w4=one, w5=one)
    assert len(checked) == 1
    assert set_aside(swarm) == [key(2)]


def test_roots_have_a_size_and_an_attempt() -> None:
    swarm = Proving()
    for wrong in (bytes(ROOT_BYTES - 1), bytes(2 * ROOT_BYTES), b""):
        with pytest.raises(BadFrame, match="roots"):
            swarm.core.take_evidence(0.0, key(2), Roots(swarm.open.serial, 0, 100), wrong)
    swarm.core.take_evidence(0.0, key(2), Roots(swarm.open.serial, 1, 100), bytes(ROOT_BYTES))
    assert swarm.core.state.courses[0].rounds[0].roots == {}


def test_signing_keys_are_journaled_told_and_kept_over_restarts() -> None:
    swarm = Proving()
    again = Swarm(swarm.journal)
    for each in (swarm, again):
        assert (
            each.core.roster.member_is(each.core.roster.entries[key(3)]).identity
            == Identity(b"\x03" * 32).public
        )
    assert again.core.certify(key(3), "w3", identity=Identity(b"\x03" * 32).public) is None
    refused = again.core.certify(key(3), "w3", identity=Identity(b"\x04" * 32).public)
    assert refused is not None
    assert refused.code == "identity"
