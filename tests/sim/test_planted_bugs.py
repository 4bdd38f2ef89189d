"""The checkers catch what they are for: each planted bug breaks an invariant within a few seeds.

A planted bug is a subclass of the class in use that breaks one thing, put where that class is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from peers.admission import card
from peers.coordinator import rounds_mode
from peers.coordinator.agreement import Agreement
from peers.coordinator.open_round import OpenRound
from peers.coordinator.roster import Entry
from peers.member.contributions import Contributions
from peers.member.early_parts import EarlyParts
from peers.member.exchanges import RunningExchange
from peers.node import Node
from peers.protocol.events import Fate
from peers.protocol.messages import Open
from peers.protocol.record import Record
from tests.sim.faults import KINDS_OF_CLONES, Fault
from tests.sim.run import run_seed
from tests.sim.trainer import VectorReplica
from tests.sim.violation import Violation
from transport.collectives.chunks import MeanChunk, PartChunk
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.norms import NO_LIMITS
from transport.collectives.plan import Plan
from transport.collectives.reducer import NumpyReducer, Part
from transport.frames import from_items
from transport.link.link import Link
from transport.link.messages import NOBODY, Arrival, Hello, Superseded
from transport.link.streams import FRAME_COST, Streams


def rules_broken(
    seeds: range, faults: list[Fault] | None = None, make_node: Callable[..., Node] = Node
) -> set[str]:
    """The rules that are violated over some seeds; a seed that stops at another error does not count."""
    broken = set()
    for seed in seeds:
        try:
            run_seed(seed, faults, make_node)
        except Violation as violation:
            broken.add(violation.rule)
    return broken


def test_without_a_planted_bug_the_same_seeds_break_nothing() -> None:
    assert rules_broken(range(1, 7)) == set()


class ErringMemory(DirectReduce):
    """A worker whose memory errs now and then: it holds another mean than its owner sent."""

    num_means = 0
    """Of all workers together."""

    def mean(self, now: float, peer: bytes, message: MeanChunk, payload: Any) -> bool:
        ErringMemory.num_means += 1
        if ErringMemory.num_means % 20 == 0:
            values = np.frombuffer(payload, dtype=np.float32).copy()
            values[0] += 1.0
            payload = values.tobytes()
        return super().mean(now, peer, message, payload)


class AnyDigest(OpenRound):
    """It takes whichever digest came first."""

    def agreement(self) -> bytes | None:
        return next(iter(self.done.values()), None) if len(self.done) == len(self.members) else None


def test_a_result_that_differs_at_one_member_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ErringMemory, "num_means", 0)
    monkeypatch.setattr("peers.member.rounds.DirectReduce", ErringMemory)
    assert not rules_broken(range(1, 5), []) & {"S1", "S2", "S3"}
    assert ErringMemory.num_means >= 20


def test_a_commit_without_the_digest_check_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ErringMemory, "num_means", 0)
    monkeypatch.setattr("peers.member.rounds.DirectReduce", ErringMemory)
    monkeypatch.setattr("peers.coordinator.rounds.OpenRound", AnyDigest)
    assert "S3" in rules_broken(range(1, 9), [])


class ForgetfulStreams(Streams):
    """They do not say what came before a break, so that it is sent again, and take it again."""

    def hello(self, lane: int = 0, *, reply: bool) -> Hello:
        return replace(super().hello(lane, reply=reply), bulk=0)

    def bulk_arrived(self, now: float, seq: int, items: Any, payload: Any) -> list[Any]:
        arrived = super().bulk_arrived(now, seq, items, payload)
        if arrived or payload is None:
            return arrived
        return [Arrival(from_items(items), payload, FRAME_COST + len(payload))]


class AddsAgain(DirectReduce):
    """A part that came twice counts twice."""

    def part(self, now: float, peer: bytes, message: PartChunk, payload: Any) -> bool:
        held = self._parts[message.chunk].get(peer)
        if held is None:
            return super().part(now, peer, message, payload)
        twice = np.frombuffer(held, dtype=np.float32) + np.frombuffer(payload, dtype=np.float32)
        self._parts[message.chunk][peer] = twice.tobytes()
        return True


def test_a_duplicate_that_counts_after_a_reconnect_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transport.link.link.Streams", ForgetfulStreams)
    monkeypatch.setattr("peers.member.rounds.DirectReduce", AddsAgain)
    # What is added twice is longer than its author says, which owners and host would find out first.
    monkeypatch.setattr("peers.member.rounds.NormLimits", lambda parts, mean: NO_LIMITS)
    monkeypatch.setattr(OpenRound, "disputes", lambda self: [])
    # Worker 2 stops for a second now and then, so that others' parts lie there when links break.
    stops = [Fault(3.0 + 2.1 * i, "freeze", 2, 0, 0.12) for i in range(12)]
    resets = [Fault(stop.at_s + 0.45, "reset", 0, 1, 0.9) for stop in stops]
    assert "S3" in rules_broken(range(1, 9), stops + resets)


class NotLoaded(VectorReplica):
    """It says that it holds the state that it was given, and holds its own."""

    def load(self, fragment: int, data: bytearray) -> None:
        pass


def test_a_joiner_that_keeps_its_own_state_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.sim.world.VectorReplica", NotLoaded)
    assert rules_broken(range(1, 4), []) == {"S1"}


def whoever_speaks(entries: Iterable[Entry], fragment: int, version: bytes, *unheeded: object) -> Agreement:
    """The state of whoever is last to say what it holds, of any version; one that is named first."""
    held = [(each, *each.checks[fragment]) for each in entries if fragment in each.checks]
    named = [(check, name, each) for each, old, check in held if (name := each.name_of(fragment, old))]
    if named:
        check, name, donor = named[-1]
        return Agreement(check, name, (donor.key,))
    return Agreement(held[-1][2]) if held else Agreement()


def test_a_joiner_that_is_a_donor_before_it_caught_up_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds_mode, "agreement_on", whoever_speaks)
    assert "S1" in rules_broken(range(1, 6), [])


class ConfiguredSize(NumpyReducer):
    """It divides by the size that was configured, whoever is there."""

    def reduce(self, chunk: int, parts: Any) -> Any:
        return super().reduce(chunk, [Part(p.member, 1.0 / 8, p.payload) for p in parts])


def test_a_division_by_the_configured_size_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.sim.trainer.NumpyReducer", ConfiguredSize)
    assert "S3" in rules_broken(range(1, 4))


class CountsTheLost(OpenRound):
    """Its record names the lost members too."""

    def agreement(self) -> bytes | None:
        digest = super().agreement()
        if digest is not None:
            self.lost.clear()
        return digest


def test_a_commit_that_counts_a_lost_member_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.coordinator.rounds.OpenRound", CountsTheLost)
    assert "S3" in rules_broken(range(1, 15))


class ToldTooSoon(Contributions):
    """Whoever falls behind takes what is in a round for late, before it is decided."""

    def end_decided(self, fate: Fate, reason: str) -> None:
        self.leave_rounds()
        super().end_decided(fate, reason)


def test_a_contribution_that_is_told_late_and_counts_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.member.member.Contributions", ToldTooSoon)
    assert rules_broken(range(11, 12)) == {"S4"}


class CountsItself(Contributions):
    """It takes every record of a fragment for one that counts what this member offers."""

    def mark_committed(self, record: Record) -> None:
        if record.fragment in self.offered:
            self.offered[record.fragment].counted_by = record.hash()


def test_a_contribution_that_is_told_applied_and_does_not_count_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peers.member.member.Contributions", CountsItself)
    assert rules_broken(range(4, 6)) == {"S4"}


class AnyNumber(EarlyParts):
    """Of what came early it takes whatever is there, and not what `Open` names."""

    def opened(self, now: float, message: Open, plan: Plan, running: RunningExchange) -> None:
        named = zip(message.founders, message.numbers, strict=True)
        numbers = tuple(self.held[each].number if each in self.held else number for each, number in named)
        super().opened(now, replace(message, numbers=numbers), plan, running)


def test_parts_that_came_early_of_another_contribution_and_count_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peers.member.rounds.EarlyParts", AnyNumber)
    assert rules_broken(range(2, 3)) == {"S3"}


class KeepsMeans(DirectReduce):
    """Means that still contain a member who was lost survive into the next attempt."""

    def begin(self, now: float, plan: Plan) -> None:
        means, digests, to_keep = self._means, self._digests, self._to_keep
        missing = self._missing
        super().begin(now, plan)
        self._means, self._digests, self._to_keep = means, digests, to_keep
        self._missing = missing


def test_a_member_that_answers_for_another_attempt_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.member.rounds.DirectReduce", KeepsMeans)
    assert {"S3", "L1", "L4"} & rules_broken(range(1, 25))


CLONES = [Fault(4.0 + 4.0 * i, kind, i % 2, 0, 0.4) for i, kind in enumerate(KINDS_OF_CLONES * 2)]


class TakesAnyone(Link):
    """It takes an older process for the newer one."""

    def receive(self, now: float, lane: int, items: Any, payload: Any) -> list[Any]:
        part = from_items(items[0])
        self._oldest = 0
        if part.session < self.streams.peer_session:
            if not isinstance(part, Hello):
                return []
            self.streams.peer_session = NOBODY
        return super().receive(now, lane, items, payload)


def test_an_older_clone_that_is_taken_for_the_newer_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.links.Link", TakesAnyone)
    # The older one wakes up at 13.4 s, while the newer one is stopped until 17.4 s.
    away = [Fault(6.0, "clone_of_frozen", 0, 0, 0.9), Fault(10.0, "freeze", 0, 0, 0.9)]
    assert "S13" in rules_broken(range(4, 7), away)


class Deaf(Node):
    """It does not hear that a newer process has its identity."""

    def _handle(self, now: float, peer: bytes, result: Any) -> None:
        if not isinstance(result, Superseded):
            super()._handle(now, peer, result)


def test_an_older_clone_that_does_not_listen_is_caught() -> None:
    assert {"S13", "L7"} & rules_broken(range(1, 5), CLONES, Deaf)


class DialsOn(Node):
    """It stops when a newer process has its identity, and leaves its links open."""

    def forget(self, peer: bytes, reason: str) -> None:
        if "newer process" not in reason:
            super().forget(peer, reason)


def test_an_older_clone_that_goes_on_dialling_is_caught() -> None:
    assert {"L1", "L4", "L7"} & rules_broken(range(1, 5), CLONES, DialsOn)


def test_a_door_that_checks_no_signature_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "verify", lambda *signed: True)
    assert rules_broken(range(1, 2), [Fault(3.0, "stranger", 0)]) == {"X1"}
