"""What a process says of its bulk lanes, by what its machine and its flags allow."""

from __future__ import annotations

import pytest

import diloco
from diloco.cli import bulk
from diloco.cli.bulk import bulk_line, upload_bps
from diloco.errors import UserError


def test_an_upload_is_a_rate_in_bits_or_bytes() -> None:
    assert upload_bps(None) is None
    assert upload_bps("20Mbit/s") == upload_bps("2.5MB/s") == 20e6
    with pytest.raises(UserError, match="not a rate"):
        upload_bps("fast")


def test_without_aes_hardware_it_says_that_bulk_goes_over_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    with diloco.solo() as swarm:
        monkeypatch.setattr(bulk, "has_fast_aes", lambda: False)
        assert "no AES instructions" in bulk_line(swarm)
        monkeypatch.setattr(bulk, "has_fast_aes", lambda: True)
        assert "dialled from here" in bulk_line(swarm)
