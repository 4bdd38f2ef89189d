"""Rubbish: random bytes, messages that make no sense here, and frames of every wrong size."""

from __future__ import annotations

from typing import Any

from diloco.simulation.roles.role import Adversary, Role
from transport.effects import Send
from transport.frames import kinds, pack_items


class Rubbish(Role):
    """It says whatever can be said to everyone it has a link to."""

    name = "rubbish"
    about = "random bytes, unknown kinds, known kinds with random fields, payloads of wrong sizes"
    acts_every_s = 0.25

    def act(self, now: float, node: Adversary) -> None:
        """A few frames to some of the others."""
        for peer in sorted(node.links.by_peer):
            if self.rng.random() < 0.4:
                self.did("sent rubbish")
                lane = self.rng.choice([0, 0, 1, 7])
                payload = None if lane == 0 and self.rng.random() < 0.7 else self.rng.randbytes(self._size())
                node.say_frame(Send(peer, lane, self._header(node, peer), payload, "control"))

    def _size(self) -> int:
        return self.rng.choice([0, 1, 64, 1000, 4096, 20_000])

    def _header(self, node: Adversary, peer: bytes) -> bytes:
        if self.rng.random() < 0.3:
            return self.rng.randbytes(self._size() % 5000)
        link = node.links.by_peer[peer]
        seq = self.rng.choice([0, 1, 10**6, self.rng.randint(0, 1 << 62)])
        session, known = link.session, link.streams.peer_session
        number = self.rng.choice(list(kinds()))
        fields = [self._value() for _ in range(self.rng.randint(0, 9))]
        return pack_items([[2, *session, *known, 0, 0, 1 << 40, seq], [number, *fields]])

    def _value(self) -> Any:
        return self.rng.choice(
            [0, 1, -1, 1 << 62, 0.0, 1e300, "", "text", b"", self.rng.randbytes(32), [], [1, 2], True, None]
        )
