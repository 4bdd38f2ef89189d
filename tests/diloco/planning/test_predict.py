"""What is predicted agrees with the simulator, for every preset that there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diloco.methods.presets import PRESETS, method
from diloco.planning.predict import UniformSwarm, memory, predict, predict_scenario
from diloco.simulation.runner import simulate
from diloco.simulation.scenario import load_scenario, parse_scenario

SCENARIOS = Path(__file__).parents[3] / "diloco" / "simulation" / "scenarios"
HOME = UniformSwarm(peers=8, up_bps=500e6, down_bps=500e6, rtt_s=0.06, step_s=0.8)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("two-data-centres", []),
        ("two-data-centres", ["method.sync_every=100"]),
        ("eight-homes", []),
        ("four-continents", []),
        ("hundred-billion", []),
        ("hundred-billion", ["method.delay=0"]),
        ("mixed-speeds", []),
        ("mixed-speeds", ["method.pace=by_speed"]),
    ],
)
def test_the_model_agrees_with_the_simulator_on_shipped_scenarios(name: str, changes: list[str]) -> None:
    scenario = load_scenario(SCENARIOS / f"{name}.toml", ["run.rounds=6", *changes])
    assert predict_scenario(scenario) == pytest.approx(simulate(scenario).utilization, rel=0.05)


AGREEMENT: list[tuple[dict[str, Any], int]] = [
    ({"preset": "diloco", "sync_every": 20}, 6),
    ({"preset": "local_sgd", "sync_every": 20}, 6),
    ({"preset": "slowmo"}, 6),
    ({"preset": "muloco", "sync_every": 10}, 6),
    ({"preset": "streaming", "sync_every": 20, "num_fragments": 4, "delay": 2}, 6),
    ({"preset": "eager", "sync_every": 2}, 6),
    ({"preset": "delayed", "sync_every": 2}, 6),
    ({"preset": "co2", "sync_every": 12}, 6),
    ({"preset": "sparseloco", "sync_every": 20}, 6),
    ({"preset": "sparta"}, 6),
    ({"preset": "demo"}, 6),
    ({"preset": "des_loc", "sync_every": 20}, 6),
    ({"preset": "dilocox", "sync_every": 1, "delay": 0}, 6),
    ({"preset": "dilocox", "sync_every": 1}, 6),
    ({"preset": "dilocox", "sync_every": 1, "rank": 192}, 6),
    ({"preset": "noloco", "sync_every": 20}, 6),
    ({"preset": "noloco", "sync_every": 20}, 7),
    ({"preset": "moshpit", "sync_every": 20}, 7),
    ({"preset": "moshpit", "sync_every": 20}, 8),
    ({"preset": "moshpit", "sync_every": 20}, 12),
]


@pytest.mark.parametrize(
    ("parts", "peers"), AGREEMENT, ids=[f"{parts['preset']}-{peers}" for parts, peers in AGREEMENT]
)
def test_a_prediction_agrees_with_a_simulation(parts: dict[str, Any], peers: int) -> None:
    """Parameters are few so that it is quick; des_loc's moments move together every sixth round. On a grid
    that is not full the first ten rounds are slower, until its lines are in step."""
    up, latency, num_parameters = 60e6, 0.015, 2e7
    chosen = method(**{"name" if key == "preset" else key: value for key, value in parts.items()})
    plain = {
        "name": "agreement",
        "run": {"rounds": 48 if chosen.sync_every < 5 or chosen.group == "grid" else 24, "grace_s": 600.0},
        "method": parts,
        "model": {"parameters": num_parameters},
        "host": {"latency": latency, "jitter": 0.0},
        "peers": [{"name": "p", "count": peers, "step": 1.0, "up": up, "latency": latency, "jitter": 0.0}],
    }
    simulated = simulate(parse_scenario(plain)).utilization
    swarm = UniformSwarm(peers, up, up, 4 * latency, 1.0)
    assert predict(chosen, num_parameters, swarm).utilization == pytest.approx(simulated, rel=0.05)


def test_every_synchronous_method_is_held_against_the_simulator() -> None:
    held = {parts["preset"] for parts, _ in AGREEMENT}
    assert held == {name for name, each in PRESETS.items() if not each.quorum}


def test_every_preset_can_be_predicted_and_takes_memory() -> None:
    for each in PRESETS.values():
        found = predict(each, 1e8, HOME)
        assert 0.0 < found.utilization <= 1.0
        device, host = memory(each, 1e8, 8)
        assert device >= 16e8
        assert host >= 4e8


def test_moments_move_less_often_and_are_held_beside_the_parameters() -> None:
    plain, moments = method("local_sgd", sync_every=64), method("des_loc")
    lone, both = (predict(each, 1e8, HOME) for each in (plain, moments))
    assert both.bytes_per_period == pytest.approx(lone.bytes_per_period * (1 + 1 / 3 + 1 / 6))
    assert both.timing.compute_s == pytest.approx(lone.timing.compute_s)
    assert lone.timing.exposed_s < both.timing.exposed_s < 1.51 * lone.timing.exposed_s
    assert both.exchange_s > 2.9 * lone.exchange_s  # every sixth time all three go
    assert memory(moments, 1e8, 8)[1] - memory(plain, 1e8, 8)[1] == 2 * 4e8


def test_what_tcp_gets_of_a_line_is_as_good_as_a_slower_line() -> None:
    for name in ("diloco", "streaming", "noloco", "moshpit"):
        half = replace(HOME, line_efficiency=0.5)
        slower = replace(HOME, up_bps=HOME.up_bps / 2)
        assert predict(method(name), 1e9, half) == predict(method(name), 1e9, slower)


def test_a_grid_that_is_not_full_waits_less_than_a_full_one() -> None:
    full, lines = (predict(method("moshpit"), 1e8, replace(HOME, peers=peers)) for peers in (16, 8))
    assert full.timing.exposed_s < lines.timing.exposed_s * 2
    assert lines.bytes_per_period < full.bytes_per_period
    assert lines.utilization > full.utilization


def test_overlap_holds_where_local_steps_began_and_eager_outer_parameters_of_its_own() -> None:
    waits, delayed, eager = (
        memory(method("diloco", sync_every=30, codec="int4"), 1e8, 8)[1],
        memory(method("delayed"), 1e8, 8)[1],
        memory(method("eager"), 1e8, 8)[1],
    )
    assert delayed - waits == 4e8
    assert eager - delayed == 3 * 4e8  # parameters, momentum, and what was added last
