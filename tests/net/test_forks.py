"""A forked child holds no socket of ours: the death of its parent is seen when it happens, on every side."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.net.link_core import LinkNode
from tests.net.swarm_kit import Node, eventually, running
from transport.effects import Send
from transport.sockets.traces import BulkLaneLostTrace, BulkLaneUpTrace

ROOT = Path(__file__).parents[2]


class Forking:
    """The process, and what it writes."""

    def __init__(self, at: Node, friend: str) -> None:
        program = [sys.executable, "-m", "tests.net.forking_peer", at.address, at.key.hex(), friend]
        self.process = subprocess.Popen(
            program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first = self.line()
        self.child = 0

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def fork(self) -> dict[str, Any]:
        """Let it have a child; what that says."""
        assert self.process.stdin is not None
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()
        found = self.line()
        self.child = found["child"]
        return found

    def sockets_of_child(self) -> list[str]:
        """The internet sockets that the child has."""
        inodes = {
            line.split()[9] for line in Path(f"/proc/{self.child}/net/tcp").read_text().splitlines()[1:]
        }
        held = []
        for name in os.listdir(f"/proc/{self.child}/fd"):
            with suppress(OSError):
                link = os.readlink(f"/proc/{self.child}/fd/{name}")
                if link.startswith("socket:[") and link[8:-1] in inodes:
                    held.append(link)
        return held

    def lives(self) -> bool:
        return os.path.exists(f"/proc/{self.child}")


@contextmanager
def forking(at: Node, friend: Node | None) -> Iterator[Forking]:
    found = Forking(at, "sealed" if friend is None else friend.key.hex())
    try:
        yield found
    finally:
        if found.child:  # it has a copy of the pipe that is read to its end below
            with suppress(ProcessLookupError):
                os.kill(found.child, signal.SIGKILL)
        found.process.kill()
        found.process.communicate()


def test_when_a_process_with_a_child_is_killed_both_who_dialled_it_and_whom_it_dialled_see_the_end() -> None:
    at, friend = Node(), Node(bind=None)
    at.core.kinds = _Everybody()
    with running(at, friend), forking(at, friend) as there:
        key = bytes.fromhex(there.first["key"])
        friend.admit(key)
        friend.driver.call(lambda core, now: friend.core.out.append(_connect(key, there)))
        eventually(lambda: len(friend.core.up) == 2)
        friend.do(Send(key, 0, b"echo"))
        eventually(lambda: friend.core.received)
        accepted = at.driver.accepted
        assert accepted is not None
        said = there.fork()
        assert said["said"] == "stopped", "what it calls in the child is refused"
        friend.do(Send(key, 0, b"echo"))
        eventually(lambda: len(friend.core.received) == 2)
        assert there.sockets_of_child() == []
        os.kill(there.process.pid, signal.SIGKILL)
        eventually(lambda: sorted(friend.core.down) == [(key, 0), (key, 1)], 3.0)
        assert there.lives()


def test_whom_a_killed_process_dialled_reads_the_end() -> None:
    friend = Node(bind=None)
    at = Node()
    at.core.kinds = _Everybody()
    with running(at, friend), forking(at, friend) as there:
        port = int(there.first["address"].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.settimeout(5.0)
            there.fork()
            os.kill(there.process.pid, signal.SIGKILL)
            with suppress(ConnectionResetError):
                while raw.recv(4096):
                    continue
        eventually(lambda: not _connections(at), 3.0)
        assert there.lives()


def test_the_end_of_a_killed_process_with_a_sealed_lane_and_a_child_is_seen_at_once() -> None:
    at = LinkNode(1)
    with running(at), forking(at, None) as there:
        eventually(lambda: at.traced(BulkLaneUpTrace))
        assert there.fork()["said"] == "stopped"
        assert there.sockets_of_child() == []
        assert not at.traced(BulkLaneLostTrace), "a child closes its copies, and ends no connection"
        os.kill(there.process.pid, signal.SIGKILL)
        eventually(lambda: at.traced(BulkLaneLostTrace), 3.0)
        assert there.lives()


class _Everybody(dict[bytes, str]):
    """All are members."""

    def get(self, key: bytes, default: Any = None) -> Any:
        return "member"


def _connect(key: bytes, there: Forking) -> Any:
    from transport.effects import Connect

    return Connect(key, (there.first["address"],), 1)


def _connections(node: Node) -> list[str]:
    """Of those that others opened to it, the ones that stand."""
    port = f":{int(node.address.rpartition(':')[2]):04X}"
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return [line[2] for line in lines if line[1].endswith(port) and line[3] == "01"]
