"""The examples of integrations run as they say, alone: each of their loops learns, and ends with the run."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
NEEDS = {
    "hf_trainer": "transformers",
    "lora": "peft",
    "lightning_module": "lightning",
    "accelerate_loop": "accelerate",
}


@pytest.mark.filterwarnings("ignore")  # as those packages give them to whoever runs it
@pytest.mark.parametrize("name", NEEDS)
def test_an_example_trains_to_the_end_of_its_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(NEEDS[name], reason="pip install 'diloco[hf,lightning]'")
    path = EXAMPLES / f"{name}.py"
    saves = "OUT" in path.read_text()
    monkeypatch.setattr(sys, "argv", [str(path), *([str(tmp_path)] if saves else [])])
    runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    if name == "hf_trainer":
        assert len(re.findall(r"'loss'", said)) == 3
    else:
        assert "round 3, " in said
    if saves:
        assert list(tmp_path.glob("*.safetensors"))
    assert len(path.read_text().splitlines()) < 60
