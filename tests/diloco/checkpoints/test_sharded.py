"""A model in a file per stage: with its index it loads as one, and what does not belong together is named."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from diloco.checkpoints.sharded import INDEX, ShardPlace, assemble, shards_in, write_shard
from diloco.errors import CheckpointError

STAGES = 3


def tensors(stage: int) -> dict[str, torch.Tensor]:
    return {
        f"{stage}.weight": torch.full((2, 3), float(stage)),
        f"{stage}.half": torch.ones(4, dtype=torch.bfloat16),
    }


def write(folder: Path, stage: int, *, run: str = "ab", index: int = 5, stages: int = STAGES) -> bool:
    return write_shard(ShardPlace(folder, stage, stages, run), tensors(stage), index=index)


def load(folder: Path) -> dict[str, torch.Tensor]:
    """As any loader of sharded models does: by the index alone."""
    weights = json.loads((folder / INDEX).read_text())["weight_map"]
    found = {}
    for name, file in weights.items():
        with safe_open(folder / file, "pt") as opened:
            found[name] = opened.get_tensor(name)
    return found


def test_the_last_stage_to_write_makes_the_index_and_the_folder_loads_as_one_model(tmp_path: Path) -> None:
    assert [write(tmp_path, stage) for stage in (2, 0)] == [False, False]
    assert not (tmp_path / INDEX).exists(), "a loader would miss a stage"
    assert write(tmp_path, 1)
    found = load(tmp_path)
    wanted = {name: tensor for stage in range(STAGES) for name, tensor in tensors(stage).items()}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert json.loads((tmp_path / INDEX).read_text())["metadata"]["total_size"] == STAGES * (24 + 8)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        *(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)),
        INDEX,
    ]


def test_all_replicas_may_write_into_one_folder_at_the_same_time(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(write, tmp_path, stage % STAGES) for stage in range(60)]:
            done.result()
    assert len(load(tmp_path)) == 2 * STAGES
    assert not [each for each in tmp_path.iterdir() if each.name.endswith(".partial")]


def test_files_of_several_folders_are_put_together_the_newest_of_each_stage(tmp_path: Path) -> None:
    write(tmp_path / "a", 0)
    write(tmp_path / "a", 1, index=9)
    write(tmp_path / "b", 1, index=10)
    write(tmp_path / "b", 2)
    chosen = assemble([tmp_path / "a", tmp_path / "b"], tmp_path / "whole")
    assert [(each.folder.name, each.stage, each.round) for each in chosen] == [
        ("a", 0, "5"),
        ("b", 1, "10"),
        ("b", 2, "5"),
    ]
    assert len(load(tmp_path / "whole")) == 2 * STAGES


def test_what_is_missing_or_of_another_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no file"):
        assemble([tmp_path / "empty"], tmp_path / "whole")
    write(tmp_path / "a", 1)
    with pytest.raises(CheckpointError, match="lacks the file of stage 0, 2 of 3"):
        assemble([tmp_path / "a"], tmp_path / "whole")
    write(tmp_path / "b", 0, run="cd")
    with pytest.raises(CheckpointError, match=r"is of run ab in 3 stages, and .* of run cd in 3"):
        assemble([tmp_path / "a", tmp_path / "b"], tmp_path / "whole")
    with pytest.raises(CheckpointError, match="nothing"):
        shards_in(tmp_path / "nothing")
    (tmp_path / "a" / "model-00001-of-00003.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"model-00001-of-00003.safetensors"):
        shards_in(tmp_path / "a")
