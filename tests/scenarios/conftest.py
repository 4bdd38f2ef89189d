"""The flag with which stories are written anew."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/scenarios --rewrite-stories`."""
    parser.addoption(
        "--rewrite-stories",
        action="store_true",
        help="write the stories of tests/scenarios/*.txt as the cores tell them now",
    )
