"""A scenario's events become single faults: at a time, at a round, or at random by the seed."""

from __future__ import annotations

from typing import Any

import pytest

from diloco.simulation.faults import end_s, faults_of
from diloco.simulation.scenario import Scenario, parse_scenario


def scenario(*events: dict[str, Any], **changes: Any) -> Scenario:
    return parse_scenario(
        {
            "name": "test",
            "end": "1h",
            "model": {"parameters": "1M"},
            "peers": [
                {"name": "p", "count": 3, "step": "1s", "region": "here"},
                {"name": "q", "step": "2s", "region": "there"},
            ],
            "events": list(events),
            **changes,
        }
    )


def test_a_fault_reads_as_a_sentence_that_names_who_when_and_how_long() -> None:
    told = map(
        str,
        faults_of(
            scenario(
                {"do": "freeze", "peers": "p-2", "at": "90s", "for": "5s"},
                {"do": "degrade", "peers": "q", "round": 3, "after": "1s", "factor": 4.0},
            )
        ),
    )
    assert list(told) == ["at 90.000 s: freeze p-2 for 5 s", "at round 3 and 1 s: degrade q by 4"]


def test_names_of_groups_and_regions_mean_all_of_their_peers_once() -> None:
    (fault,) = faults_of(scenario({"do": "crash", "peers": ["p", "p-1", "there", "host"], "at": "1s"}))
    assert fault.peers == ("p-1", "p-2", "p-3", "q", "host")


def test_faults_come_in_the_order_of_time_and_those_of_rounds_last() -> None:
    faults = faults_of(
        scenario(
            {"do": "crash", "peers": "q", "round": 1},
            {"do": "crash", "peers": "q", "at": "9s"},
            {"do": "crash", "peers": "q", "at": "3s"},
        )
    )
    assert [fault.at_s for fault in faults] == [3.0, 9.0, None]


def test_random_faults_come_about_as_often_as_told_until_they_are_to_stop() -> None:
    faults = faults_of(scenario({"do": "crash", "every": "10s", "until": "2000s"}))
    times = [fault.at_s for fault in faults]
    assert 150 < len(times) < 250
    assert max(times) < 2000.0
    assert {fault.peers[0] for fault in faults} == {"p-1", "p-2", "p-3", "q"}


def test_the_seed_decides_random_faults_and_another_event_leaves_them_as_they_are() -> None:
    crash, freeze = {"do": "crash", "every": "100s"}, {"do": "freeze", "peers": "q", "at": "5s", "for": "1s"}
    assert faults_of(scenario(crash, seed=1)) == faults_of(scenario(crash, seed=1))
    assert faults_of(scenario(crash, seed=1)) != faults_of(scenario(crash, seed=2))
    both = faults_of(scenario(crash, freeze, seed=1))
    assert [fault for fault in both if fault.do == "crash"] == faults_of(scenario(crash, seed=1))


def test_two_random_events_of_one_kind_happen_at_different_times() -> None:
    times = [fault.at_s for fault in faults_of(scenario(*[{"do": "crash", "every": "100s"}] * 2))]
    assert len(set(times)) == len(times) > 20


def test_more_faults_than_anyone_can_mean_are_refused() -> None:
    with pytest.raises(ValueError, match=r"events\.0: more than"):
        faults_of(scenario({"do": "crash", "every": "1ms"}))


def test_without_an_end_a_scenario_has_time_for_its_rounds_at_the_pace_of_the_slowest() -> None:
    assert end_s(scenario(end="5min")) == 300.0
    open_ended = scenario(end=None, run={"rounds": 7}, method={"preset": "diloco", "sync_every": 11})
    assert end_s(open_ended) == 3600.0 + 20 * 7 * 11 * 2.0
