"""Names in a member's addresses: looked up anew at each dial, and one that hangs costs nobody else time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence

import pytest

from tests.net.swarm_kit import Node, eventually, running
from transport.effects import Connect, Send
from transport.keys import random_pair
from transport.sockets import names
from transport.sockets.driver import SocketDriver
from transport.sockets.traces import LaneRefusedTrace


def member_that_resolves(resolve: Callable[[str], Sequence[str]]) -> Node:
    node = Node(bind=None)
    node.driver = SocketDriver(
        node.core,
        node.keys,
        None,
        node.events.append,
        node.traces.append,
        node.stored.append,
        resolve=resolve,
    )
    return node


class NameServer:
    """Resolves host.example, while it does, and hangs at anything else until the end of the context, as one
    does that its owner made hang."""

    def __init__(self) -> None:
        self.answers = True
        self._end = threading.Event()

    def resolve(self, name: str) -> Sequence[str]:
        if name == "host.example" and self.answers:
            return ["127.0.0.1"]
        self._end.wait()
        raise OSError("gone")

    def __enter__(self) -> NameServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        eventually(lambda: not any(each.name.startswith("diloco-name") for each in threading.enumerate()))


def named(host: Node, name: str) -> str:
    return f"tcp://{name}:{host.address.rpartition(':')[2]}"


def test_a_name_is_dialled_and_looked_up_anew_when_the_connection_is_dialled_again() -> None:
    asked: list[str] = []

    def resolve(name: str) -> Sequence[str]:
        asked.append(name)
        return ["127.0.0.1"]

    host, member = Node(), member_that_resolves(resolve)
    host.admit(member.key)
    with running(member):
        host.driver.start()
        address = host.address
        member.dial(host, named(host, "host.example"))
        before = len(asked)
        host.driver.stop(0)
        eventually(lambda: len(member.core.down) == 2)
        again = Node(bind=address, keys=host.keys)
        again.admit(member.key)
        with running(again):
            eventually(lambda: len(member.core.up) == 4)
        assert len(asked) > before
        assert set(asked) == {"host.example"}


def test_a_name_that_hangs_stops_nobody_elses_link_and_is_a_failed_dial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transport.sockets.dialled.LOOKUP_S", 0.3)
    assert names.LOOKUP_S > 0.3
    host, server = Node(), NameServer()
    strangers = [random_pair().public for _ in range(6)]
    member = member_that_resolves(server.resolve)
    host.admit(member.key)
    with running(host, member), server:
        member.dial(host, named(host, "host.example"))
        for number, stranger in enumerate(strangers):
            member.do(Connect(stranger, (f"tcp://hangs{number}.example:1",), 1))
        for round_trips in range(50):
            member.do(Send(host.key, 0, b"echo"))
            eventually(lambda count=round_trips: len(member.core.received) > count, 2.0)
        eventually(lambda: len(member.traced(LaneRefusedTrace)) >= 2 * len(strangers))
        assert "did not resolve in" in member.traced(LaneRefusedTrace)[0].reason
        assert member.core.down == []


def test_a_name_that_hangs_at_the_next_dial_means_what_it_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transport.sockets.dialled.LOOKUP_S", 0.3)
    host, server = Node(), NameServer()
    member = member_that_resolves(server.resolve)
    host.admit(member.key)
    with running(host, member), server:
        member.dial(host, named(host, "host.example"), lanes=0)
        server.answers = False
        member.do(Connect(host.key, (named(host, "host.example"),), 0))
        eventually(lambda: len(member.core.up) == 2)


def test_the_next_address_is_tried_when_a_name_does_not_resolve() -> None:
    def resolve(name: str) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    host, member = Node(), member_that_resolves(resolve)
    host.admit(member.key)
    with running(host, member):
        member.dial(host, "tcp://nowhere.example:1", host.address)
        (reason,) = {each.reason for each in member.traced(LaneRefusedTrace)}
        assert reason == "nowhere.example does not resolve: Name or service not known"
