"""A simulated disk: what was written, what of it is sure, and what a crash leaves of the rest.

Bytes are sure once the file was synced, and a name once its folder was. A process that is killed leaves all
that it wrote (the system still has it), and the file at hand as far as it came. When power fails, of each
file and of each folder what is not sure is cut at a drawn place; a disk that lies had made nothing sure.
A rename is there or not, never by half. Implements `transport.disk.Disk`; it draws from the given stream.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable
from dataclasses import dataclass, field


class Killed(BaseException):
    """The process that was writing is dead: nothing of its code may run after this."""


@dataclass(slots=True, eq=False)
class _File:
    data: bytes = b""
    sure_bytes: int = 0


@dataclass(slots=True, eq=False)
class _Folder:
    names: dict[str, _Node] = field(default_factory=dict)
    sure: dict[str, _Node] = field(default_factory=dict)
    unsure: list[dict[str, _Node | None]] = field(default_factory=list)
    """Changes of names since then, each whole or not at all; None takes a name away."""

    def change(self, changes: dict[str, _Node | None]) -> None:
        _apply(self.names, changes)
        self.unsure.append(changes)

    def sync(self) -> None:
        for changes in self.unsure:
            _apply(self.sure, changes)
        self.unsure.clear()


_Node = _File | _Folder


class SimDisk:
    """The disk of one machine, over all lives of its process; ``room_bytes`` is what it takes."""

    def __init__(self, rng: random.Random, room_bytes: int = 1 << 40) -> None:
        self.room_bytes = room_bytes
        self.kill_in: int | None = None
        """After so many more bytes the process dies; each operation on a name counts as one."""
        self._rng = rng
        self._root = _Folder()

    # -- transport.disk.Disk ----------------------------------------------------------------------

    def write(self, path: str, pieces: Iterable[bytes | memoryview], *, sync: bool = True) -> None:
        folder, name = self._folder_above(path, make=True), path.rpartition("/")[2]
        file = _File()
        self._step()
        folder.change({name: file})
        for piece in pieces:
            self._append(file, bytes(piece))
        if sync:
            file.sure_bytes = len(file.data)

    def rename(self, old: str, new: str) -> None:
        node = self._node(old)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", old)
        self._step()
        source, target = self._folder_above(old), self._folder_above(new, make=True)
        before, after = old.rpartition("/")[2], new.rpartition("/")[2]
        if source is target:
            target.change({before: None, after: node})
        else:
            target.change({after: node})
            source.change({before: None})

    def sync_dir(self, path: str) -> None:
        self._step()
        self._folder(path).sync()

    def remove(self, path: str) -> None:
        if self._node(path) is not None:
            self._step()
            self._folder_above(path).change({path.rpartition("/")[2]: None})

    def list(self, path: str) -> list[str]:
        node = self._node(path)
        return sorted(node.names) if isinstance(node, _Folder) else []

    def size(self, path: str) -> int:
        return len(self._file(path).data)

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        data = self._file(path).data
        return data[offset:] if length is None else data[offset : offset + length]

    def free_bytes(self) -> int:
        return max(0, self.room_bytes - _size(self._root))

    # -- what happens to it -----------------------------------------------------------------------

    def lose_power(self, *, lie: bool = False) -> None:
        """What is not sure is cut at drawn places; with ``lie`` nothing is."""
        self.kill_in = None
        self._root = self._after_power_failed(self._root, lie)

    def copy(self, rng: random.Random) -> SimDisk:
        """Another disk with the same files, as somebody copies a folder."""
        made = SimDisk(rng, self.room_bytes)
        made._root = _copied(self._root)
        return made

    # -- inside -----------------------------------------------------------------------------------

    def _step(self, num_bytes: int = 1) -> None:
        if self.kill_in is None:
            return
        if self.kill_in < num_bytes:
            self.kill_in = None
            raise Killed
        self.kill_in -= num_bytes

    def _append(self, file: _File, piece: bytes) -> None:
        room = self.free_bytes()
        taken = piece[:room]
        try:
            self._step(len(taken))
        except Killed:
            file.data += taken[: self._rng.randrange(len(taken) + 1)]
            raise
        file.data += taken
        if len(taken) < len(piece):
            raise OSError(errno.ENOSPC, "No space left on device")

    def _after_power_failed(self, folder: _Folder, lie: bool) -> _Folder:
        names = {} if lie else dict(folder.sure)
        for changes in folder.unsure[: self._rng.randint(0, len(folder.unsure))]:
            _apply(names, changes)
        if lie and self._rng.random() < 0.5:
            names |= {name: node for name, node in folder.sure.items() if self._rng.random() < 0.5}
        left: dict[str, _Node] = {}
        for name, node in names.items():
            if isinstance(node, _Folder):
                left[name] = self._after_power_failed(node, lie)
            else:
                sure = 0 if lie else node.sure_bytes
                kept = sure + self._rng.randint(0, len(node.data) - sure)
                left[name] = _File(node.data[:kept], kept)
        return _Folder(left, dict(left))

    def _node(self, path: str) -> _Node | None:
        node: _Node | None = self._root
        for part in filter(None, path.split("/")):
            node = node.names.get(part) if isinstance(node, _Folder) else None
        return node

    def _file(self, path: str) -> _File:
        node = self._node(path)
        if not isinstance(node, _File):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return node

    def _folder(self, path: str) -> _Folder:
        node = self._node(path)
        if not isinstance(node, _Folder):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return node

    def _folder_above(self, path: str, *, make: bool = False) -> _Folder:
        above = path.rpartition("/")[0]
        if make and self._node(above) is None:
            folder = _Folder()
            self._folder_above(above, make=True).change({above.rpartition("/")[2]: folder})
            return folder
        return self._folder(above)


def _apply(names: dict[str, _Node], changes: dict[str, _Node | None]) -> None:
    for name, node in changes.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _size(node: _Node) -> int:
    return len(node.data) if isinstance(node, _File) else sum(map(_size, node.names.values()))


def _copied(folder: _Folder) -> _Folder:
    names: dict[str, _Node] = {
        name: _copied(node) if isinstance(node, _Folder) else _File(node.data, len(node.data))
        for name, node in folder.names.items()
    }
    return _Folder(names, dict(names))
