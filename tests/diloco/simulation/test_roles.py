"""Roles of simulated peers: what a scenario may say of them, and what the report tells."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from diloco.errors import SettingsError
from diloco.simulation.honest import HonestPeers
from diloco.simulation.recorder import Recorder
from diloco.simulation.report.tables import render
from diloco.simulation.roles import dripper, equivocator, flapper, liar, mute, rubbish, sybil, two_roots
from diloco.simulation.roles.lying_reducer import LyingReducer, true_values
from diloco.simulation.roles.registry import ROLES
from diloco.simulation.roles.role import Role
from diloco.simulation.runner import ScenarioRun, simulate
from diloco.simulation.scenario import parse_scenario
from diloco.simulation.vectors import VectorReplica, contribution_of, step_of
from diloco.terminal import wide_console
from peers.admission.identity import Identity, verify
from peers.node import Node
from peers.protocol.signing import INDEX_TAG
from peers.protocol.traces import RecomputedTrace
from tests.sim.roles import report_of, scenario_of, table_of
from transport.collectives.proofs import Index, Terms
from transport.collectives.reducer import NumpyReducer, Part
from transport.digests import digest_of
from transport.effects import Effect


def plain(**changes: Any) -> dict[str, Any]:
    return {
        "name": "roles",
        "mode": "vectors",
        "run": {"rounds": 4},
        "method": {"preset": "local_sgd", "sync_every": 4},
        "model": {"parameters": 100},
        "peers": [{"name": "a", "count": 3, "step": 0.1}, {"name": "b", "step": 0.1, "role": "liar"}],
        **changes,
    }


def test_every_role_is_one_of_a_scenario() -> None:
    modules = (liar, equivocator, sybil, flapper, dripper, rubbish, mute)
    assert {role.__module__ for role in ROLES.values()} == {module.__name__ for module in modules}
    for role in ROLES:
        assert parse_scenario(plain()).peers[1].role == "liar"
        assert [peer.role for peer in scenario_of(role, 0).peers if peer.role] == [role]
        assert ROLES[role].about
        assert issubclass(ROLES[role], Role)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"peers": [{"name": "b", "step": 0.1, "count": 3, "role": "thief"}]}, "role"),
        ({"peers": [{"name": "b", "step": 0.1, "count": 3, "role": "liar"}]}, "every peer has a role"),
        ({"method": {"preset": "noloco"}}, "neither gossip nor a delay"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        parse_scenario(plain(**changes))


def test_the_report_tells_what_a_role_did_and_what_the_checker_says() -> None:
    report = simulate(plain())
    assert [(each.peer, each.role) for each in report.roles] == [("b", "liar")]
    assert sum(report.roles[0].deeds.values()) > 0
    assert report.honest_rate > 0.0
    console = wide_console()
    with console.capture() as shown:
        console.print(render(report))
    assert ("X12 holds" in shown.get()) is not any("X12" in line for line in report.violations)
    assert "honest peers commit at" in shown.get()
    assert "liar" in shown.get()
    assert "put out, because" in shown.get()


def test_without_roles_nothing_is_compared() -> None:
    report = simulate(plain(peers=[{"name": "a", "count": 3, "step": 0.1}]))
    assert (report.roles, report.honest_rate) == ([], 0.0)


def test_a_lying_reducer_sends_other_numbers_and_calls_other_numbers_the_mean() -> None:
    values = np.arange(4, dtype=np.float32)
    lying = LyingReducer(values, 10.0, 2.0)
    lying.begin(4, 1)
    assert np.array_equal(np.frombuffer(bytes(lying.encode(0)), np.float32), values * 10)
    mean = np.frombuffer(bytes(lying.reduce(0, [Part(0, 1.0, None)])), np.float32)
    assert np.array_equal(mean, values * 20)
    assert np.array_equal(true_values(NumpyReducer(4, values)), values)


def test_a_signer_that_keeps_its_statements_makes_one_about_another_root() -> None:
    identity, terms = Identity(b"1" * 32), Terms(b"r" * 32, 7, b"b" * 32, 0, 12)
    keeps, chunks = two_roots.KeepsStatements(identity), [b"one", b"two", b"three"]
    index = Index([digest_of(chunk) for chunk in chunks])
    signature = keeps.sign(INDEX_TAG, terms.statement(index.root, 0, (b"a" * 32,), 1))
    again = keeps.sign_another(signature, index.path(2), b"three", b"other")
    changed = Index([digest_of(chunk) for chunk in (b"one", b"two", b"other")])
    assert again is not None
    assert verify(keeps.public, INDEX_TAG, terms.statement(changed.root, 0, (b"a" * 32,), 1), again)
    assert keeps.sign_another(identity.sign(b"tag", b"data"), index.path(2), b"three", b"other") is None
    assert keeps.sign_another(signature, index.path(2), b"not what it was", b"other") is None
    for number in range(300):
        keeps.sign(INDEX_TAG, terms.statement(digest_of(b"%d" % number), 0, ()))
    assert keeps.sign_another(signature, index.path(2), b"three", b"other") is None, "forgotten"


def test_a_vector_replica_steps_by_the_mean_of_contributions_that_anyone_can_recompute() -> None:
    replica = VectorReplica("a", (8,), 4, 64)
    reducer, norm = replica.contribution(0)
    expected = contribution_of("a", 0, np.zeros(8, np.float32))
    assert np.array_equal(true_values(reducer), expected)
    assert norm == pytest.approx(np.linalg.norm(expected))
    mean = NumpyReducer(8)
    mean.output = expected
    replica.apply(0, mean, None, 0.0, False)
    assert np.array_equal(replica.states[0], step_of(np.zeros(8, np.float32), expected))
    blob = replica.state_blob(0, replica.digest(0))
    assert blob is not None
    other = VectorReplica("b", (8,), 4, 64)
    other.load(0, bytearray(b"".join(bytes(blob.piece(i)) for i in range(len(blob.digests)))))  # type: ignore[arg-type]
    assert other.digest(0) == replica.digest(0)


class Recomputed(Recorder):
    """Watches, too, what the host computed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[bool] = []

    def effect(self, now: float, name: str, effect: Effect) -> None:
        super().effect(now, name, effect)
        if isinstance(effect, RecomputedTrace):
            self.found.append(effect.found)


def test_whether_a_liar_holds_another_state_the_host_computes_each_time() -> None:
    run = ScenarioRun(scenario_of("liar", 3), [], Node)
    seen = Recomputed()
    seen.attach(run.engine)
    run.engine.watchers.append(seen)
    report = run.run()
    (liar,) = run.engine.roles.values()
    assert liar.deeds["said another check of its state"] > 0
    assert report.violations == []
    assert len(seen.found) > 0
    assert all(seen.found)


def test_a_rate_below_the_floor_breaks_x12() -> None:
    honest = HonestPeers({"b": Role(Random(0))}, ["a", "b"])
    honest.compare(10.0, 0.79, 1.0)
    assert honest.violations[0].startswith("invariant X12 at 10.000 s: honest peers commit at 0.79")
    honest.compare(10.0, 0.81, 1.0)
    assert len(honest.violations) == 1


def test_the_table_of_many_seeds_has_a_row_for_each_role() -> None:
    assert "| role |" in table_of([])
    assert report_of("flapper", 3, rounds=4).roles[0].role == "flapper"
