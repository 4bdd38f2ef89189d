"""The example that the page names runs as it says, and learns."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "cut_your_model.py"


def test_the_example_learns_in_three_stages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "3"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    losses = [float(each) for each in re.findall(r"loss (\S+)", capsys.readouterr().out)]
    assert len(losses) == 6
    assert losses[0] > 1.0 > losses[-1]
