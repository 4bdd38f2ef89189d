"""Tables of parts by name: a row says where the class of a part is, and what it is made from.

Owns how a part is made from its row and how a field is checked against the names of a table. Refuses to know
what the parts are. Needs no torch: a class is imported when the first part of it is made, so that a
coordinator can check settings without it. Rows name classes of `diloco.compression` and `diloco.outer`,
which stand above this folder: they are the one upward arrow of the table of imports, taken when a part is
made.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError


class Row(Protocol):
    """What every row says."""

    @property
    def made_by(self) -> str:
        """Where the class is: ``package.module:Class``."""

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the keyword arguments that the class takes."""


def make(row: Row, **given: Any) -> Any:
    """A new part of the row's class, from those of the values ``given`` that it takes."""
    module, _, name = row.made_by.partition(":")
    made_by = getattr(importlib.import_module(module), name)
    return made_by(**{option: given[option] for option in row.options})


def name_in(table: Mapping[str, Row], *others: str) -> AfterValidator:
    """The check of a field that holds a name of ``table`` or one of ``others``. The table is looked at when a
    value is checked, so that rows may be added. The error lists the names and suggests the nearest."""

    def check(value: str) -> str:
        names = [*others, *table]
        if value not in names:
            *first, last = map(repr, names)
            near = difflib.get_close_matches(value, names, n=1)
            raise PydanticCustomError(
                "literal_error",
                "Input should be {expected}{hint}",
                {
                    "expected": f"{', '.join(first)} or {last}",
                    "hint": f" (did you mean {near[0]!r}?)" if near else "",
                },
            )
        return value

    return AfterValidator(check)
