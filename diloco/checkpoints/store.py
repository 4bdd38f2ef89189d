"""The checkpoints of one run in one state directory: where they lie, which is the newest, which may go.

    checkpoints/RUN16/INDEX12-HEAD16/    a checkpoint: whole, for it gets this name once all of it is synced
    checkpoints/RUN16/.partial-*         one that is being written, or was when its process ended
    checkpoints/RUN16/results/           see `shelf`

A second checkpoint of the same head has ``.1`` behind its name, and so on. Owns names and the order of what
makes a checkpoint durable (DU1); what is in its files is `writer`'s and `reader`'s. Any `Disk` will do.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from diloco.checkpoints.manifest import FILE_NAME, FileEntry, Manifest
from diloco.checkpoints.streaming import Hashed
from diloco.errors import CheckpointError
from transport.disk import Disk

ROOT = "checkpoints"
_PARTIAL = ".partial-"
_NAME = re.compile(r"^(\d{12})-([0-9a-f]{16})(?:\.(\d{1,6}))?$")
_MARGIN = 1.1
"""So many times its size must be free before a checkpoint is begun."""


@dataclass(frozen=True, slots=True)
class Content:
    """What one file of a checkpoint is to hold."""

    name: str
    size_bytes: int
    pieces: Callable[[], Iterator[bytes | memoryview]]


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint on the disk."""

    path: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """That of its folder."""
        return self.path.rpartition("/")[2]


def runs_on(disk: Disk) -> list[str]:
    """The folders of runs on a disk, which hold checkpoints."""
    return [f"{ROOT}/{name}" for name in disk.list(ROOT) if re.fullmatch(r"[0-9a-f]{16}", name)]


def is_checkpoint(name: str) -> bool:
    """Whether a folder of this name is a checkpoint's."""
    return _NAME.match(name) is not None


def folder_of(run: bytes) -> str:
    """Where a run's checkpoints lie."""
    return f"{ROOT}/{run.hex()[:16]}"


