"""Scenarios: time adds up, links cost what they cost, faults are survived and told of, and seeds replay."""

from __future__ import annotations

import json
from typing import Any

import pytest

import diloco
from diloco.errors import SettingsError
from diloco.simulation.faults import Fault, faults_of
from diloco.simulation.report.report import SimulationReport
from diloco.simulation.runner import ScenarioRun, simulate
from diloco.simulation.scenario import parse_scenario
from diloco.simulation.sweep import SeedOutcome, outcome_of, shrink
from peers.node import Node


def scenario(**changes: Any) -> dict[str, Any]:
    """Four peers on links of 100 Mbit/s that train 5M parameters."""
    return {
        "name": "test",
        "run": {"rounds": 4, "failure_timeout_s": 4.0, "grace_s": 20.0},
        "method": {"preset": "diloco", "sync_every": 10, "codec": "fp32"},
        "model": {"parameters": "5M", "tokens_per_step": 100},
        "peers": [{"name": "p", "count": 4, "step": "1s", "up": "100Mbps", "latency": "10ms", "jitter": 0.0}],
        "host": {"latency": "0ms", "jitter": 0.0},
        **changes,
    }


def peer(report: SimulationReport, name: str) -> Any:
    return next(each for each in report.peers if each.name == name)


def test_what_a_peer_does_adds_up_to_its_time() -> None:
    events = [
        {"do": "crash", "peers": "p-2", "round": 1, "for": "8s"},
        {"do": "freeze", "peers": "p-3", "at": "25s", "for": "6s"},
    ]
    report = simulate(scenario(events=events, run={"rounds": 6, "failure_timeout_s": 4.0, "grace_s": 20.0}))
    assert report.ended == "the run is finished"
    assert not report.violations
    for each in report.peers:
        assert sum(each.seconds.values()) == pytest.approx(report.seconds - each.spans[0].start_s, abs=1e-6)
        for before, after in zip(each.spans, each.spans[1:], strict=False):
            assert before.end_s <= after.start_s
    assert peer(report, "p-2").seconds["down"] == pytest.approx(8.0)
    assert peer(report, "p-3").seconds["frozen"] == pytest.approx(6.0)


def test_a_network_that_costs_nothing_costs_nothing() -> None:
    fast = {"up": "1000Tbps", "latency": "0s", "jitter": 0.0}
    peers = [{"name": "p", "count": 4, "step": "1s", **fast}]
    report = simulate(scenario(peers=peers, host=fast))
    assert report.utilization > 0.995
    assert report.tokens_per_s == pytest.approx(report.ideal_tokens_per_s, rel=0.005)


def test_an_exchange_takes_what_its_bytes_take() -> None:
    report = simulate(scenario())
    wire_s = 2 * 3 / 4 * 4 * 5e6 / 12.5e6
    for each in report.rounds:
        assert each.participants == 4
        assert each.exchange_s == pytest.approx(wire_s, rel=0.06)
    sent = sum(each.sent["exchange"] + each.sent.get("early", 0) for each in report.peers) / 4 / 4
    assert sent == pytest.approx(2 * 3 / 4 * 4 * 5e6, rel=0.01)


def test_a_shared_line_is_shared() -> None:
    ends = [
        {"name": name, "count": 2, "step": "1s", "up": "10Gbps", "latency": 0.0, "region": name}
        for name in ("east", "west")
    ]
    links = [{"between": ["east", "west"], "rate": "100Mbps", "rtt": "20ms", "jitter": 0.0}]
    report = simulate(scenario(peers=ends, links=links, host={"latency": 0.0}))
    # Each of two sends a quarter of its vector to each of two over there, and as much of means.
    wire_s = 4 * 2 / 4 * 4 * 5e6 / 12.5e6
    assert report.rounds[1].exchange_s == pytest.approx(wire_s, rel=0.06)


def test_a_crash_and_a_join_are_told_with_what_they_cost() -> None:
    peers = [*scenario()["peers"], {"name": "late", "step": "1s", "up": "100Mbps", "joins_at": "event"}]
    events = [
        {"do": "crash", "peers": "p-2", "round": 1},
        {"do": "join", "peers": "late", "round": 2, "after": "2s"},
    ]
    report = simulate(scenario(peers=peers, events=events, run={"rounds": 8, "failure_timeout_s": 4.0}))
    crash, join = report.recoveries
    assert crash.peer == "p-2"
    assert crash.detect_s is not None
    assert 3.0 <= crash.detect_s <= 8.0
    assert crash.rejoin_s is None
    assert crash.recommit_s is not None
    assert join.peer == "late"
    assert join.rejoin_s is not None
    assert join.rejoin_s >= 4 * 5e6 / 12.5e6
    assert report.rounds[-1].participants == 4
    assert peer(report, "late").received["state"] > 4 * 5e6


