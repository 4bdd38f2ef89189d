"""Schedules follow the swarm: a late joiner is at once where the others are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import diloco
from diloco.loop.session import Terms, WorkerSession
from diloco.training.outer import Outer
from diloco.training.schedules import Schedules
from peers.protocol.events import BecameActive
from peers.protocol.record import GENESIS
from tests.diloco.loop.kit import Recorder, committed, schedule

EVERY = 4


def warmup_and_decay(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.SequentialLR:
    kinds = torch.optim.lr_scheduler
    warmup = kinds.LinearLR(optimizer, start_factor=0.1, total_iters=5)
    decay = kinds.CosineAnnealingLR(optimizer, T_max=40)
    return kinds.SequentialLR(optimizer, [warmup, decay], milestones=[5])


def worker(swarm: diloco.Swarm) -> tuple[Outer, torch.optim.Optimizer, torch.optim.lr_scheduler.SequentialLR]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = warmup_and_decay(optimizer)
    outer = diloco.attach(model, optimizer, swarm, timeout_s=30.0)
    outer.schedule(scheduler)
    return outer, optimizer, scheduler


def step(
    outer: Outer, optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.SequentialLR
) -> None:
    outer.model(torch.ones(4, 3)).square().mean().backward()
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()


def rate(optimizer: torch.optim.Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def test_who_joins_late_learns_at_the_rate_of_who_was_there(tmp_path: Path) -> None:
    run = diloco.RunSettings.model_validate(
        {"run": {"rounds": 50, "min_peers": 1}, "method": {"preset": "diloco", "sync_every": EVERY}}
    )
    with diloco.host(run, listen="tcp://127.0.0.1:0", state=tmp_path) as host:
        first = worker(host)
        assert first[0].swarm_step == 0
        for _ in range(3 * EVERY):
            step(*first)
        assert (first[0].step, first[0].swarm_step, first[2].last_epoch) == (12, 12, 12)
        with diloco.join(host.ticket, name="late", listen="tcp://127.0.0.1:0") as joined:
            late = worker(joined)
            assert (late[0].step, late[0].swarm_step) == (0, 12)
            assert rate(late[1]) == pytest.approx(rate(first[1]), rel=1e-6)
            step(*late)
            step(*first)
            assert (late[0].step, late[0].swarm_step, late[2].last_epoch) == (1, 13, 13)
            assert rate(late[1]) == pytest.approx(rate(first[1]), rel=1e-6)


def session_of(replica: Recorder, **of_schedule: int) -> WorkerSession:
    terms = Terms(b"s" * 32, schedule(**of_schedule), wait_s=30.0, quorum=2)
    return WorkerSession(terms, replica, now=0.0)


def test_who_has_missed_rounds_is_where_the_others_are_once_it_has_caught_up() -> None:
    session = session_of(Recorder())
    session.event(0.0, BecameActive(GENESIS, 0))
    session.stepped(2, 0.5, steps=3)
    for _ in range(3):
        session.event(0.0, committed(None))
    assert (session.steps, session.swarm_step) == (3, 12)
    session.stepped(2, 0.5)
    assert session.swarm_step == 13


def test_where_a_round_waits_for_a_quorum_a_workers_share_of_the_outer_steps_counts() -> None:
    session = session_of(Recorder(shares=[1.0] * 8), rebases=True)
    session.num_members = 4
    session.event(0.0, BecameActive(GENESIS, 8))
    assert session.swarm_step == 8 * EVERY * 2 // 4


def test_a_later_process_goes_on_at_the_step_of_the_earlier_one() -> None:
    before = session_of(Recorder())
    before.event(0.0, BecameActive(GENESIS, 0))
    before.stepped(2, 0.5, steps=7)
    after = session_of(Recorder(shares=[1.0]))
    after.load_state_dict(before.state_dict(), lambda fragment: None)  # type: ignore[arg-type,return-value]
    after.event(0.0, BecameActive(GENESIS, 1))
    assert after.swarm_step == 7


class AcceleratedScheduler:
    """As accelerate's, which hides how far it is."""

    def __init__(self, scheduler: torch.optim.lr_scheduler.LRScheduler) -> None:
        self.scheduler = scheduler


AcceleratedScheduler.__module__ = "accelerate.scheduler"


def test_what_accelerate_wraps_is_moved_inside() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    scheduler = warmup_and_decay(optimizer)
    Schedules().add(AcceleratedScheduler(scheduler), 7)
    assert scheduler.last_epoch == 7


def test_a_scheduler_that_goes_by_a_metric_is_refused() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(diloco.UserError, match="ReduceLROnPlateau does not go by steps"):
        Schedules().add(torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), 0)
