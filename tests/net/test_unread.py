"""A connection that breaks while the driver reads nothing: the process lives, and so do other links."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.hostile.test_hostile_sockets import client
from tests.net.swarm_kit import Node, eventually, running
from transport.effects import Send
from transport.keys import random_pair
from transport.sockets.wire import frame_of

ROOT = Path(__file__).parents[2]
FRAMES = 100
"""More than the socket takes before it stops reading."""


def a_sender_goes_while_nobody_reads() -> None:
    """As while a journal cannot be written, or a core is slow."""
    host, member, rogue = Node(), Node(bind=None), random_pair()
    host.admit(member.key)
    host.admit(rogue.public)
    with running(host, member):
        member.dial(host)
        with client(host.address, host.key, rogue) as sock:
            sock.send(frame_of(0, b"first"))
            eventually(lambda: host.core.received)
            host.block(4.0)
            for _ in range(FRAMES):
                sock.send(frame_of(0, bytes(4000)))
            time.sleep(0.5)
        member.do(Send(host.key, 0, b"echo"))
        eventually(lambda: member.core.received)


def test_a_sender_that_goes_while_nobody_reads_does_not_end_the_process() -> None:
    program = [sys.executable, "-m", "tests.net.test_unread"]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]


if __name__ == "__main__":
    a_sender_goes_while_nobody_reads()
