"""The equivocator: one mean for some, another one for others, and a result that nobody else has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from diloco.simulation.roles.role import Adversary, Role
from peers.protocol.messages import Done
from transport.collectives.chunks import MeanChunk
from transport.effects import Payload, Phantom, Send
from transport.errors import BadFrame
from transport.frames import from_items, unpack_items


class Equivocator(Role):
    """Members that compare what it sent them find that it sent them different things."""

    name = "equivocator"
    about = "other means for some members than for others, and results that nobody else has"

    def message(self, node: Adversary, peer: bytes, message: Any) -> Any:
        """Say that it holds something else."""
        if isinstance(message, Done) and self.rng.random() < 0.2:
            self.did("said that it holds another result")
            return replace(message, digest=self.rng.randbytes(32))
        return message

    def frame(self, node: Adversary, effect: Send) -> Iterable[Send]:
        """Every second member, by its key, gets another mean."""
        if effect.payload is None or effect.peer[0] % 2 or not self._is_mean(effect):
            return (effect,)
        self.did("sent another mean to some")
        payload = self._other(effect.payload)
        return (Send(effect.peer, effect.lane, effect.header, payload, effect.purpose, effect.again),)

    def _is_mean(self, effect: Send) -> bool:
        try:
            items = unpack_items(effect.header)
            return len(items) == 2 and isinstance(from_items(items[1]), MeanChunk)
        except BadFrame:
            return False

    def _other(self, payload: Payload) -> Payload:
        if isinstance(payload, Phantom):
            return Phantom(payload.size_bytes, bytes(32))
        values = np.frombuffer(payload, dtype=np.uint8).copy()
        values[:: max(1, len(values) // 8)] ^= 1
        return values.tobytes()
