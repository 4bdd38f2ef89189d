"""What attackers of attack_swarm.py do with bare sockets: connections without a key, and huge messages.

Strangers know an address and no key. Whoever sends huge messages has the key of an admitted identity.
"""

from __future__ import annotations

import resource
import secrets
import selectors
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import zmq

from peers.admission.identity import Identity
from peers.admission.ticket import read_ticket

GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0CURVE" + bytes(47)
"""How ZMTP 3.0 begins: signature, version, mechanism, role, filler."""
_OPENINGS = (0, 16, 31, 32, 64)
"""Bytes that are said at the bulk port, where an opening has 32."""
_CONNECTIONS = {"flood": 1000, "handshakes": 200, "openings": 200}
HUGE = {"multipart": (64, 1 << 20, 4, 0.2), "parts": (3_000_000, 0, 1, 10.0)}
"""By role: parts of a message, bytes of each, messages of one connection, and seconds before it is closed."""


def connect(role: str, ticket: str) -> None:
    """Open connections again and again. "flood" says nothing; "handshakes" sends a byte now and then. Those
    of "openings" go to the bulk port, with nothing, a part of an opening, one of rubbish, or more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    where = urlsplit(read_ticket(ticket, time.time()).addresses[0])
    port = (where.port or 0) + (role == "openings")
    waiting: list[tuple[socket.socket, int]] = []
    while True:
        while len(waiting) < _CONNECTIONS[role]:
            try:
                waiting.append((socket.create_connection((where.hostname, port), 2.0), 0))
                if role == "openings":
                    waiting[-1][0].sendall(secrets.token_bytes(_OPENINGS[len(waiting) % len(_OPENINGS)]))
            except OSError:
                time.sleep(0.05)
                break
        waiting = [each for each in map(_go_on if role == "handshakes" else _stay, waiting) if each]
        time.sleep(0.05)


def _stay(connection: tuple[socket.socket, int]) -> tuple[socket.socket, int] | None:
    """Keep a connection until the other end breaks it."""
    sock, said = connection
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        if not selector.select(0):
            return connection
    try:
        if sock.recv(4096):
            return sock, said
    except OSError:
        pass
    sock.close()
    return None


def _go_on(connection: tuple[socket.socket, int]) -> tuple[socket.socket, int] | None:
    """One more byte of a greeting."""
    sock, said = connection
    try:
        sock.send(GREETING[said : said + 1] or b"\0")
    except OSError:
        sock.close()
        return None
    return _stay((sock, said + 1))


def send_huge(role: str, ticket: str, home: Path) -> None:
    """Send messages as those of the role in `HUGE`, with the key of the identity in ``home``."""
    num_parts, part_bytes, num_messages, stays_s = HUGE[role]
    found, identity = read_ticket(ticket, time.time()), Identity.load_or_create(home / "identity")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    parts = [bytes(part_bytes)] * num_parts
    while True:
        sock = context.socket(zmq.DEALER)
        sock.linger, sock.sndtimeo, sock.sndhwm = 0, 500, 2
        sock.setsockopt(zmq.CURVE_SERVERKEY, found.host)
        sock.setsockopt(zmq.CURVE_PUBLICKEY, identity.keys.public)
        sock.setsockopt(zmq.CURVE_SECRETKEY, identity.keys.secret)
        sock.connect(found.addresses[0])
        try:
            for _ in range(num_messages):
                sock.send_multipart(parts, copy=not part_bytes)
        except zmq.ZMQError:
            pass
        time.sleep(stays_s)
        sock.close(0)
