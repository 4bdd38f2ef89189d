"""Bytes that somebody on the line recorded are sent again: over fresh connections, in the one that stands, to
the one who dialled, to another life of the host and to another run. Nobody hears anything of it (X3)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import zmq
from torch import nn

import diloco
from diloco.swarm.state_dir import same_port
from tests.hostile.tapes import LOOPBACK, Proxy, Tape, recording, send_again
from tests.net.swarm_kit import Node, eventually, never, running
from transport.effects import Connect, Send

LOCAL = "tcp://127.0.0.1:0"
RUN = diloco.RunSettings.model_validate(
    {
        "run": {"rounds": 1000, "failure_timeout_s": 2.0, "min_peers": 1},
        "method": {"sync_every": 2, "codec": "fp32"},
    }
)


@pytest.fixture
def taped() -> Iterator[tuple[Node, Node, Proxy]]:
    """A host and a member that talk through a proxy, and have said some frames; at the end they still can."""
    host, member = Node(), Node(bind=None)
    host.admit(member.key)
    with running(host, member), recording() as proxy:  # whose threads are gone when threads are counted
        proxy.aim_at(host.address)
        member.admit(host.key)
        member.do(Connect(host.key, (proxy.address,), 1))
        eventually(lambda: len(member.core.up) == 2)
        member.do(*[Send(host.key, lane, b"echo%d" % number) for number in range(5) for lane in (0, 1)])
        eventually(lambda: len(member.core.received) == 10)
        yield host, member, proxy
        before = len(member.core.received)
        eventually(lambda: is_heard_again(host, member, before))


def is_heard_again(host: Node, member: Node, before: int) -> bool:
    """A connection that was broken is dialled anew."""
    member.do(Send(host.key, 0, b"echo again"))
    return len(member.core.received) > before


def test_without_encryption_recorded_bytes_are_heard_again() -> None:
    """So the proxy does send them again."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.rcvtimeo = 5000
    port = router.bind_to_random_port(f"tcp://{LOOPBACK}")
    with recording() as proxy:
        proxy.aim_at(f"tcp://{LOOPBACK}:{port}")
        dealer.connect(proxy.address)
        dealer.send(b"once")
        assert router.recv_multipart()[1:] == [b"once"]
        (tape,) = proxy.tapes
        send_again(tape, f"tcp://{LOOPBACK}:{port}")
        assert router.recv_multipart()[1:] == [b"once"]
        tape.far.sendall(bytes(tape.there[-6:]))
        assert router.recv_multipart()[1:] == [b"once"]
        dealer.close(0)
    router.close(0)
    context.term()


def test_a_recorded_connection_opens_no_other_one(taped: tuple[Node, Node, Proxy]) -> None:
    host, _, proxy = taped
    heard = len(host.core.received)
    for tape in proxy.tapes:
        answers = send_again(tape, host.address)
        assert b"WELCOME" in answers, "the first half of a handshake is answered, by anybody"
        assert b"READY" not in answers
    never(lambda: len(host.core.received) > heard)


def test_recorded_frames_are_not_heard_twice_in_their_own_connection(
    taped: tuple[Node, Node, Proxy],
) -> None:
    host, _, proxy = taped
    heard = len(host.core.received)
    for tape in proxy.tapes[:2]:
        frames = after_handshake(tape)
        assert len(frames) > 5 * 20
        with suppress(OSError):
            tape.far.sendall(frames)
    never(lambda: len(host.core.received) > heard)
    assert {frame[2] for frame in host.core.received[heard:]} == set()


def after_handshake(tape: Tape) -> bytes:
    """What came behind the last word of the handshake."""
    at = tape.there.index(b"INITIATE")
    size = int.from_bytes(tape.there[at - 9 : at - 1], "big")  # it has 257 bytes or more, so a long length
    return bytes(tape.there[at - 1 + size :])


def test_a_recorded_host_is_not_taken_for_the_host(taped: tuple[Node, Node, Proxy]) -> None:
    host, _, proxy = taped
    member = Node(bind=None)
    member.admit(host.key)
    (tape, *_) = proxy.tapes
    with socket.create_server((LOOPBACK, 0)) as listener, running(member):
        listener.settimeout(5.0)
        answering = threading.Thread(target=play_back, args=(listener, bytes(tape.back)))
        answering.start()
        member.do(Connect(host.key, (f"tcp://{LOOPBACK}:{listener.getsockname()[1]}",), 1))
        answering.join(10.0)
        never(lambda: member.core.up or member.core.received)


def play_back(listener: socket.socket, said: bytes) -> None:
    for _ in range(2):
        sock, _ = listener.accept()
        with sock, suppress(OSError):
            sock.settimeout(0.2)
            sock.sendall(said)
            while sock.recv(1 << 16):
                pass


def test_neither_the_door_nor_the_journal_of_any_host_takes_what_was_recorded_of_a_worker(
    tmp_path: Path,
) -> None:
    """Ticket, entry, rounds and goodbye of a worker, to this life of its host, to the next and to another."""
    home = tmp_path / "host"
    with recording() as proxy:
        with diloco.host(RUN, listen=LOCAL, advertise=proxy.address, state=home) as host:
            proxy.aim_at(same_port(home, LOCAL))
            train(host.ticket, steps=6)
            eventually(lambda: host.status()["rounds"] == 3 and not host.status()["members"])
            assert len(proxy.tapes) >= 3, "the knock, and two lanes"
            nothing_changes(host, home, proxy)
        with diloco.host(RUN, listen=LOCAL, advertise=proxy.address, state=home) as again:
            nothing_changes(again, home, proxy)
        other = tmp_path / "other"
        with diloco.host(RUN, listen=LOCAL, state=other) as another:
            nothing_changes(another, other, proxy)


def train(ticket: str, steps: int) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        diloco.join(ticket, listen=None, name="ann") as swarm,
        diloco.attach(model, optimizer, swarm, timeout_s=20.0),
    ):
        for _ in range(steps):
            model(torch.ones(2, 4)).square().mean().backward()
            optimizer.step()


def nothing_changes(host: diloco.Swarm, home: Path, proxy: Proxy) -> None:
    (journal,) = home.glob("journal-*")
    before = journal.read_bytes(), host.status(), host.bytes_received
    for tape in list(proxy.tapes):
        send_again(tape, same_port(home, LOCAL))
    assert (journal.read_bytes(), host.status(), host.bytes_received) == before
