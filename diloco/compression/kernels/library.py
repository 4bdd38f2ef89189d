"""The compiled library: where it lies, whether it is used, and how its functions are called.

Owns one choice per process, `use`. Never builds: that is the installation's (`setup.py`), and where it could
not, torch does the work. ctypes frees the GIL during a call.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Literal

from diloco.errors import UserError

Choice = Literal["auto", "compiled", "torch"]
CHOICES: tuple[Choice, ...] = ("auto", "compiled", "torch")
LIBRARY = Path(__file__).with_name("kernels.so")
_VERSION = 3
"""What `diloco_kernels_version` gives: it grows with every change of what a function takes or writes."""


class CPart(ctypes.Structure):
    """`struct part` of kernels.c."""

    _fields_ = (
        ("payload", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("square", ctypes.c_double),
        ("weight", ctypes.c_float),
    )


_INT, _LONG, _AT, _SQUARE = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.POINTER(ctypes.c_double)
_TAKES = {
    "diloco_encode": (_INT, _AT, _LONG, _AT, _LONG),
    "diloco_add": (_INT, _AT, _LONG, _AT, _LONG, ctypes.c_float, _INT, _SQUARE),
    "diloco_reduce": (_INT, ctypes.POINTER(CPart), _LONG, _LONG, _LONG, _INT, _AT, _LONG, _AT, _SQUARE),
    "diloco_subtract": (_AT, _AT, _AT, _LONG, _SQUARE),
    "diloco_nesterov": (_AT, _AT, _AT, ctypes.c_float, ctypes.c_float, _AT, _AT, _LONG),
}


class _Chosen:
    """What `use` was told last, and the library that it was told of."""

    choice: Choice = "auto"
    path: Path = LIBRARY


def use(choice: str, path: Path = LIBRARY) -> None:
    """For this process: ``torch`` leaves the compiled kernels alone, to compare; ``compiled`` wants them;
    ``auto``, as it is from the beginning, takes them where they are. Raises `UserError`."""
    named: Choice | None = next((each for each in CHOICES if each == choice), None)
    if named is None:
        raise UserError(f"kernels {choice!r} are unknown: choose one of {', '.join(CHOICES)}")
    if named == "compiled" and load(path)[0] is None:
        raise UserError(f"there are no compiled kernels: {load(path)[1]}; install again with a C compiler")
    _Chosen.choice, _Chosen.path = named, path


def library() -> ctypes.CDLL | None:
    """The library, if it is there and to be used."""
    return None if _Chosen.choice == "torch" else load(_Chosen.path)[0]


def running() -> str:
    """What codecs run by, in words."""
    found, why = load(_Chosen.path)
    if _Chosen.choice == "torch":
        return "torch, as chosen"
    if found is None:
        return f"torch, which is slower than compiled kernels: {why}"
    target: bytes = found.diloco_kernels_target()
    return f"compiled kernels ({target.decode()})"


@cache
def load(path: Path) -> tuple[ctypes.CDLL | None, str]:
    """The library at a path; None with the reason if it cannot be used."""
    if not path.exists():
        return None, "none were built when this was installed"
    try:
        found = ctypes.CDLL(str(path))
        version = found.diloco_kernels_version()
    except (OSError, AttributeError) as error:
        return None, f"{path} cannot be loaded: {error}"
    if version != _VERSION:
        return None, f"{path} is of another version: install again"
    for name, takes in _TAKES.items():
        getattr(found, name).argtypes = takes
    found.diloco_kernels_target.restype = ctypes.c_char_p
    return found, ""
