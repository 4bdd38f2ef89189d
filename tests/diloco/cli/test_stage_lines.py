"""What is said of a run's stages: a line each, and who is alone."""

from __future__ import annotations

from dataclasses import replace

from diloco.cli.stage_lines import stage_lines
from peers.coordinator.status import RunStatus, StageStatus
from tests.peers.coordinator.test_status import STATUS


def status_of(*active: int) -> RunStatus:
    stages = tuple(
        StageStatus(
            number=number,
            num_replicas=2,
            num_active=count,
            speed=1000.0,
            num_rounds=4 + number,
            num_commits=4,
            head=bytes(32),
            model="a part",
            saved_index=-1,
            waits="" if count else "nobody has its state",
            settled=0 if number else 1500,
            partial=3 * number,
        )
        for number, count in enumerate(active)
    )
    members = (
        replace(STATUS.members[0], stage=0, tokens_per_second=300.0),
        replace(STATUS.members[0], stage=0, tokens_per_second=400.0),
        replace(STATUS.members[0], stage=1, tokens_per_second=100.0),
    )
    return replace(STATUS, stages=stages, members=members, max_rounds=9)


def test_each_stage_has_a_line_and_who_is_alone_a_warning() -> None:
    assert stage_lines(status_of(2, 1)) == [
        "stage 0: 2 replicas, round 4 of 9, counts 700 tokens/s of 1,000 that it could; fed"
        " 1,500 settled and 0 lost microbatches",
        "stage 1: 1 replica (and 1 joining), round 5 of 9, counts 100 tokens/s of 1,000 that it could;"
        " 3 given up below it",
        "stage 1 has one replica: if it dies the stage's state is lost, but for what is on its disk, and the"
        " run waits; let another one join",
    ]
    assert stage_lines(status_of(2, 0))[1].endswith("; 3 given up below it; waits: nobody has its state")


def test_a_whole_model_has_no_stages_to_tell_of() -> None:
    assert stage_lines(status_of(1)) == []