def test_members_that_exchange_nothing_leave_each_other_in_peace() -> None:
    def control_bytes(count: int) -> float:
        peers = [{**scenario()["peers"][0], "count": count}]
        method = {"preset": "diloco", "sync_every": 200}
        report = simulate(scenario(peers=peers, method=method))
        assert report.rounds[-1].participants == count
        return report.peers[0].sent["control"] / report.seconds

    assert control_bytes(9) < 1.5 * control_bytes(3)


def test_what_is_to_come_does_not_pile_up_with_rounds() -> None:
    """Each wait left a wake-up for when its patience would have ended."""
    running = ScenarioRun(parse_scenario(scenario(run={"rounds": 40, "failure_timeout_s": 4.0})), [], Node)
    assert running.run().ended == "the run is finished"
    assert len(running.engine.net.timeline) < 50


def test_a_joiner_of_many_fragments_with_a_slow_donor_gets_the_state() -> None:
    """It asked for too much at once, was expelled, and began anew for ever."""
    peers = [
        {"name": "p", "count": 2, "step": "1s", "up": "20Mbps"},
        {"name": "late", "count": 3, "step": "1s", "up": "20Mbps", "joins_at": "5s"},
    ]
    method = {"preset": "streaming", "sync_every": 20, "num_fragments": 8, "delay": 3}
    report = simulate(
        scenario(peers=peers, method=method, end="30min", run={"rounds": 20, "failure_timeout_s": 4.0})
    )
    assert report.ended == "the run is finished"
    assert not report.violations
    assert not [mark for mark in report.marks if "no message" in mark.text]
    assert report.rounds[-1].participants == 5


def test_a_dead_host_comes_back_and_a_partition_heals() -> None:
    events = [
        {"do": "crash", "peers": "host", "round": 1, "after": "2s", "for": "6s"},
        {"do": "partition", "peers": ["p-1", "p-2"], "round": 3, "for": "10s"},
        {"do": "degrade", "peers": "p-4", "round": 5, "for": "30s", "factor": 5.0},
    ]
    report = simulate(scenario(events=events, run={"rounds": 10, "failure_timeout_s": 3.0, "grace_s": 20.0}))
    assert report.ended == "the run is finished"
    assert not report.violations
    assert len(report.rounds) >= 10
    assert {"crash host for 6 s", "restart", "heal"} <= {mark.text for mark in report.marks}


@pytest.mark.parametrize(
    ("role", "ended"), [({"role": "liar"}, "the run is finished"), ({}, "the scenario's end")]
)
def test_a_run_ends_with_its_honest_peers_and_waits_for_nobody_that_means_harm(
    role: dict[str, str], ended: str
) -> None:
    peers = [*scenario()["peers"], {"name": "other", "step": "1s", "up": "100Mbps", **role}]
    events = [{"do": "partition", "peers": "other", "at": "25s", "for": "500s"}]
    parsed = parse_scenario(scenario(peers=peers, events=events, end="200s"))
    report = ScenarioRun(parsed, faults_of(parsed), Node).run()
    assert report.ended == ended
    assert len(report.rounds) == 4


def test_the_same_seed_gives_the_same_bytes_and_another_others() -> None:
    base = scenario(
        peers=[{"name": "p", "count": 4, "step": "1s", "step_jitter": 0.1, "spread": 0.1, "up": "100Mbps"}],
        events=[{"do": "crash", "every": "20s", "for": "10s"}],
    )
    first, again, other = (simulate(base, seed=seed) for seed in (1, 1, 2))
    assert first.to_json() == again.to_json()
    assert first.to_json() != other.to_json()
    assert first.trace_hash != other.trace_hash
    json.loads(first.to_json())


