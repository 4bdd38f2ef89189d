"""`join` in a run whose model is cut: what it refuses before it asks, and what it says at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diloco.cli.train_stage import StageOutcome, require_folder
from diloco.errors import UserError

ENDED = {
    "rounds": 4,
    "steps": 16,
    "counted": 64,
    "tokens_by_fate": {"applied": 4096, "late": 0},
    "bytes_sent": 2_500_000,
    "bytes_received": 1,
    "waited_s": 1.0,
}


def test_a_stage_is_saved_into_a_folder(tmp_path: Path) -> None:
    require_folder(None)
    require_folder(tmp_path / "model")
    with pytest.raises(UserError, match="in stages: name a folder for their files"):
        require_folder(tmp_path / "model.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="in stages: name a folder for their files"):
        require_folder(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written: there is no folder"):
        require_folder(tmp_path / "nothing" / "model")


def test_a_feeder_tells_how_its_microbatches_ended_and_the_last_stage_its_loss() -> None:
    first = StageOutcome(stage=0, settled=60, partial=3, lost=1, loss=None, **ENDED)  # type: ignore[arg-type]
    assert first.line() == (
        "stage 0: 4 rounds, 16 inner steps, 64 microbatches (60 settled, 3 partial, 1 lost), tokens: 4,096"
        " applied; 2.5 MB sent"
    )
    last = StageOutcome(stage=3, settled=0, partial=0, lost=0, loss=2.5, **ENDED)  # type: ignore[arg-type]
    assert last.line() == (
        "stage 3: 4 rounds, 16 inner steps, 64 microbatches, tokens: 4,096 applied; 2.5 MB sent, last loss"
        " 2.5000"
    )


def test_a_feeder_tells_what_it_evaluated_last_and_when() -> None:
    ended: Any = {**ENDED, "stage": 0, "settled": 60, "partial": 3, "lost": 1, "loss": None}
    said = StageOutcome(**ended, validation=2.5, validation_round=10).line()
    assert said.endswith("2.5 MB sent, validation loss 2.5000 at round 10")
    said = StageOutcome(**ended, validation=None, validation_round=10).line()
    assert said.endswith("2.5 MB sent, no validation loss at round 10: all of it was given up")
