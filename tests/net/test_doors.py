"""Who may come in: tickets, models and clones, over real sockets in one process."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import diloco
from diloco.cli.app import app
from diloco.training.outer import Outer
from peers.admission.identity import Identity
from peers.admission.ticket import Ticket, invite_pair
from peers.node import Node
from peers.protocol.messages import PROTOCOL, AskStatus
from transport.effects import Trace
from transport.errors import KnockRefused, KnockTimeout
from transport.frames import pack
from transport.keys import random_pair
from transport.sockets.libzmq import knock

RUN = diloco.RunSettings.model_validate(
    {
        "run": {"rounds": 1000, "failure_timeout_s": 2.0, "min_peers": 1},
        "method": {"sync_every": 2, "codec": "fp32"},
    }
)
LOCAL = "tcp://127.0.0.1:0"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[diloco.Swarm]:
    with diloco.host(RUN, listen=LOCAL, state=tmp_path / "host") as swarm:
        yield swarm


def changed(swarm: diloco.Swarm, **fields: Any) -> str:
    return dataclasses.replace(Ticket.parse(swarm.ticket), **fields).encode()


def worker(model: nn.Module, swarm: diloco.Swarm) -> tuple[Outer, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return diloco.attach(model, optimizer, swarm, timeout_s=20.0), optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().mean().backward()
        optimizer.step()


def test_a_ticket_with_a_wrong_secret_opens_nothing(host: diloco.Swarm) -> None:
    with pytest.raises(KnockRefused, match="does not admit this ticket"):
        diloco.join(changed(host, secret=os.urandom(16)), listen=LOCAL, timeout_s=10.0)
    assert host.status()["members"] == []


def test_a_ticket_that_expired_says_so_where_nobody_answers(host: diloco.Swarm) -> None:
    nowhere = changed(host, expiry=int(time.time()) - 3600, addresses=("tcp://127.0.0.1:1",))
    with pytest.raises(KnockTimeout, match="by the clock of this machine, the ticket expired at"):
        diloco.join(nowhere, listen=LOCAL, timeout_s=0.3)


def test_a_host_knows_by_itself_when_its_ticket_expired(tmp_path: Path) -> None:
    """A joiner, whose clock may differ, does not see it yet."""
    with diloco.host(RUN, listen=LOCAL, state=tmp_path / "host", ticket_hours=0.0) as host:
        Ticket.parse(host.ticket).check_expiry(time.time())
        with pytest.raises(diloco.JoinError, match="expired"):
            diloco.join(host.ticket, listen=LOCAL, timeout_s=10.0)


def test_a_revoked_invite_opens_nothing(host: diloco.Swarm) -> None:
    invite = invite_pair(Ticket.parse(host.ticket).secret).public

    def revoke(now: float, node: Node) -> None:
        assert node.door is not None
        node.door.revoke(invite)

    host.call(revoke)
    with pytest.raises(KnockRefused):
        diloco.join(host.ticket, listen=LOCAL, timeout_s=10.0)


def test_a_question_at_which_a_host_fails_is_logged_with_its_traceback_and_others_are_answered(
    host: diloco.Swarm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*asked: object) -> None:
        raise KeyError("gone")

    ticket = Ticket.parse(host.ticket)
    ask = (ticket.addresses[0], ticket.host, invite_pair(ticket.secret), pack(AskStatus(PROTOCOL)))
    with monkeypatch.context() as patched:
        patched.setattr("peers.admission.door.Door.answer", fail)
        with pytest.raises(KnockTimeout):
            knock(*ask, 0.5)
    assert "lost" in caplog.text
    assert "Traceback" in caplog.text
    assert "KeyError: 'gone'" in caplog.text
    assert knock(*ask, 5.0)


def test_a_stranger_is_refused_before_a_word_is_heard(host: diloco.Swarm) -> None:
    ticket = Ticket.parse(host.ticket)
    with pytest.raises(KnockRefused):
        knock(ticket.addresses[0], ticket.host, random_pair(), pack(AskStatus(PROTOCOL)), 5.0)
    assert host.bytes_received == 0


def test_whoever_poses_as_the_host_without_its_key_gets_nothing(host: diloco.Swarm) -> None:
    posing = changed(host, host=random_pair().public)
    with pytest.raises(Exception, match=r"reply|handshake|admit"):
        diloco.join(posing, listen=LOCAL, timeout_s=3.0)


@pytest.mark.parametrize(
    ("model", "code"),
    [(nn.Linear(4, 3), "shapes"), (nn.Sequential(nn.Linear(4, 2)), "tensors")],
)
def test_another_model_is_refused_with_what_differs_and_others_go_on(
    host: diloco.Swarm, model: nn.Module, code: str
) -> None:
    ours = nn.Linear(4, 2)
    with (
        diloco.join(host.ticket, listen=LOCAL, name="ours") as one,
        diloco.join(host.ticket, listen=LOCAL, name="other") as two,
    ):
        outer, optimizer = worker(ours, one)
        train(ours, optimizer, 4)
        with pytest.raises(diloco.EntryError) as caught:
            worker(model, two)
        assert caught.value.code == code
        before = outer.round
        train(ours, optimizer, 6)
        assert outer.round > before


def test_the_status_is_the_hosts_own_as_a_table_and_as_json_for_programs(host: diloco.Swarm) -> None:
    with diloco.join(host.ticket, listen=LOCAL, name="one") as swarm:
        worker(nn.Linear(4, 2), swarm)
        found = diloco.status(host.ticket)
        (member,) = found["members"]
        assert found | {"members": None} == host.status() | {"members": None}
        done = CliRunner().invoke(app, ["status", host.ticket, "--json"])
        shown = json.loads(done.output)
        assert shown["head"] == found["head"].hex()
        assert shown["members"][0]["key"] == member["key"].hex()
        assert set(shown) == set(found)
        assert "one" in CliRunner().invoke(app, ["status", host.ticket]).output


def test_who_joins_later_knows_how_many_rounds_its_state_has(host: diloco.Swarm) -> None:
    first_model, second_model = nn.Linear(4, 2), nn.Linear(4, 2)
    with (
        diloco.join(host.ticket, listen=LOCAL, name="first") as one,
        diloco.join(host.ticket, listen=LOCAL, name="second") as two,
    ):
        first, optimizer = worker(first_model, one)
        train(first_model, optimizer, 6)
        second, _ = worker(second_model, two)
        assert 0 < second.round == first.round


def test_of_two_processes_with_one_identity_the_older_is_told_to_stop(
    host: diloco.Swarm, tmp_path: Path
) -> None:
    state = tmp_path / "worker"
    kept, model, clone = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 2)
    with (
        diloco.join(host.ticket, listen=LOCAL, name="keeper") as first,
        diloco.join(host.ticket, listen=LOCAL, state=state, name="older") as older,
    ):
        worker(kept, first)
        _, optimizer = worker(model, older)
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in ("identity", "incarnation"):
            shutil.copy(state / name, copy)
        with diloco.join(host.ticket, listen=LOCAL, state=copy, name="newer") as newer:
            worker(clone, newer)
            give_up = time.monotonic() + 30.0
            with pytest.raises(diloco.SwarmClosed, match="newer process"):
                train_until(give_up, model, optimizer)
            assert [each["name"] for each in host.status()["members"]] == ["keeper", "newer"]


def train_until(give_up: float, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    while time.monotonic() < give_up:
        train(model, optimizer, 1)


def test_secrets_are_in_no_representation(tmp_path: Path) -> None:
    traces: list[Trace] = []
    with diloco.host(RUN, listen=LOCAL, state=tmp_path / "host", on_trace=traces.append) as host:
        ticket = Ticket.parse(host.ticket)
        diloco.join(host.ticket, listen=None).close()
    identity = Identity.ephemeral()
    shown = [repr(ticket), str(ticket), repr(identity), repr(identity.keys), repr(traces)]
    assert traces
    for text in shown:
        assert ticket.secret.hex() not in text
        assert repr(ticket.secret)[2:-1] not in text
        assert identity.keys.secret.hex() not in text
