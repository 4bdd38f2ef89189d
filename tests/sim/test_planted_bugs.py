"""The checkers catch what they are for: each planted bug breaks an invariant within a few seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from peers.admission import card
from peers.coordinator import rounds_mode
from peers.coordinator.open_round import OpenRound
from peers.node import Node
from tests.sim.checkers import Violation
from tests.sim.faults import KINDS_OF_CLONES, Fault
from tests.sim.run import run_seed
from tests.sim.trainer import VectorReplica
from transport.collectives.direct_reduce import DirectReduce, MeanChunk, PartChunk, Plan
from transport.collectives.reducer import NumpyReducer, Part
from transport.frames import from_items
from transport.link.link import Link
from transport.link.messages import Arrival, Hello, Superseded
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


def err_now_and_then(mean: Callable[..., bool]) -> Callable[..., bool]:
    """A worker whose memory errs: it holds another mean than its owner sent."""
    count = [0]

    def broken(self: DirectReduce, now: float, peer: bytes, message: MeanChunk, payload: Any) -> bool:
        count[0] += 1
        if count[0] % 20 == 0:
            values = np.frombuffer(payload, dtype=np.float32).copy()
            values[0] += 1.0
            payload = values.tobytes()
        return mean(self, now, peer, message, payload)

    return broken


def test_a_result_that_differs_at_one_member_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirectReduce, "mean", err_now_and_then(DirectReduce.mean))
    assert not rules_broken(range(1, 5), []) & {"S1", "S2", "S3"}


def test_a_commit_without_the_digest_check_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def any_digest(self: OpenRound) -> bytes | None:
        return next(iter(self.done.values()), None) if len(self.done) == len(self.members) else None

    monkeypatch.setattr(DirectReduce, "mean", err_now_and_then(DirectReduce.mean))
    monkeypatch.setattr(OpenRound, "agreement", any_digest)
    assert "S3" in rules_broken(range(1, 9), [])


def test_a_duplicate_that_counts_after_a_reconnect_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(self: Streams, now: float, seq: int, items: Any, payload: Any) -> list[Any]:
        arrived = bulk_arrived(self, now, seq, items, payload)
        if arrived or payload is None:
            return arrived
        return [Arrival(from_items(items), payload, FRAME_COST + len(payload))]

    def add_again(self: DirectReduce, now: float, peer: bytes, message: PartChunk, payload: Any) -> bool:
        held = self._parts[message.chunk].get(peer)
        if held is not None:
            twice = np.frombuffer(held, dtype=np.float32) + np.frombuffer(payload, dtype=np.float32)
            self._parts[message.chunk][peer] = twice.tobytes()
            return True
        return bool(part(self, now, peer, message, payload))

    def forgetful_hello(self: Streams, *, reply: bool) -> Hello:
        return replace(hello(self, reply=reply), bulk=0)  # so that everything unacknowledged is sent again

    bulk_arrived, part, hello = Streams.bulk_arrived, DirectReduce.part, Streams.hello
    monkeypatch.setattr(Streams, "hello", forgetful_hello)
    monkeypatch.setattr(Streams, "bulk_arrived", no_memory)
    monkeypatch.setattr(DirectReduce, "part", add_again)
    # Worker 2 stops for a second now and then, so that others' parts lie there when links break.
    stops = [Fault(3.0 + 2.1 * i, "freeze", 2, 0, 0.12) for i in range(12)]
    resets = [Fault(stop.at_s + 0.45, "reset", 0, 1, 0.9) for stop in stops]
    assert "S3" in rules_broken(range(1, 9), stops + resets)


def test_a_joiner_that_is_a_donor_before_it_caught_up_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_loaded(self: VectorReplica, fragment: int, data: bytearray) -> None:
        """It says that it holds the state, and holds its own."""

    def whoever_speaks(entries: Any, fragment: int, version: bytes) -> tuple[bytes, list[bytes]]:
        held = [(e.digests[fragment][1], e.key) for e in entries if fragment in e.digests]
        return (held[-1][0], [held[-1][1]]) if held else (b"", [])

    monkeypatch.setattr(VectorReplica, "load", not_loaded)
    monkeypatch.setattr(rounds_mode, "agreed_state", whoever_speaks)
    assert "S1" in rules_broken(range(1, 4), [])


def test_a_division_by_the_configured_size_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class ConfiguredSize(NumpyReducer):
        def reduce(self, chunk: int, parts: Any) -> Any:
            return super().reduce(chunk, [Part(p.member, 1.0 / 8, p.payload) for p in parts])

    monkeypatch.setattr("tests.sim.trainer.NumpyReducer", ConfiguredSize)
    assert "S3" in rules_broken(range(1, 4))


def test_a_commit_that_counts_a_lost_member_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    agreement = OpenRound.agreement

    def everyone(self: OpenRound) -> bytes | None:
        digest = agreement(self)
        if digest is not None:
            self.lost.clear()  # so that the record names them too
        return digest

    monkeypatch.setattr(OpenRound, "agreement", everyone)
    assert "S3" in rules_broken(range(1, 15))


def test_a_member_that_answers_for_another_attempt_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means that still contain a member who was lost must not survive into the next attempt."""

    begin = DirectReduce.begin

    def keep_means(self: DirectReduce, now: float, plan: Plan) -> None:
        means, digests, to_keep = self._means, self._digests, self._to_keep
        missing = self._missing
        begin(self, now, plan)
        self._means, self._digests, self._to_keep = means, digests, to_keep
        self._missing = missing

    monkeypatch.setattr(DirectReduce, "begin", keep_means)
    assert {"S3", "L1", "L4"} & rules_broken(range(1, 25))


CLONES = [Fault(4.0 + 4.0 * i, kind, i % 2, 0, 0.4) for i, kind in enumerate(KINDS_OF_CLONES * 2)]


def test_an_older_clone_that_is_taken_for_the_newer_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def take_anyone(self: Link, now: float, lane: int, items: Any, payload: Any) -> list[Any]:
        part = from_items(items[0])
        self._oldest = 0
        if part.session < self.streams.peer_session:
            if not isinstance(part, Hello):
                return []
            self.streams.peer_session = 0
        return receive(self, now, lane, items, payload)

    receive = Link.receive
    monkeypatch.setattr(Link, "receive", take_anyone)
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
