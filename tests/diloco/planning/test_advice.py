"""Advice can be run, and what is said to help does."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest

from diloco.methods.presets import PRESETS, method
from diloco.planning.advice import (
    bandwidth_for,
    candidates,
    left_out,
    recommended,
    snippet,
    what_would_help,
)
from diloco.planning.predict import UniformSwarm, predict
from diloco.planning.timeline import Timing
from diloco.settings import parse_settings
from diloco.units import parse_rate

HOME = UniformSwarm(peers=8, up_bps=500e6, down_bps=500e6, rtt_s=0.06, step_s=0.8)


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


def test_every_method_but_those_left_out_has_a_row_and_only_ranked_ones_are_recommended() -> None:
    rows = candidates(10e9, 48, replace(HOME, up_bps=30e6, down_bps=30e6))
    assert {row.preset for row in rows} == set(PRESETS) - set(left_out())
    assert set(left_out()) == {name for name, each in PRESETS.items() if each.quorum}
    ranked = [row.ranked for row in rows]
    assert ranked == sorted(ranked, reverse=True)
    best = replace(rows[-1], prediction=replace(rows[-1].prediction, timing=Timing(1.0, 0.0, 0.0)))
    chosen, _ = recommended([*rows, best])
    assert chosen.ranked
    assert all(row.method == PRESETS[row.preset] for row in rows if not row.ranked)


def test_what_tcp_gets_of_a_line_is_counted_in_what_is_said_to_help() -> None:
    def named(swarm: UniformSwarm) -> float:
        row = next(row for row in candidates(10e9, 48, swarm) if row.preset == "diloco")
        return parse_rate(what_would_help(row, 10e9, swarm)[0].split(" of ")[0].replace(" ", ""))

    assert named(replace(HOME, line_efficiency=0.5)) == pytest.approx(2 * named(HOME), rel=0.03)


def test_where_nothing_fits_what_is_said_to_help_does() -> None:
    poor = UniformSwarm(peers=8, up_bps=100e6, down_bps=100e6, rtt_s=0.06, step_s=0.8)
    chosen, reason = recommended(candidates(10e9, 48, poor))
    assert "nothing reaches 90%" in reason
    helps = what_would_help(chosen, 10e9, poor)
    rate = parse_rate(helps[0].split(" of ")[0].replace(" ", ""))
    faster = UniformSwarm(8, 1.02 * rate, 1.02 * rate, 0.06, 0.8)
    assert predict(chosen.method, 10e9, faster).utilization >= 0.9


def test_the_first_that_is_busy_enough_is_taken_and_not_the_busiest() -> None:
    rows = candidates(1e9, 24, UniformSwarm(peers=8, up_bps=100e9, down_bps=100e9, rtt_s=0.01, step_s=1.0))
    chosen, reason = recommended(rows)
    assert chosen is rows[0]
    assert chosen.prediction.utilization < max(row.prediction.utilization for row in rows)
    assert "nothing is stale" in reason


def test_an_exchange_longer_than_every_patience_gets_a_grace_that_covers_it() -> None:
    slow = UniformSwarm(peers=8, up_bps=20e6, down_bps=20e6, rtt_s=0.06, step_s=5.0)
    for row in candidates(1e9, 24, slow):
        run = parse_settings(tomllib.loads(snippet(row)), "snippet").run
        if row.prediction.exchange_s >= 60.0:
            assert row.prediction.exchange_s <= run.grace_s < row.prediction.exchange_s + 1.0
        else:
            assert "[run]" not in snippet(row)


def test_each_single_change_that_is_named_is_enough_by_itself() -> None:
    poor = UniformSwarm(peers=8, up_bps=100e6, down_bps=100e6, rtt_s=0.06, step_s=0.8)
    chosen = next(row for row in candidates(1e9, 24, poor) if row.prediction.utilization < 0.85)
    helps = [each for each in what_would_help(chosen, 1e9, poor) if " = " in each]
    assert helps
    for each in helps:
        key, _, value = each.partition(" (")[0].partition(" = ")
        changed = chosen.method.replaced(**{key: tomllib.loads(f"v = {value}")["v"]})
        assert predict(changed, 1e9, poor).utilization >= 0.9


def test_a_rate_that_no_line_has_is_not_named() -> None:
    hopeless = UniformSwarm(peers=8, up_bps=1e6, down_bps=1e6, rtt_s=30.0, step_s=0.01)
    rows = [row for row in candidates(1e9, 24, hopeless) if row.method.name == "diloco"]
    assert not any("upload and download" in each for each in what_would_help(rows[0], 1e9, hopeless))
    assert bandwidth_for(lambda bps: float(bps > 1e6), 0.9, min_bps=5e6) == pytest.approx(5e6)
