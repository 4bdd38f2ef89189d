"""Over real sockets: the end of a connection that others opened, and a machine that refuses."""

from __future__ import annotations

import socket
import time

from tests.net.swarm_kit import EchoCore, Node, eventually, never, running
from transport.effects import Connect, Probe, Send
from transport.redial import REFUSAL_S
from transport.sockets.core_runner import CoreRunner
from transport.sockets.libzmq import Poll
from transport.sockets.names import Names
from transport.sockets.probes import Probes


def test_the_end_of_an_accepted_connection_is_told_after_all_that_came_over_it() -> None:
    host, member = Node(), Node(bind=None)
    host.admit(member.key)
    ended_after: list[int] = []
    ended = host.core.ended
    host.core.ended = lambda *told: (ended_after.append(len(host.core.received)), ended(*told))  # type: ignore
    with running(host):
        member.driver.start()
        member.dial(host)
        member.do(*[Send(host.key, lane, bytes([number])) for number in range(200) for lane in (0, 1)])
        member.driver.stop(2.0)
        eventually(lambda: len(host.core.ends) == 2)
        assert sorted(host.core.ends) == [(member.key, 0), (member.key, 1)]
        assert len(host.core.received) == 400
        assert [at for at in ended_after if at < 200] == []


def test_a_connection_that_a_newer_one_replaced_or_that_we_closed_is_no_news() -> None:
    host, first = Node(), Node(bind=None)
    second = Node(bind=None, keys=first.keys)
    host.admit(first.key)
    with running(host, first, second):
        first.dial(host)
        first.do(Send(host.key, 0, b"first"))
        eventually(lambda: host.core.received)
        second.dial(host)
        second.do(Send(host.key, 0, b"second"))
        eventually(lambda: len(host.core.received) == 2)
        never(lambda: host.core.ends)
        host.close(first.key)
        never(lambda: host.core.ends)


def test_a_probe_tells_of_a_machine_that_refuses_and_of_nothing_else() -> None:
    host, other = Node(), Node()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with running(host, other):
        host.do(Probe(other.key, other.address), Probe(other.key, "tcp://no-such-name:1"))
        never(lambda: host.core.refusals)
        host.do(Probe(other.key, f"tcp://127.0.0.1:{port}"))
        eventually(lambda: host.core.refusals == [other.key])


def test_a_dial_that_is_refused_is_told_once_every_address_refuses() -> None:
    member, host = Node(bind=None), Node()
    with running(member):
        host.driver.start()
        first, gone = host.address, host.key
        host.driver.stop(0.0)
        member.do(Connect(gone, (first,), 1))
        eventually(lambda: member.core.refusals)
        assert set(member.core.refusals) == {gone}
        assert member.core.up == []


def test_a_probe_is_over_once_somebody_answers_refuses_or_nobody_does() -> None:
    runner = CoreRunner(EchoCore(), time.monotonic, lambda trace: None, lambda effect: None)
    poll = Poll()
    names = Names(lambda: None, {"one": ["127.0.0.1"], "two": ["127.0.0.1", "127.0.0.2"]}.__getitem__)
    probes = Probes(runner, poll, names)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        probes.begin(Probe(b"p" * 32, f"tcp://127.0.0.1:{listening.getsockname()[1]}"))
        assert len(probes.dues()) == 1
        poll.wait(0.05)
        probes.serve_due(time.monotonic() + REFUSAL_S)
        assert probes.dues() == []
        poll.wait(0.0)
    for name, attempts in (("two", 0), ("one", 1)):
        probes.begin(Probe(b"p" * 32, f"tcp://{name}:1"))
        eventually(lambda name=name: (names.serve(), names.known(name))[1])
        assert len(probes.dues()) == attempts, "of several machines one that refuses means nothing"
    probes.close()
