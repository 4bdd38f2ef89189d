"""What is predicted agrees with the simulator, for every preset that there is."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    "parts",
    [
        {"preset": "diloco", "sync_every": 20},
        {"preset": "streaming", "sync_every": 20, "num_fragments": 4, "delay": 2},
        {"preset": "eager", "sync_every": 10, "delay": 10},
        {"preset": "noloco", "sync_every": 20},
        {"preset": "sparseloco", "sync_every": 20},
    ],
    ids=lambda parts: parts["preset"],
)
def test_a_prediction_agrees_with_a_simulation(parts: dict[str, Any]) -> None:
    up, latency, peers = 60e6, 0.015, 6
    plain = {
        "name": "agreement",
        "run": {"rounds": 8, "grace_s": 600.0},
        "method": parts,
        "model": {"parameters": 2e7},
        "host": {"latency": latency, "jitter": 0.0},
        "peers": [{"name": "p", "count": peers, "step": 1.0, "up": up, "latency": latency, "jitter": 0.0}],
    }
    simulated = simulate(parse_scenario(plain)).utilization
    chosen = method(**parts) if "preset" not in parts else method(parts.pop("preset"), **parts)
    swarm = UniformSwarm(peers, up, up, 4 * latency, 1.0)
    assert predict(chosen, 2e7, swarm).utilization == pytest.approx(simulated, rel=0.05)


def test_every_preset_can_be_predicted_and_takes_memory() -> None:
    for each in PRESETS.values():
        found = predict(each, 1e8, HOME)
        assert 0.0 < found.utilization <= 1.0
        device, host = memory(each, 1e8, 8)
        assert device >= 16e8
        assert host >= 4e8
