"""A process with connections that forks a child, as a loader of data does: argument 1 is where it dials, 2
the key there in hex, 3 a key that may dial it, or "sealed" to have a sealed lane. Writes where it listens and
its child's number, and waits."""

from __future__ import annotations

import json
import os
import sys
import time

from tests.net.link_core import LinkNode
from tests.net.swarm_kit import Node, eventually
from transport.effects import Connect
from transport.errors import DriverStopped
from transport.sockets.traces import BulkLaneUpTrace


def child(node: Node, user: int) -> None:
    """Says whether calls are refused, and whether the program's own socket is left alone."""
    try:
        node.driver.call(lambda core, now: None)
    except DriverStopped:
        os.write(user, b"stopped")
    node.driver.stop()
    time.sleep(600)


def plain(key: bytes, address: str, friend: bytes) -> Node:
    """Connections of libzmq's."""
    node = Node()
    node.admit(friend)
    node.driver.start()
    node.do(Connect(key, (address,), 1), Connect(bytes(32), ("tcp://192.0.2.1:9",), 0))
    eventually(lambda: len(node.core.up) == 2)
    return node


def sealed(key: bytes, address: str) -> Node:
    """A sealed lane beside them."""
    node = LinkNode(2)
    node.driver.start()
    node.run(lambda core, now: core.dial(now, key, address))
    eventually(lambda: node.traced(BulkLaneUpTrace))
    return node


def main() -> None:
    address, key = sys.argv[1], bytes.fromhex(sys.argv[2])
    node = (
        sealed(key, address) if sys.argv[3] == "sealed" else plain(key, address, bytes.fromhex(sys.argv[3]))
    )
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
