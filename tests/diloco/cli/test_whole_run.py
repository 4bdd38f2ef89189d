"""What a run in stages is compared with: whole workers in this process, of the same model."""

from __future__ import annotations

from pathlib import Path

import pytest

from diloco.checkpoints.sharded import ShardPlace, write_shard
from diloco.cli import whole_run
from diloco.cli.demo_stages import DEMO_STAGES
from diloco.models.text import Text, load_text
from diloco.settings import RunSettings

SMALL = RunSettings.model_validate(
    {
        "run": {"rounds": 2},
        "method": {"preset": "diloco", "sync_every": 8},
        "model": {"layers": 1, "heads": 2, "width": 16, "context": 16, "tied": False},
        "pipeline": {"stages": 3, "microbatch": 2, "quota": 4},
        "train": {"warmup_steps": 2, "inner_lr": 1e-2},
    }
)


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Text:
    path = tmp_path / "text"
    path.write_bytes(b"abcdefgh" * 500)
    found = load_text(path)
    monkeypatch.setattr(whole_run, "load_text", lambda: found)
    return found


def test_whole_workers_learn_and_the_saved_set_is_evaluated_as_one_model(tmp_path: Path, text: Text) -> None:
    state = whole_run.fresh_model(SMALL).state_dict()
    for stage, layers in enumerate((("0.",), ("1.",), ("2.",))):
        own = {name: each for name, each in state.items() if name.startswith(layers)}
        write_shard(ShardPlace(tmp_path / "model", stage, 3, "ab"), own, index=1)
    saved, untrained = whole_run.loss_of_saved(SMALL, tmp_path / "model")
    assert saved == untrained
    assert whole_run.train_whole(SMALL, 2) < untrained - 0.5


def test_the_demo_has_four_stages_of_the_untied_model() -> None:
    assert DEMO_STAGES.pipeline.stages == 4
    assert not DEMO_STAGES.model.tied
