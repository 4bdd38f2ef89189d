"""Shares of one state in several folders, put together as one whole checkpoint.

Shares are of one state if run, stage, head and the digests of all fragments are the same. Files are copied as
they are, and the whole is verified before it gets its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from diloco.checkpoints.finding import stores_in
from diloco.checkpoints.local_disk import ANYWHERE, LocalDisk, reading
from diloco.checkpoints.manifest import FILE_NAME, OWN_FILE, FileEntry, Manifest, fragment_file
from diloco.checkpoints.store import Saved, Store
from diloco.checkpoints.verifying import faults_of
from diloco.errors import CheckpointError
from transport.disk import Disk
from transport.limits import LIMITS

_Found = list[tuple[Disk, Saved]]


def gather(folders: Sequence[Path], target: Path) -> Manifest:
    """Write the newest state of which those folders have all fragments together into a new folder. What is a
    worker's own is that of the first folder that has some. Raises `CheckpointError`."""
    if target.exists():
        raise CheckpointError(f"{target} is there already: name a new folder")
    found = _newest_whole([each for folder in folders for each in _checkpoints_in(folder)])
    out, aside = LocalDisk(target.parent), f".{target.name}.partial"
    last = len(found[0][1].manifest.fragments) - 1
    manifest = next(s.manifest for _, s in found if last in s.manifest.here)  # it knows of frozen parameters
    try:
        entries = list(_copied(found, out, aside))
        own = next((s.manifest.own for _, s in found if s.manifest.own is not None), None)
        made = manifest.model_copy(update={"files": tuple(entries), "own": own})
        out.write(f"{aside}/{FILE_NAME}", [made.to_bytes()])
        for fault in faults_of(out, Saved(aside, made)):
            raise CheckpointError(f"{fault}; nothing is put together")
        out.rename(aside, target.name)
    finally:
        out.remove(aside)
    return made


def _checkpoints_in(folder: Path) -> Iterator[tuple[Disk, Saved]]:
    folder = folder.expanduser()
    with reading(folder):
        is_one = (folder / FILE_NAME).exists()
    if is_one:
        yield ANYWHERE, Store(ANYWHERE, str(folder.parent)).read(folder.name)
        return
    stores = stores_in(folder)
    if not stores:
        raise CheckpointError(f"{folder} holds no checkpoints")
    for disk, store in stores:
        for saved in store.newest():
            yield disk, saved


def _newest_whole(found: _Found) -> _Found:
    by_state: dict[tuple[str, int, str, tuple[str, ...]], _Found] = {}
    for disk, saved in found:
        manifest = saved.manifest
        digests = tuple(each.digest for each in manifest.fragments)
        by_state.setdefault((manifest.run, manifest.stage, manifest.head, digests), []).append((disk, saved))
    newest = sorted(by_state.values(), key=lambda those: -those[0][1].manifest.index)
    whole = next((those for those in newest if not _missing(those)), None)
    if whole is None:
        lacks, manifest = _missing(newest[0]), newest[0][0][1].manifest
        raise CheckpointError(
            f"of commit {manifest.index}, the newest, these folders lack fragment{'s' * (len(lacks) > 1)} "
            f"{', '.join(map(str, lacks))} of {len(manifest.fragments)}, and have no older one whole"
        )
    return whole


def _missing(those: _Found) -> list[int]:
    here = frozenset[int]().union(*(saved.manifest.here for _, saved in those))
    return [f for f in range(len(those[0][1].manifest.fragments)) if f not in here]


def _copied(found: _Found, out: Disk, aside: str) -> Iterator[FileEntry]:
    names = [fragment_file(f) for f in range(len(found[0][1].manifest.fragments))]
    for name in [*names, OWN_FILE]:
        source = next(
            ((d, s, each) for d, s in found for each in s.manifest.files if each.name == name), None
        )
        if source is not None:
            disk, saved, entry = source
            path = f"{saved.path}/{name}"
            with reading(path):
                out.write(f"{aside}/{name}", _pieces(disk, path, entry.size_bytes))
            yield entry


def _pieces(disk: Disk, path: str, size: int) -> Iterator[bytes]:
    for at in range(0, size, LIMITS.payload_bytes):
        yield disk.read(path, at, LIMITS.payload_bytes)
