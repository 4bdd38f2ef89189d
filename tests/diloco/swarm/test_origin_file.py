"""A run remembers what it began from by a path and a digest."""

from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

from diloco.errors import UserError
from diloco.swarm.origin_file import origin_of


def test_a_checkpoint_is_named_by_its_manifest_and_a_model_by_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"manifest")
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"m" * (3 << 20))
    assert origin_of(tmp_path).digest == blake3(b"manifest").digest()
    assert origin_of(model).digest == blake3(model.read_bytes()).digest()
    assert origin_of(model).path == model.resolve()


@pytest.mark.parametrize("name", ["none.safetensors", "folder", "model.pt"])
def test_anything_else_is_refused_with_what_it_may_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "model.pt").write_bytes(b"m")
    with pytest.raises(UserError, match=r"is neither a checkpoint \(a folder with a manifest.* nor a model"):
        origin_of(tmp_path / name)
