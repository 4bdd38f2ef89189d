"""An owner shows of what it made a mean, and the coordinator finds whether that is so."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from peers.admission.identity import Identity, verify
from peers.coordinator.judgement import Court
from peers.coordinator.mean_case import MeanCase
from peers.coordinator.open_round import OpenRound
from peers.member.exchanges import Exchanges, RunningExchange
from peers.member.mean_proofs import MeanProofs
from peers.member.notary import MemberNotary
from peers.protocol.evidence import ProveMean, ShownDigests, ShownMean, ShownPart
from tests.peers.member.fakes import BASE, ME, OTHER, PATIENCE_S, SIZE, THIRD, TIMEOUT_S, FakeOutlet, entry
from tests.sim.trainer import VectorJudge
from transport.collectives.chunks import PartChunk
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.plan import Plan
from transport.collectives.proofs import Terms
from transport.collectives.prover import Prover
from transport.collectives.reducer import NumpyReducer, Part
from transport.digests import digest_of
from transport.effects import Payload

RUN = b"r" * 32
MEMBERS = (ME, OTHER, THIRD)
WHO = {each: Identity(each) for each in MEMBERS}
PUBLIC = {each: who.public for each, who in WHO.items()}
ROSTER = {each: replace(entry(each), identity=public) for each, public in PUBLIC.items()}
PLAN = Plan(0, MEMBERS, (1.0, 2.0, 3.0), proved=True)


class Adding(NumpyReducer):
    """It calls ``factor`` times the mean the mean."""

    factor = 1.0

    def reduce(self, chunk: int, parts: Any) -> Payload:
        mean = np.frombuffer(super().reduce(chunk, parts), np.float32)  # type: ignore[arg-type]
        return (mean * np.float32(self.factor)).tobytes()


def note(sent: list[tuple[bytes, bytes, Any, Payload]], me: bytes, *frame: Any) -> None:
    sent.append((me, *frame))


def exchanged(factor: float = 1.0, plan: Plan = PLAN) -> DirectReduce:
    """The exchange of ME, who owns the first three of eight chunks, once all are done."""
    made = {}
    for number, me in enumerate(plan.members):
        reducer = Adding(SIZE, np.arange(1, SIZE + 1, dtype=np.float32) * (number + 1))
        reducer.factor = factor if me == ME else 1.0
        notary = MemberNotary(WHO[me], verify, ROSTER)
        prover = Prover(me, notary, Terms(RUN, 1, BASE, 0, SIZE)) if plan.proved else None
        made[me] = DirectReduce(1, me, reducer, 1, 0.0, prover)
        made[me].begin(0.0, plan)
    for _ in range(10):
        sent: list[tuple[bytes, bytes, Any, Payload]] = []
        for me, each in made.items():
            while each.pump(lambda peer: 1 << 30, partial(note, sent, me)):
                pass
        for me, to, message, payload in sent:
            take = made[to].part if isinstance(message, PartChunk) else made[to].mean
            take(0.0, me, message, payload)
    assert all(each.done for each in made.values())
    return made[ME]


def answering(exchange: DirectReduce, plan: Plan = PLAN) -> tuple[FakeOutlet, MeanProofs]:
    outlet = FakeOutlet()
    exchanges = Exchanges(outlet, TIMEOUT_S, PATIENCE_S)
    exchanges.running[1] = RunningExchange(0, exchange, 0.0, 10, plan=plan)
    return outlet, MeanProofs(ME, exchanges, outlet)


def case_of(exchange: DirectReduce, drawn: int = 1, plan: Plan = PLAN) -> MeanCase:
    """What the coordinator has when all is shown."""
    outlet, proofs = answering(exchange, plan)
    proofs.begin(0.0, ProveMean(1, drawn))
    current = OpenRound(1, 0, BASE, 1, plan.founders, plan.weights, opened_at=0.0)
    current.plans = {0: plan}
    case = MeanCase(current, exchange.digest(), ME, drawn, 60.0, PUBLIC)
    for message, payload in outlet.shown:
        case.take(message, payload)
    return case


COURT = Court(RUN, verify, VectorJudge())


def guilty(case: MeanCase) -> bool:
    assert case.complete
    verdict = COURT.of_mean(case)
    assert verdict is None or verdict.guilty == ME
    return verdict is not None


@pytest.mark.parametrize("drawn", [0, 1, 2, 100])
@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, lost=frozenset([THIRD]))])
def test_an_owner_that_made_the_mean_of_what_it_got_can_show_it(drawn: int, plan: Plan) -> None:
    assert not guilty(case_of(exchanged(plan=plan), drawn, plan))


@pytest.mark.parametrize("factor", [0.5, 0.99, 1.01, 10.0, -1.0])
def test_an_owner_that_called_something_else_the_mean_shows_that_it_did(factor: float) -> None:
    assert guilty(case_of(exchanged(factor)))


def altered(case: MeanCase, **changes: Any) -> MeanCase:
    for name, value in changes.items():
        setattr(case, name, value)
    return case


def test_whatever_else_it_shows_is_not_so() -> None:
    def case() -> MeanCase:
        return case_of(exchanged(0.5))

    def with_part(message: ShownPart, payload: Payload) -> MeanCase:
        made = case_of(exchanged())
        made.parts[OTHER] = message, payload
        return made

    true_mean = np.frombuffer(case_of(exchanged()).mean, np.float32).tobytes()  # type: ignore[arg-type]
    assert guilty(altered(case(), mean=true_mean)), "it is not in the result"
    assert guilty(altered(case(), digests=bytes(32 * SIZE)))
    assert guilty(altered(case(), digests=b""))
    held = case()
    assert isinstance(held.digests, bytes)
    forged = held.digests[:32] + digest_of(true_mean) + held.digests[64:]
    assert guilty(altered(held, mean=true_mean, digests=forged)), "the record names another result"
    assert guilty(altered(case(), drawn=0)), "another one was asked for"
    (shown, payload) = case().parts[OTHER]
    assert guilty(with_part(shown, bytes(4))), "nobody vouched for that"
    assert guilty(with_part(replace(shown, path=()), payload))
    assert guilty(with_part(replace(shown, signature=bytes(64)), payload))
    other_size = case_of(exchanged())
    mine, part = other_size.parts[ME]
    other_size.parts[ME] = replace(mine, num_elements=1 << 60), part
    assert guilty(other_size)


def test_a_mean_of_a_part_that_cannot_be_used_is_its_makers_fault() -> None:
    exchange = exchanged()
    made = case_of(exchange)

    class Refuses(VectorJudge):
        def deviation(self, fragment: int, parts: Any, mean: Payload, num_elements: int) -> Any:
            nan = np.full(num_elements, np.nan, np.float32).tobytes()
            return super().deviation(fragment, [*parts[:-1], Part(2, 0.5, nan)], mean, num_elements)

    verdict = Court(RUN, verify, Refuses()).of_mean(made)
    assert verdict is not None
    assert verdict.guilty == ME
    assert Court(RUN, verify, None).of_mean(made) is None, "what cannot be decoded is nobody's fault"


def test_it_is_shown_as_there_is_room_and_once() -> None:
    outlet, proofs = answering(exchanged())
    outlet.room_bytes = 0
    proofs.begin(0.0, ProveMean(1, 0))
    assert outlet.shown == []
    outlet.room_bytes = 1 << 20
    for _ in range(2):
        proofs.tick(1.0)
    assert [type(message) for message, _ in outlet.shown] == [ShownPart] * 3 + [ShownMean, ShownDigests]
    outlet.room_bytes = 0
    proofs.begin(2.0, ProveMean(1, 1))
    proofs.drop()
    outlet.room_bytes = 1 << 20
    proofs.tick(3.0)
    assert len(outlet.shown) == 5


def test_nothing_is_shown_of_a_round_that_is_over_or_was_not_proved_or_of_which_it_owns_nothing() -> None:
    outlet, proofs = answering(exchanged())
    proofs.begin(0.0, ProveMean(2, 0))
    plain = replace(PLAN, proved=False)
    assert not case_of(exchanged(plan=plain), plan=plain).complete
    idle = replace(PLAN, idle=frozenset([ME]))
    assert not case_of(exchanged(plan=idle), plan=idle).complete
    assert outlet.shown == []


def test_what_is_shown_twice_or_by_nobody_who_was_there_does_not_count() -> None:
    made = case_of(exchanged())
    before = dict(made.parts), made.mean, made.digests
    made.take(replace(made.parts[ME][0], author=b"?" * 32), b"")
    made.take(replace(made.parts[ME][0], num_elements=9), b"")
    made.take(ShownMean(1), b"")
    made.take(ShownDigests(1), b"")
    assert (made.parts, made.mean, made.digests) == before
