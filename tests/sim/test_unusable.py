"""Results that do not decode, states that do not load and donors that lie: all members go on and converge."""

from __future__ import annotations

from typing import Any

import pytest

from diloco.errors import StateError
from diloco.simulation.vectors import VectorBlob
from peers.member.donor import Donor
from tests.sim.run import run_seed
from tests.sim.trainer import VectorReplica
from transport.collectives.reducer import NumpyReducer, Reducer
from transport.effects import Payload
from transport.errors import Poisoned

SEEDS = (1, 2)
MOST = 6
"""Faults of a seed: then it must be quiet."""


class ErringReceiver(NumpyReducer):
    """Whoever was not in the round cannot decode its result, now and then."""

    num_refused = num_accepted = 0

    def accept(self, chunk: int, payload: Payload) -> float:
        ErringReceiver.num_accepted += 1
        if ErringReceiver.num_accepted % 4 == 0 and ErringReceiver.num_refused < MOST:
            ErringReceiver.num_refused += 1
            raise Poisoned(-1, "a value is not finite")
        return super().accept(chunk, payload)


def test_members_that_cannot_decode_a_committed_result_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def receiver(replica: VectorReplica, fragment: int) -> Reducer:
        return ErringReceiver(replica.sizes[fragment])

    monkeypatch.setattr(VectorReplica, "receiver", receiver)
    for seed in SEEDS:
        ErringReceiver.num_refused = 0
        run_seed(seed)
        assert ErringReceiver.num_refused >= 2


def test_members_that_cannot_load_a_state_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    load, loads, refused = VectorReplica.load, [], []

    def erring(replica: VectorReplica, fragment: int, data: bytearray) -> None:
        loads.append(fragment)
        if len(loads) % 4 == 0 and len(refused) < MOST:
            refused.append(fragment)
            raise StateError("3 values are not finite")
        load(replica, fragment, data)

    monkeypatch.setattr(VectorReplica, "load", erring)
    for seed in SEEDS:
        refused.clear()
        run_seed(seed)
        assert len(refused) >= 2


class LyingApp:
    """A replica that hands out zeros under true digests, to others only."""

    num_lies = 0

    def __init__(self, replica: VectorReplica) -> None:
        self._replica = replica

    def state_blob(self, fragment: int, blob: bytes) -> VectorBlob | None:
        found = self._replica.state_blob(fragment, blob)
        if found is None:
            return None
        LyingApp.num_lies += 1
        return VectorBlob(found.digests, bytes(len(found.data)), found.piece_bytes)


class LyingDonor(Donor):
    """Worker 2 lies about its states."""

    def __init__(self, app: Any, *others: Any) -> None:
        super().__init__(LyingApp(app) if app.index == 2 else app, *others)


def test_a_donor_that_hands_out_other_bytes_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.member.member.Donor", LyingDonor)
    # In the first two the liar gives the run's first state; in none it is ever alone with what was committed.
    for seed in (13, 7, 19):
        LyingApp.num_lies = 0
        run_seed(seed)
        assert LyingApp.num_lies >= 2
