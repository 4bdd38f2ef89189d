"""What a worker kept of a stage of the model that it trains no more.

The host told it another stage: the run's folder is put aside under the old one's number, where no start looks
for checkpoints, and what lay there of an earlier time is removed. It is never read again by itself.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from diloco.checkpoints.local_disk import LocalDisk
from diloco.checkpoints.store import Store, folder_of


def set_aside(home: Path, run: bytes, stage: int) -> Path | None:
    """Put aside what the folder has of that run if it is of another stage than this one; where to."""
    name = folder_of(run)
    newest = next(iter(Store(LocalDisk(home), name).newest()), None)
    if newest is None or newest.manifest.stage == stage:
        return None
    folder = home / name
    aside = folder.with_name(f"{folder.name}.stage-{newest.manifest.stage}")
    if aside.exists():
        shutil.rmtree(aside)
    return folder.rename(aside)
