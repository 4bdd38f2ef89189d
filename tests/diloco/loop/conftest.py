"""Fixtures of the outer loop's tests."""

from __future__ import annotations

import pytest

from diloco.loop.outer_loop import OuterLoop
from tests.diloco.loop.kit import Recorder, active_loop


@pytest.fixture
def replica() -> Recorder:
    return Recorder()


@pytest.fixture
def loop(replica: Recorder) -> OuterLoop:
    return active_loop(replica)
