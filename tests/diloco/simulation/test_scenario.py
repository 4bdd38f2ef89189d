"""What a scenario file means, and that what makes no sense in it is refused with its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diloco.errors import SettingsError
from diloco.simulation.scenario import load_scenario, parse_scenario

PLAIN: dict[str, Any] = {
    "name": "test",
    "model": {"parameters": "2M", "tokens_per_step": "1k"},
    "peers": [{"name": "p", "count": 2, "step": "1s", "region": "here"}],
}


def test_quantities_may_be_written_as_people_write_them_or_as_numbers() -> None:
    written = parse_scenario(
        {**PLAIN, "peers": [{"name": "p", "count": 2, "step": "1.5s", "up": "40Mbps", "latency": "10ms"}]}
    )
    numbers = parse_scenario(
        {**PLAIN, "peers": [{"name": "p", "count": 2, "step": 1.5, "up": 40e6, "latency": 0.01}]}
    )
    assert written.peers == numbers.peers


def test_steps_of_flops_take_six_operations_per_parameter_and_token() -> None:
    found = parse_scenario({**PLAIN, "peers": [{"name": "p", "count": 2, "flops": "1T", "mfu": 0.5}]})
    assert found.step_s(found.peers[0]) == pytest.approx(6 * 2e6 * 1e3 / (1e12 * 0.5))


def test_a_name_of_an_event_means_a_peer_a_group_or_a_region() -> None:
    found = parse_scenario(PLAIN)
    assert found.who("p-2") == ["p-2"]
    assert found.who("p") == found.who("here") == ["p-1", "p-2"]
    assert (found.who("host"), found.who("any")) == (["host"], [])


def test_the_runs_settings_are_those_of_a_run_file_with_the_scenarios_seed() -> None:
    settings = parse_scenario(
        {**PLAIN, "seed": 9, "run": {"rounds": 3}, "method": {"preset": "noloco"}}
    ).settings()
    assert (settings.run.seed, settings.run.rounds, settings.method.preset) == (9, 3, "noloco")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peers": [{"name": "host", "count": 1, "step": "1s"}]}, '"host" and "any" are taken'),
        ({"peers": [{"name": "p", "count": 5000, "step": "1s"}, *PLAIN["peers"]]}, "4096"),
        ({"peers": [{"name": "a b", "step": "1s"}, *PLAIN["peers"]]}, "peers.0.name"),
        ({"run": {"min_peers": 3}}, "run.min_peers is 3 and there are 2 peers"),
        ({"mode": "trained", "model": {}, "peers": [{"name": "p", "flops": "1T"}]}, "the seconds of a step"),
        ({"matrix": {"regions": ["here"], "rtt": [[1, 2]]}}, "rows of 1"),
        ({"matrix": {"regions": ["there"], "rtt": [[1]]}}, "region here is not in the matrix"),
        ({"events": [{"do": "leave", "at": 1, "for": 2}]}, "no meaning with leave"),
        ({"events": [{"do": "crash", "at": 1, "until": 2}]}, "`until` belongs to every"),
        ({"events": [{"do": "crash", "at": 1, "after": 2}]}, "`after` belongs to round"),
        ({"model": {"parameters": "2M", "layer": 2}}, "did you mean layers?"),
        ({"host": {"up": "-3Mbps"}}, "host.up"),
        ({"seed": -1}, "seed"),
    ],
)
def test_nonsense_is_refused_in_one_line_with_the_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_scenario({**PLAIN, **changes})
    assert said in str(caught.value)
    assert len(caught.value.problems) == 1


def test_settings_of_a_file_are_replaced_by_their_path_also_in_lists(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text('name = "x"\n[model]\nparameters = "1M"\n[[peers]]\nname = "p"\nstep = "1s"\n')
    found = load_scenario(path, ["peers.0.count=4", "method.preset=noloco", "run.rounds=7", "name=a word"])
    assert len(found.peer_names) == 4
    assert found.settings().method.preset == "noloco"
    assert (found.settings().run.rounds, found.name) == (7, "a word")
    for wrong in ("peers.9.count=4", "nothing", "=3", "name.x=3"):
        with pytest.raises(SettingsError, match="replace"):
            load_scenario(path, [wrong])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    with pytest.raises(SettingsError, match=r"one\.toml cannot be read"):
        load_scenario(path)
    path.write_text("name = ")
    with pytest.raises(SettingsError, match=r"one\.toml is not valid TOML"):
        load_scenario(path)
