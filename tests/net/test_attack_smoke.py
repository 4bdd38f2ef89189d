"""A real swarm is attacked for a few seconds: nobody honest ends or is put out, and commits go on."""

from __future__ import annotations

import os

import attack_strangers
import attack_worker
import pytest
from attack_swarm import main

from diloco.simulation.roles.registry import ROLES

SHARED_THREADS = 3 * 2 * min(4, os.cpu_count() or 1)
"""Descriptors that a host keeps once it had more than four bulk lanes: three for each thread that serves
several."""


@pytest.mark.timeout(400)
def test_an_attacked_swarm_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    found = main(["--seconds", "3.3"])
    assert [costs.role for costs in found] == list(attack_worker.NAMES)
    for costs in found:
        assert (costs.ended, costs.expelled) == ((), ()), costs
        assert all(rate > 0 for rate in costs.commits_per_s), costs
        before, most, after = costs.descriptors
        more = after - before
        assert more <= 10 + SHARED_THREADS, f"connections of one that is gone stay: {before}, {most}, {after}"
    assert "who ended" in capsys.readouterr().out


def test_every_role_of_the_simulator_and_every_stranger_can_be_played() -> None:
    roles = {*ROLES, *attack_worker.STRANGERS, *attack_strangers.HUGE, attack_worker.RECORDS}
    assert roles == set(attack_worker.NAMES)
    assert len(attack_strangers.GREETING) == 64
