"""Whether what fails again and again is told once."""

from __future__ import annotations

import pytest

from diloco.checkpoints.complaints import Complaints


def test_each_kind_is_told_once_until_it_has_worked_again(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints()
    for _ in range(2):
        complaints.fails("write", "the disk is full")
        complaints.fails("own", "a lambda is 100 % opaque")
    complaints.works("write")
    complaints.fails("write", "it is full again")
    said = [each.getMessage() for each in caplog.records]
    assert said == ["the disk is full", "a lambda is 100 % opaque", "it is full again"]
