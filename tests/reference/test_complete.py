"""Whether the loops beside this file cover what there is: every row, and every variant that it may choose."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from diloco.methods.outer_optimizers import OUTER_OPTIMIZERS
from diloco.methods.presets import PRESETS
from diloco.methods.spec import Method
from diloco.methods.wire_formats import WIRE_FORMATS

SOURCES = "\n".join(
    path.read_text() for path in Path(__file__).parent.glob("*.py") if path.name != Path(__file__).name
)
VARIANTS = [
    value
    for field in (
        "merge",
        "error_feedback",
        "projection",
        "group",
        "adapt",
        "fragment_pattern",
        "pace",
        "weights",
    )
    for value in get_args(Method.model_fields[field].annotation)
    if value != Method.model_fields[field].default
]


@pytest.mark.parametrize("name", [*PRESETS, *OUTER_OPTIMIZERS, *WIRE_FORMATS, *VARIANTS])
def test_every_row_and_every_variant_is_in_some_loop(name: str) -> None:
    chosen_by_rows = {
        value for row in PRESETS.values() for value in row.model_dump().values() if isinstance(value, str)
    }
    assert f'"{name}"' in SOURCES or (name in chosen_by_rows and name not in PRESETS)
