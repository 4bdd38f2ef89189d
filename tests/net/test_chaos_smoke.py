"""A real swarm survives what goes wrong for two minutes, and the oracle is not to be lied to."""

from __future__ import annotations

import chaos_processes
import chaos_swarm
import chaos_worker
import pytest
from chaos_oracle import judge


@pytest.mark.timeout(500)
def test_chaos_breaks_nothing_and_a_lie_about_it_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = chaos_swarm.main(["--minutes", "2", "--peers", "8", "--seed", "1"])
    verdict = outcome.verdict
    assert verdict.broken == []
    assert verdict.means > 0.95 * (verdict.rounds - verdict.restored) > 19
    assert len(outcome.faults) > 10
    assert "to the next commit of others" in capsys.readouterr().out
    lie = next(line for line in outcome.story.lines if line["event"] == "committed" and line["index"] == 5)
    for line in outcome.story.lines:
        if line.get("head") == lie["head"]:
            line["values"][3] += 0.01
    assert any(each.startswith("S3") for each in judge(outcome.story).broken)


def test_a_worker_is_told_all_that_a_process_of_its_own_needs() -> None:
    assert chaos_worker.Part.__slots__[:3] == ("folder", "ticket", "name")
    assert chaos_processes.HOST not in range(64)
