"""A process whose machine has no AES instructions, so that all bulk goes over CURVE: the way back that every
lane has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from transport.sockets import aes_hardware

OPTION = "--over-curve"
BOTH_WAYS = {"argnames": "ways", "argvalues": [(), (OPTION,)], "ids": ["sealed", "over curve"]}
"""Of `pytest.mark.parametrize`: options of `vector_worker`."""


@contextmanager
def carried(ways: tuple[str, ...]) -> Iterator[None]:
    """Drivers that start while it lasts carry bulk as these options say."""
    with mock.patch.object(aes_hardware, "says_aes", return_value=OPTION not in ways):
        aes_hardware.has_fast_aes.cache_clear()
        yield
    aes_hardware.has_fast_aes.cache_clear()
