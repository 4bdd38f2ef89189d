"""Peers and routes of a scenario: rates in bytes, latencies of one way, and paces that the seed draws."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest

from diloco.simulation.identities import HOST, key_of
from diloco.simulation.scenario import Scenario, parse_scenario
from diloco.simulation.topology import access_of, peers_of, route_of


def scenario(peers: list[dict[str, Any]], **changes: Any) -> Scenario:
    model = {"parameters": "1M", "tokens_per_step": "2k"}
    return parse_scenario({"name": "test", "model": model, "peers": peers, **changes})


def test_an_access_link_is_in_bytes_and_as_fast_down_as_up_if_nothing_else_is_said() -> None:
    (same, own) = scenario(
        [
            {"name": "a", "step": "1s", "up": "8Mbps", "latency": "5ms", "jitter": 0.2, "loss": 0.01},
            {"name": "b", "step": "1s", "up": "8Mbps", "down": "80Mbps"},
        ]
    ).peers
    access = access_of(same)
    assert (access.up, access.down) == (1e6, 1e6)
    assert (access.latency_s, access.jitter, access.loss) == (0.005, 0.2, 0.01)
    assert (access_of(own).up, access_of(own).down) == (1e6, 1e7)


def test_peers_have_the_tokens_of_their_group_or_of_the_model() -> None:
    found = scenario(
        [{"name": "a", "count": 2, "step": "1s"}, {"name": "b", "step": "1s", "tokens_per_step": 10}]
    )
    assert [(peer.name, peer.tokens_per_step) for peer in peers_of(found)] == [
        ("a-1", 2000),
        ("a-2", 2000),
        ("b", 10),
    ]


def test_who_comes_by_an_event_does_not_come_by_itself() -> None:
    found = scenario([{"name": "a", "step": "1s"}, {"name": "b", "step": "1s", "joins_at": "event"}])
    assert [peer.joins_at_s for peer in peers_of(found)] == [0.0, math.inf]


def test_speeds_spread_as_told_and_the_seed_decides_them() -> None:
    def steps(seed: int) -> list[float]:
        found = scenario([{"name": "a", "count": 400, "step": "2s", "spread": 0.3}], seed=seed)
        return [peer.step_time.step_s for peer in peers_of(found)]

    logs = [math.log(step / 2.0) for step in steps(1)]
    assert statistics.fmean(logs) == pytest.approx(0.0, abs=0.05)
    assert statistics.stdev(logs) == pytest.approx(0.3, rel=0.15)
    assert steps(1) == steps(1)
    assert steps(1) != steps(2)


def test_without_regions_nothing_lies_between_two_peers() -> None:
    assert route_of(scenario([{"name": "a", "count": 2, "step": "1s"}])) is None


def test_between_regions_lies_half_a_round_trip_each_way_and_one_line_for_all() -> None:
    find = route_of(
        scenario(
            [
                {"name": "a", "count": 2, "step": "1s", "region": "eu"},
                {"name": "b", "step": "1s", "region": "us"},
                {"name": "c", "step": "1s"},
            ],
            host={"region": "eu"},
            links=[{"between": ["eu", "us"], "rtt": "80ms", "rate": "80Mbps", "loss": 0.02}],
        )
    )
    assert find is not None
    a, also_a, b, c = (key_of(name) for name in ("a-1", "a-2", "b", "c"))
    there, back = find(a, b), find(b, a)
    assert there is not None
    assert back is not None
    assert (there.latency_s, there.loss) == (0.04, 0.02)
    assert [pipe.rate for pipe in there.pipes] == [1e7]
    assert find(also_a, b) is there, "they share its line"
    assert find(key_of(HOST), b) is there
    assert back.pipes[0] is not there.pipes[0], "each direction has its own"
    assert find(a, also_a) is None
    assert find(a, c) is None


def test_a_matrix_says_the_same_as_single_links() -> None:
    peers = [{"name": "a", "step": "1s", "region": "eu"}, {"name": "b", "step": "1s", "region": "us"}]
    matrix = {"regions": ["eu", "us"], "rtt": [["2ms", "90ms"], ["90ms", "4ms"]]}
    find = route_of(scenario(peers, matrix=matrix))
    assert find is not None
    a, b = key_of("a"), key_of("b")
    found = [find(one, two) for one, two in ((a, b), (b, a), (a, a), (b, b))]
    assert [route.latency_s for route in found if route] == [0.045, 0.045, 0.001, 0.002]
