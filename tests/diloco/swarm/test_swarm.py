"""Swarm: the seam between the training thread and the network's thread, and its end."""

from __future__ import annotations

import threading

import pytest
import torch

import diloco
from diloco.errors import SwarmClosed
from diloco.settings import parse_settings
from diloco.swarm.swarm import Swarm
from peers.protocol.commands import LeaveRun, ReportProgress
from peers.protocol.messages import Report


def test_what_is_called_runs_on_the_networks_thread_and_its_result_comes_back() -> None:
    with diloco.solo() as swarm:
        name = swarm.call(lambda now, node: threading.current_thread().name)
        assert name == "diloco-transport"
        with pytest.raises(KeyError, match="mine"):
            swarm.call(lambda now, node: {}["mine"])
        assert swarm.call(lambda now, node: now) > 0, "an error of the caller's ends nothing"


def test_what_is_posted_is_carried_out_before_what_is_called_then_and_its_error_is_raised_later() -> None:
    reports = [Report(step, 0, 0, 0.0, True, 0.0, 0.0, 0, 0, 0, 0.0) for step in range(40)]
    with diloco.solo() as swarm:
        done: list[object] = []
        swarm.call(lambda now, node: setattr(node, "command", lambda now, command: done.append(command)))
        for report in reports:
            swarm.post(ReportProgress(report))
        assert swarm.call(lambda now, node: list(done)) == [ReportProgress(each) for each in reports]
        swarm.call(lambda now, node: setattr(node, "command", lambda now, command: {}["mine"]))
        swarm.post(LeaveRun("this fails"))
        swarm.call(lambda now, node: None)
        with pytest.raises(KeyError, match="mine"):
            swarm.post(LeaveRun("and this one says so"))
    with pytest.raises(SwarmClosed, match="it was closed"):
        swarm.post(LeaveRun("too late"))


def test_there_is_no_event_until_one_comes() -> None:
    with diloco.solo() as swarm:
        assert isinstance(swarm, Swarm)
        assert swarm.next_event(0.0) is None


def test_a_closed_swarm_says_so_and_may_be_closed_again() -> None:
    swarm = diloco.solo()
    swarm.close()
    swarm.close()
    with pytest.raises(SwarmClosed, match="it was closed"):
        swarm.call(lambda now, node: None)


def test_two_peers_of_one_name_have_different_peer_names() -> None:
    with diloco.solo() as one, diloco.solo() as two:
        assert one.name == two.name == "solo"
        assert one.peer_name != two.peer_name


def test_the_view_follows_the_rounds_of_a_worker() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.BatchNorm1d(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = parse_settings({"run": {"rounds": 3}, "method": {"sync_every": 2}}, "")
    with diloco.solo(run) as swarm:
        outer = diloco.attach(model, optimizer, swarm)
        while not outer.finished:
            optimizer.zero_grad()
            model(torch.ones(4, 3)).square().mean().backward()
            optimizer.step()
        assert outer.replica.has_mean_buffers, "by a commit that is no round"
        assert (swarm.view.round, swarm.view.participants, swarm.view.weight) == (3, 1, 1.0)
        assert swarm.view.peers == {}
        assert (swarm.bytes_sent, swarm.bytes_received) == (0, 0), "alone, nothing goes over a wire"
