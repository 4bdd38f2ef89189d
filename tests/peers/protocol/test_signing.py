"""What statements name as their run: one name for one host and one set of settings."""

from __future__ import annotations

from peers.protocol.signing import run_of


def test_statements_of_another_host_or_other_settings_are_of_another_run() -> None:
    names = {run_of(host, settings) for host in (b"h" * 32, b"i" * 32) for settings in (b"s" * 32, b"t" * 32)}
    assert len(names) == 4
    assert {len(name) for name in names} == {32}
    assert run_of(b"h" * 32, b"s" * 32) in names
