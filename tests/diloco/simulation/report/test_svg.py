"""Axes at round moments, bars whose heights are their values, curves that stay in their frame."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from diloco.simulation.report.svg import bars, curve, stacked, ticks


def rects(drawn: str) -> list[dict[str, float]]:
    tree = ElementTree.fromstring(drawn)
    return [{k: float(v) for k, v in each.attrib.items() if k != "class"} for each in tree.iter("rect")]


@pytest.mark.parametrize("end", [0.5, 9.0, 61.0, 700.0, 5000.0, 90_000.0, 3e6])
def test_an_axis_has_a_few_round_moments_within_it(end: float) -> None:
    found = ticks(0.0, end)
    assert 1 <= len(found) <= 10
    assert all(0.0 <= at <= end for at, _ in found)
    assert len({at for at, _ in found}) == len(found)


def test_moments_are_written_in_seconds_or_as_a_clock() -> None:
    assert [label for _, label in ticks(0.0, 20.0)][:3] == ["0 s", "5 s", "10 s"]
    assert [label for _, label in ticks(0.0, 7200.0)][:3] == ["0:00:00", "0:15:00", "0:30:00"]


def test_parts_stand_on_each_other_and_the_tallest_bar_fills_the_frame() -> None:
    low, high, half = rects(stacked("t", [("one", (1.0, 3.0)), ("two", (2.0, 0.0))], ("a", "b")))
    assert high["height"] == pytest.approx(3 * low["height"], rel=0.01)
    assert half["height"] == pytest.approx(2 * low["height"], rel=0.01)
    assert high["y"] + high["height"] == pytest.approx(low["y"], abs=0.02)
    assert low["y"] + low["height"] == pytest.approx(half["y"] + half["height"], abs=0.02)
    assert half["x"] > low["x"]


def test_drawings_of_nothing_are_drawings() -> None:
    for drawn in (bars("t", []), bars("t", [("a", 0.0)]), curve("t", [(1.0, 2.0)])):
        ElementTree.fromstring(drawn)


def test_a_curve_stays_in_its_frame_and_falls_where_values_fall() -> None:
    drawn = curve("loss", [(0.0, 5.0), (10.0, 4.0), (20.0, 1.0)])
    found = re.search(r'points="([^"]+)"', drawn)
    assert found is not None
    places = [tuple(map(float, point.split(","))) for point in found[1].split()]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert [y for _, y in places] == sorted(y for _, y in places), "down is larger"
    _, _, width, height = map(float, ElementTree.fromstring(drawn).attrib["viewBox"].split())
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)


def test_names_are_escaped() -> None:
    assert "<b>" not in bars("<b>", [("<b>", 1.0)])