def test_gossip_runs_to_its_end_without_a_coordinator_in_the_way() -> None:
    for preset in ("noloco", "moshpit"):
        report = simulate(scenario(method={"preset": preset, "sync_every": 10}))
        assert report.ended == "the run is finished"
        assert not report.violations
        assert len(report.rounds) == 4
        assert report.rounds[0].participants == 4
        assert 0 < report.tokens_applied <= report.tokens


def test_new_pairs_of_gossip_send_each_part_once_whoever_dials() -> None:
    peers = [{"name": "p", "count": 8, "step": "1s", "up": "200Mbps", "latency": "30ms", "jitter": 0.0}]
    method = {"preset": "noloco", "sync_every": 5, "codec": "fp32"}
    report = simulate(scenario(peers=peers, method=method, run={"rounds": 12, "grace_s": 60.0}))
    assert report.ended == "the run is finished"
    assert sum(each.sent_again for each in report.peers) == 0
    # Of the parameters and of what was trained, half a vector each as a part, and half as a mean.
    assert sum(each.sent["exchange"] for each in report.peers) == pytest.approx(
        8 * 12 * 2 * 4 * 5e6, rel=0.01
    )


def test_a_real_model_is_trained_under_virtual_time() -> None:
    report = simulate(
        scenario(
            mode="trained",
            model={"layers": 1, "heads": 2, "width": 16, "context": 16},
            train={"batch_size": 2, "warmup_steps": 1},
            peers=[{"name": "p", "count": 2, "step": "0.5s"}],
        )
    )
    assert report.ended == "the run is finished"
    assert not report.violations
    assert report.losses[-1][2] < report.losses[0][2]
    assert report.tokens == sum(each.steps for each in report.peers) * 2 * 16


class Forgetful(Node):
    """Whoever crashed and came back has lost the journal: a host begins the run's history anew."""

    def __init__(self, *args: Any, **options: Any) -> None:
        hosting = options.get("hosting")
        if hosting is not None and hosting.journal:
            hosting.journal.clear()
        super().__init__(*args, **options)


def test_a_planted_bug_is_found_and_shrunk_to_what_it_needs() -> None:
    found = parse_scenario(
        scenario(
            events=[
                {"do": "freeze", "peers": "p-1", "at": "12s", "for": "5s"},
                {"do": "crash", "peers": "host", "at": "30s", "for": "3s"},
                {"do": "crash", "peers": "p-3", "at": "50s", "for": "5s"},
            ],
            run={"rounds": 8, "failure_timeout_s": 3.0},
            end="5min",
        )
    )

    def run(scenario: Any, seed: int, faults: Any) -> SeedOutcome:
        report = simulate(scenario, seed=seed, faults=faults, make_node=Forgetful)
        problem = report.violations[0] if report.violations else ""
        return SeedOutcome(seed, 0, 0.0, 0.0, 0.0, problem, report.trace_hash)

    problem = run(found, 0, faults_of(found)).problem
    assert problem.startswith("invariant S9 at ")
    left = shrink(found, 0, problem, run)
    assert 1 in left
    assert 0 not in left


def test_an_error_in_the_code_that_runs_is_a_finding() -> None:
    broken = parse_scenario(scenario())
    outcome = outcome_of(broken, 0, [Fault("join", ("nobody",), at_s=1.0)])
    assert outcome.problem.startswith("KeyError")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peers": []}, "peers"),
        ({"peers": [{"name": "p", "step": "1 fortnight"}]}, "fortnight"),
        ({"peers": [{"name": "p", "step": "1s", "upp": "1Mbps"}]}, "did you mean up?"),
        ({"peers": [{"name": "p", "count": 4}]}, "step or flops"),
        ({"events": [{"do": "crash", "peers": "q", "at": "1s"}]}, "no peer, group or region"),
        ({"events": [{"do": "freeze", "peers": "p-1", "at": "1s"}]}, "how long"),
        ({"events": [{"do": "crash"}]}, "at, round and every"),
        ({"method": {"preset": "dilocoo"}}, "dilocoo"),
        ({"model": {"parameters": "much"}}, "much"),
        ({"links": [{"between": ["mars", "p"]}]}, "mars"),
        ({"nam": "x"}, "did you mean name?"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused_in_a_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        simulate(scenario(**changes))
    assert said in str(caught.value)
    assert all(len(line) < 400 for line in str(caught.value).splitlines())


def test_the_public_face_has_it() -> None:
    assert diloco.simulate is simulate
