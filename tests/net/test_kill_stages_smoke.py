"""Pipelines of real processes: a middle replica is killed, and all of them at once; every count is right."""

from __future__ import annotations

import kill_all_stages
import kill_stages
import pytest
import stage_worker


@pytest.mark.timeout(240)
def test_a_middle_replica_dies_and_nothing_counts_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kill_stages, "BEFORE_S", 1.0)
    monkeypatch.setattr(kill_stages, "SLOW_S", 2.0)  # how fast it is depends on what else this machine does
    assert kill_stages.main(["1", "--roles", "middle"]), "nothing is broken"
    assert "BROKEN" not in capsys.readouterr().out


def test_a_replica_is_told_all_that_a_process_of_its_own_needs() -> None:
    assert stage_worker.Replica.__slots__[:3] == ("folder", "ticket", "name")


@pytest.mark.timeout(240)
def test_everyone_is_killed_and_each_stage_goes_on_from_its_own_commit() -> None:
    assert kill_all_stages.main(["1", "--replicas", "1"]), "no round is lost, and nothing is broken"
