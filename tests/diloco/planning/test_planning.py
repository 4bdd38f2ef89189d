"""Planning: the papers' tables come out, the model agrees with the simulator, and advice can be run."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from diloco.errors import UserError
from diloco.methods.presets import PRESETS, method
from diloco.planning import published_tables
from diloco.planning.advice import bandwidth_for, candidates, recommended, snippet, what_would_help
from diloco.planning.predict import UniformSwarm, memory, predict, predict_scenario
from diloco.planning.timeline import Load, steady
from diloco.settings import parse_settings
from diloco.simulation.runner import simulate
from diloco.simulation.scenario import load_scenario, parse_scenario
from diloco.units import parse_bytes, parse_count, parse_price, parse_rate, parse_seconds, show_rate

SCENARIOS = Path(__file__).parents[3] / "diloco" / "simulation" / "scenarios"
HOME = UniformSwarm(peers=8, up_bps=500e6, down_bps=500e6, rtt_s=0.06, step_s=0.8)


def test_the_table_of_streaming_diloco_comes_out_but_for_two_entries_one_notch_off() -> None:
    off = [n for row in published_tables.STREAMING for n in published_tables.notches("streaming", row)]
    assert len(off) == 25
    assert sorted(map(abs, off)) == [0] * 23 + [1] * 2


def test_the_table_of_scaling_laws_comes_out_but_for_six_entries_one_notch_off() -> None:
    off = [n for row in published_tables.SCALING_LAWS for n in published_tables.notches("scaling-laws", row)]
    assert len(off) == 25
    assert sorted(map(abs, off)) == [0] * 19 + [1] * 6


def test_every_published_number_is_on_the_grid() -> None:
    printed = {published_tables.as_printed(i) for i in range(len(published_tables.GRID))}
    assert all(set(row.printed) <= printed for table in published_tables.TABLES.values() for row in table)


def test_intellect_1_comes_out_within_half_a_point() -> None:
    for _, ours, theirs in published_tables.intellect_1():
        assert ours == pytest.approx(theirs, abs=0.5)


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


def test_what_is_hidden_and_what_is_exposed_is_all_that_the_line_is_busy() -> None:
    for delay in (0, 2, 10):
        load = Load(1.0, 10, lambda step: [0] if step == 10 else [], [4.0], delay=delay)
        timing = steady(load)
        assert timing.compute_s == pytest.approx(10.0)
        assert timing.exposed_s == pytest.approx(max(0.0, 4.0 - delay))
        assert timing.hidden_s + timing.exposed_s == pytest.approx(4.0)


def test_a_result_that_is_due_with_the_next_offer_is_waited_for() -> None:
    load = Load(1.0, 10, lambda step: [0] if step == 10 else [], [14.0], delay=10)
    assert steady(load).utilization == pytest.approx(10 / 14)


def test_more_bandwidth_never_hurts_and_the_needed_one_is_just_enough() -> None:
    chosen = method("diloco")

    def utilization(bps: float) -> float:
        return predict(chosen, 1e9, UniformSwarm(8, bps, bps, 0.05, 1.0)).utilization

    values = [utilization(10.0**e) for e in range(5, 13)]
    assert values == sorted(values)
    needed = bandwidth_for(utilization, 0.9)
    assert needed is not None
    assert utilization(needed) >= 0.9 > utilization(0.98 * needed)
    assert bandwidth_for(lambda bps: 0.5, 0.9) is None


def test_the_recommended_snippet_is_a_valid_run() -> None:
    rows = candidates(10e9, 48, HOME)
    for row in rows:
        settings = parse_settings(tomllib.loads(snippet(row)), "snippet")
        assert settings.method.resolved() == row.method
    chosen, reason = recommended(rows)
    assert chosen.prediction.utilization >= 0.9
    assert "trains" in reason


def test_where_nothing_fits_what_is_said_to_help_does() -> None:
    poor = UniformSwarm(peers=8, up_bps=100e6, down_bps=100e6, rtt_s=0.06, step_s=0.8)
    chosen, reason = recommended(candidates(10e9, 48, poor))
    assert "nothing reaches 90%" in reason
    helps = what_would_help(chosen, 10e9, poor)
    rate = parse_rate(helps[0].split(" of ")[0].replace(" ", ""))
    faster = UniformSwarm(8, 1.02 * rate, 1.02 * rate, 0.06, 0.8)
    assert predict(chosen.method, 10e9, faster).utilization >= 0.9


def test_every_preset_can_be_predicted_and_takes_memory() -> None:
    for each in PRESETS.values():
        found = predict(each, 1e8, HOME)
        assert 0.0 < found.utilization <= 1.0
        device, host = memory(each, 1e8, 8)
        assert device >= 16e8
        assert host >= 4e8


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_rate, "500Mbps", 5e8),
        (parse_rate, "1 Gbit/s", 1e9),
        (parse_rate, "10MB/s", 8e7),
        (parse_rate, "10MBps", 8e7),
        (parse_seconds, "60ms", 0.06),
        (parse_seconds, "2h", 7200.0),
        (parse_bytes, "24GiB", 24 * 2**30),
        (parse_count, "10B", 1e10),
        (parse_count, "1.5e9", 1.5e9),
        (parse_price, "2.5/h", 2.5),
        (parse_price, "$60/d", 2.5),
    ],
)
def test_quantities_are_read_as_people_type_them(parse: Any, text: str, value: float) -> None:
    assert parse(text) == pytest.approx(value)


@pytest.mark.parametrize("parse", [parse_rate, parse_seconds, parse_bytes, parse_count, parse_price])
@pytest.mark.parametrize("text", ["", "fast", "-3s", "10 parsecs", "1e999", "nan", "3 3"])
def test_nonsense_is_refused_in_a_line(parse: Any, text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_rates_read_back_what_they_show() -> None:
    for bps in (5e8, 1.5e9, 2.5e5):
        assert parse_rate(show_rate(bps).replace(" ", "")) == pytest.approx(bps)