class Store:
    """The checkpoints of the run whose files are in ``folder``."""

    def __init__(self, disk: Disk, folder: str) -> None:
        self.disk = disk
        self.folder = folder

    def at(self, name: str) -> str:
        """The path of what is named so in the folder."""
        return f"{self.folder}/{name}" if self.folder else name

    # -- what is there ------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Folders that are named like checkpoints, the oldest first."""
        return sorted(filter(is_checkpoint, self.disk.list(self.folder)), key=_age)

    def read(self, folder: str) -> Saved:
        """One checkpoint, whose files have the sizes that its manifest says. Raises `CheckpointError`."""
        path, name = self.at(folder), FILE_NAME
        try:
            where = f"{path}/{name}"
            # No more bytes than it has: of a link to a device there is no end.
            manifest = Manifest.from_bytes(self.disk.read(where, 0, self.disk.size(where)), where)
            for each in manifest.files:
                name = each.name
                size = self.disk.size(f"{path}/{name}")
                if size != each.size_bytes:
                    raise CheckpointError(
                        f"{path}/{each.name} has {size} bytes instead of {each.size_bytes}: it is damaged"
                    )
        except OSError as error:
            reason = error.strerror or error
            raise CheckpointError(f"{path} is no whole checkpoint: its {name}: {reason}") from None
        return Saved(path, manifest)

    def newest(self, refused: Callable[[CheckpointError], None] = lambda error: None) -> Iterator[Saved]:
        """Checkpoints that look whole, the newest first; ``refused`` is told of others on the way."""
        for name in reversed(self.names()):
            try:
                yield self.read(name)
            except CheckpointError as error:
                refused(error)

    # -- a new one ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Remove what earlier processes left unfinished."""
        for name in self.disk.list(self.folder):
            if name.startswith(_PARTIAL):
                self.disk.remove(self.at(name))

    def write(
        self,
        head: bytes,
        index: int,
        contents: Iterable[Content],
        finish: Callable[[tuple[FileEntry, ...]], Manifest],
        pause: Callable[[], None] = lambda: None,
    ) -> Saved:
        """Make one checkpoint durable, and only then give it its name; ``finish`` makes the manifest once the
        files are written, ``pause`` is called between pieces. Raises `OSError` for a disk that is full or
        fails: nothing is left of it then, and what was there before is as it was."""
        name, contents = self._free_name(head, index), list(contents)
        partial, path = self.at(f"{_PARTIAL}{name}"), self.at(name)
        need = int(_MARGIN * sum(each.size_bytes for each in contents))
        if (free := self.disk.free_bytes()) < need:
            raise OSError(errno.ENOSPC, f"{need:,} bytes are needed and {free:,} are free")
        self.disk.remove(partial)
        try:
            entries = tuple(self._write_file(partial, each, pause) for each in contents)
            manifest = finish(entries)
            self.disk.write(f"{partial}/{FILE_NAME}", [manifest.to_bytes()])
            self.disk.sync_dir(partial)
            self.disk.rename(partial, path)
            for folder in _above(path):
                self.disk.sync_dir(folder)
        except OSError:
            with suppress(OSError):
                self.disk.remove(partial)
            raise
        return Saved(path, manifest)

    def _write_file(self, partial: str, content: Content, pause: Callable[[], None]) -> FileEntry:
        hashed = Hashed(content.pieces(), pause)
        self.disk.write(f"{partial}/{content.name}", hashed)
        return FileEntry(name=content.name, size_bytes=hashed.size_bytes, digest=hashed.hexdigest())

    def prune(self, keep: int, upto: int | None = None) -> Manifest | None:
        """Remove all but the ``keep`` newest checkpoints, first those that the run gave up: the newest does
        not lead back to them. Those beyond the index ``upto`` go whatever is left, and damaged ones as soon
        as ``keep`` are whole. The manifest of the oldest that is left."""
        whole = list(self.newest())
        standing = [each for each in whole if upto is None or each.manifest.index <= upto]
        left = _line_first(standing)[:keep]
        for each in whole:
            if each not in left:
                self.disk.remove(each.path)
        if len(left) == keep:
            self._remove_damaged({each.name for each in whole}, older_than=left[0].name)
        return min((each.manifest for each in left), key=lambda each: each.serial_floor, default=None)

    def prune_shares(self, keep: int, covered: int) -> Manifest | None:
        """The same where workers share states out: all fragments of that of the index ``covered`` are on
        disks (0: of none it is known), so this one stays, newer shares but the newest were given up, and of
        what is older or whole so many stay that there are ``keep`` beside the newest."""
        found = list(self.newest())
        others = [
            each for each in found[1:] if each.manifest.is_whole or not 0 < covered < each.manifest.index
        ]
        others.sort(key=lambda each: each.manifest.index != covered)
        left = [*found[:1], *others[:keep]]
        for each in found:
            if each not in left:
                self.disk.remove(each.path)
        if len(left) > keep:
            self._remove_damaged({each.name for each in found}, older_than=found[0].name)
        return min((each.manifest for each in left), key=lambda each: each.serial_floor, default=None)

    def _remove_damaged(self, whole: set[str], older_than: str) -> None:
        for name in self.names():
            if name not in whole and _age(name) < _age(older_than):
                with suppress(OSError):  # a disk that fails at that too has told so
                    self.disk.remove(self.at(name))

    def _free_name(self, head: bytes, index: int) -> str:
        name = f"{index:012}-{head.hex()[:16]}"
        taken = [found for found in map(_NAME.match, self.names()) if found and found[0].startswith(name)]
        return f"{name}.{1 + max(int(found[3] or 0) for found in taken)}" if taken else name


def _age(name: str) -> tuple[int, int, str]:
    found = _NAME.match(name)
    assert found is not None, "only such names are asked about"
    return int(found[1]), int(found[3] or 0), found[2]


def _line_first(found: list[Saved]) -> list[Saved]:
    """Before all others those that the first one leads back to, each by the one that it names."""
    by_digest = {each.manifest.sha256(): each for each in found}
    line: list[Saved] = []
    at = found[0] if found else None
    while at is not None and at not in line:
        line.append(at)
        at = by_digest.get(at.manifest.previous or "")
    return line + [each for each in found if each not in line]


def _above(path: str) -> Iterator[str]:
    """The folders above a path, the root last."""
    while path:
        path = path.rpartition("/")[0]
        yield path
