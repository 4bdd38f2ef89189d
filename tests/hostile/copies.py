"""Copies of a core that was stopped in the midst of a run: each is as the core was, none touches another.

A core holds closures and views of buffers, which `copy.deepcopy` shares or refuses. Here what holds state is
copied, closures with what they close over; code, modules, bytes and identities are shared.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

from peers.admission.identity import Identity

_SHARED = (types.CodeType, types.ModuleType, memoryview, Identity)


def _empty(code: Any, module: types.ModuleType, name: str, num_cells: int) -> types.FunctionType:
    cells = tuple(types.CellType() for _ in range(num_cells))
    return types.FunctionType(code, vars(module), name, None, cells)


def _fill(function: types.FunctionType, values: tuple[Any, ...]) -> None:
    for cell, value in zip(function.__closure__ or (), values, strict=True):
        cell.cell_contents = value


class _Freezer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: list[Any]) -> None:
        super().__init__(file, protocol=5)
        self._shared = shared

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, _SHARED):
            return None
        self._shared.append(obj)
        return len(self._shared) - 1

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, types.FunctionType) or obj.__closure__ is None:
            return NotImplemented
        made = (obj.__code__, sys.modules[obj.__module__], obj.__name__, len(obj.__closure__))
        cells = tuple(cell.cell_contents for cell in obj.__closure__)
        return _empty, made, cells, None, None, _fill


class _Thawer(pickle.Unpickler):
    def __init__(self, data: bytes, shared: list[Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._shared = shared

    def persistent_load(self, pid: Any) -> Any:
        return self._shared[pid]


def frozen(obj: Any) -> Callable[[], Any]:
    """Stop an object here and now: each call gives a copy of what it was."""
    shared: list[Any] = []
    file = io.BytesIO()
    _Freezer(file, shared).dump(obj)
    data = file.getvalue()
    return lambda: _Thawer(data, shared).load()
