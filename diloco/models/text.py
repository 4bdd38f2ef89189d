"""Text to train on: bytes from files that are already on this machine.

Owns reading, the split into training and validation, and endless batches. The default is the source of
the running interpreter's standard library, so that a demonstration downloads nothing. The split depends
on file names only: workers with the same files hold out the same ones. Documents, for those who make tokens
of them, are texts by file or by line.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diloco.errors import TextError

SKIPPED = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
"""Folders of the standard library that are left out: what a person installed, and tests."""
HELD_OUT = 20
"""One file in this many is for validation, about 5 %."""
MAX_BYTES = 4 << 30
"""Largest text: it is held in memory."""


@dataclass(frozen=True, slots=True)
class Text:
    """Bytes as uint8 vectors on the CPU."""

    name: str
    train: Tensor
    validation: Tensor

    def batches(
        self,
        seed: int,
        worker_salt: str,
        batch_size: int,
        context: int,
        device: torch.device | str = "cpu",
        *,
        validation: bool = False,
    ) -> Batches:
        """Endless pairs (inputs, targets) of int64 [batch_size, context], drawn with a generator of its own:
        the same ``seed`` and ``worker_salt`` give the same batches. Raises `TextError` if too short."""
        data = self.validation if validation else self.train
        if len(data) <= context:
            part = "validation" if validation else "training"
            raise TextError(
                f"{self.name} has {len(data)} bytes for {part}: a context of {context} needs more"
            )
        return Batches(data, _generator(seed, worker_salt), batch_size, context, torch.device(device))


class Batches:
    """Pairs (inputs, targets) of int64 [batch_size, context] of windows of ``data`` at drawn places, without
    end. Its state is the generator's: a later process draws on where this one was."""

    def __init__(
        self, data: Tensor, generator: torch.Generator, batch_size: int, context: int, device: torch.device
    ) -> None:
        self._data, self._generator, self._device = data, generator, device
        self._shape, self._reach = (batch_size, 1), torch.arange(context + 1)

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        last = len(self._data) - len(self._reach) + 1
        starts = torch.randint(last, self._shape, generator=self._generator)
        window = self._data[starts + self._reach].long().to(self._device)
        return window[:, :-1], window[:, 1:]

    def state_dict(self) -> dict[str, Tensor]:
        """Where it is."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Draw on from there."""
        self._generator.set_state(state["generator"])


def load_text(path: Path | None = None) -> Text:
    """The text at ``path``: a file, or every text file below a folder; by default the standard library's
    source. Raises `TextError`."""
    if path is None:
        root = Path(sysconfig.get_path("stdlib"))
        return _from_files("the standard library", root, _stdlib_files(root))
    if path.is_file():
        return _split_bytes(str(path), _read(path))
    if path.is_dir():
        return _from_files(str(path), path, _files(path))
    raise TextError(f"{path} does not exist: give a text file or a folder of them")


def load_documents(path: Path) -> list[str]:
    """The texts at ``path``, a file or a folder: of each text file all of it, of a ``.jsonl`` the ``text`` of
    each line. Raises `TextError`."""
    if path.is_file():
        return _documents_in(path, _read(path))
    if not path.is_dir():
        raise TextError(f"{path} does not exist: give a text file or a folder of them")
    found, total = [], 0
    for each in _files(path):
        data = _read(each)
        total += len(data)
        if total > MAX_BYTES:
            raise TextError(f"{path} has more than {MAX_BYTES >> 30} GiB of text: choose a smaller part")
        found += [] if b"\0" in data[:8192] else _documents_in(each, data)
    if not found:
        raise TextError(f"{path} holds no text: give a text file or a folder of them")
    return found


def _documents_in(path: Path, data: bytes) -> list[str]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is no text in UTF-8: {error.reason} at byte {error.start}") from None
    if path.suffix != ".jsonl":
        return [text] if text else []
    lines = ((at, line) for at, line in enumerate(text.splitlines(), 1) if line.strip())
    return [_text_of(line, f"{path}, line {at}") for at, line in lines]


def _text_of(line: str, where: str) -> str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TextError(f"{where} is no JSON: {error}") from None
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise TextError(f'{where} is no object with a "text"')
    return text


def _stdlib_files(root: Path) -> list[Path]:
    return [path for path in _files(root, SKIPPED) if path.suffix == ".py"]


def _files(root: Path, skipped: frozenset[str] = frozenset()) -> list[Path]:
    """Regular files below ``root``, without hidden ones and links, sorted by relative name."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skipped]
        paths = (Path(folder, name) for name in names if not name.startswith("."))
        found.extend(path for path in paths if path.is_file() and not path.is_symlink())
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _from_files(name: str, root: Path, paths: list[Path]) -> Text:
    parts: dict[bool, list[bytes]] = {True: [], False: []}
    total = 0
    for path in paths:
        data = _read(path)
        total += len(data)
        if total > MAX_BYTES:
            raise TextError(f"{name} has more than {MAX_BYTES >> 30} GiB of text: choose a smaller part")
        if b"\0" not in data[:8192]:  # text, by the rule that version control uses
            parts[_is_held_out(path.relative_to(root).as_posix())].append(data)
    train, validation = b"".join(parts[False]), b"".join(parts[True])
    if not train or not validation:  # too few files to hold some out
        return _split_bytes(name, train + validation)
    return Text(name, _tensor(train), _tensor(validation))


def _is_held_out(relative_name: str) -> bool:
    return int.from_bytes(hashlib.sha256(relative_name.encode()).digest()[:8], "big") % HELD_OUT == 0


def _split_bytes(name: str, data: bytes) -> Text:
    """Hold out the end."""
    if not data:
        raise TextError(f"{name} holds no text: give a text file or a folder of them")
    cut = len(data) - len(data) // HELD_OUT
    return Text(name, _tensor(data[:cut]), _tensor(data[cut:]))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise TextError(f"{path} has more than {MAX_BYTES >> 30} GiB: choose a smaller file")
        return path.read_bytes()
    except OSError as error:
        raise TextError(f"{path} cannot be read: {error.strerror}") from None


def _tensor(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())


def _generator(seed: int, worker_salt: str) -> torch.Generator:
    name = hashlib.sha256(f"{seed}\n{worker_salt}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(name[:8], "big") >> 1)
