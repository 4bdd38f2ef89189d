"""A process with connections that forks a child, as a loader of data does: argument 1 is where it dials, 2
the key there in hex, 3 a key that may dial it. Writes where it listens and its child's number, and waits."""

from __future__ import annotations

import json
import os
import sys
import time

from tests.net.swarm_kit import Node, eventually
from transport.effects import Connect
from transport.errors import DriverStopped


def child(node: Node, user: int) -> None:
    """Says whether calls are refused, and whether the program's own socket is left alone."""
    try:
        node.driver.call(lambda core, now: None)
    except DriverStopped:
        os.write(user, b"stopped")
    node.driver.stop()
    time.sleep(600)


def main() -> None:
    address, key, friend = sys.argv[1], bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])
    node = Node()
    node.admit(friend)
    node.driver.start()
    node.do(Connect(key, (address,), 1), Connect(bytes(32), ("tcp://192.0.2.1:9",), 0))
    eventually(lambda: len(node.core.up) == 2)
    print(json.dumps({"address": node.address, "key": node.key.hex()}), flush=True)
    sys.stdin.readline()  # until who may dial us has done so
    readable, writable = os.pipe()
    number = os.fork()
    if number == 0:
        child(node, writable)
    print(json.dumps({"child": number, "said": os.read(readable, 100).decode()}), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
