"""The stories that newcomers read are the ones that the production cores tell, line by line."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from tests.scenarios.script import Scenario, ScriptError, parse_script, read_scenario
from tests.scenarios.stage import tell

SCENARIOS = sorted(Path(__file__).parent.glob("*.txt"))
REWRITE = "pytest tests/scenarios --rewrite-stories"
BEGIN = "# Prose.\n\npeers a b\n"


def difference(name: str, written: str, told: str) -> str:
    """Nothing, or how two stories differ and what to do about it."""
    if written == told:
        return ""
    lines = difflib.unified_diff(written.splitlines(), told.splitlines(), name, "told now", lineterm="")
    return "\n".join([*lines, f"If that is meant: {REWRITE}"])


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_cores_tell_the_story_that_is_written(path: Path, request: pytest.FixtureRequest) -> None:
    scenario = read_scenario(path)
    story = tell(scenario)
    if request.config.getoption("--rewrite-stories", default=False):
        path.write_text(scenario.head + story, encoding="utf-8")
    elif found := difference(path.name, scenario.story, story):
        pytest.fail(found, pytrace=False)


def test_a_changed_line_of_a_story_is_shown_with_the_command_that_rewrites_it() -> None:
    told = "one\ntwo\n"
    assert difference("x.txt", told, told) == ""
    found = difference("x.txt", "one\n2\n", told).splitlines()
    assert {"--- x.txt", "+++ told now", " one", "-2", "+two"} <= set(found)
    assert found[-1].endswith(REWRITE)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("explode a", "line 4: 'explode' is no verb"),
        ("crash", "line 4: nobody understands 'crash'"),
        ("tell secrets", "line 4: nobody understands 'tell secrets'"),
        ("crash d", "line 4: nobody is called d; there are a, b, host"),
        (
            "wait until a sends Letter to b",
            "line 4: no message, event, journal entry or trace is called Letter",
        ),
        ("wait until a sends Ready to d", "line 4: nobody is called d"),
        ("peers c", "line 4: a script begins with its peers"),
    ],
)
def test_a_line_that_means_nothing_is_refused_with_its_number(line: str, reason: str) -> None:
    with pytest.raises(ScriptError, match=f"^{reason}"):
        parse_script(f"{BEGIN}{line}\n")


def test_waiting_for_what_never_comes_ends_with_the_number_of_the_line() -> None:
    steps = parse_script(f"{BEGIN}wait until a and host send Leave\n")
    with pytest.raises(ScriptError, match=r"^line 4: a and host did not do that"):
        tell(Scenario(steps, "", ""))


def test_every_scenario_says_in_prose_which_rule_it_illustrates() -> None:
    assert len(SCENARIOS) >= 12
    for path in SCENARIOS:
        prose = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        assert 2 <= len(prose) <= 5, path.name
