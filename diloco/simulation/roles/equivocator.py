"""The equivocator: one mean for some, another one for others, and a result that nobody else has.

In a round that is proved it vouches for either mean: it signs two roots under one statement.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from diloco.simulation.roles.role import Adversary, Role
from diloco.simulation.roles.two_roots import KeepsStatements
from peers.protocol.messages import Done
from peers.protocol.signing import Signer
from transport.collectives.chunks import MeanChunk, ProvedMean
from transport.effects import Payload, Phantom, Send
from transport.errors import BadFrame
from transport.frames import from_items, pack_items, to_items, unpack_items


class Equivocator(Role):
    """Members that compare what it sent them find that it sent them different things."""

    name = "equivocator"
    about = "other means for some members than for others, under two signed roots, and results nobody has"

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._keeps: KeepsStatements | None = None

    def signer(self, signer: Signer) -> Signer:
        """One that remembers what it said."""
        self._keeps = KeepsStatements(signer)
        return self._keeps

    def message(self, node: Adversary, peer: bytes, message: Any) -> Any:
        """Say that it holds something else."""
        if isinstance(message, Done) and self.rng.random() < 0.2:
            self.did("said that it holds another result")
            return replace(message, digest=self.rng.randbytes(32))
        return message

    def frame(self, node: Adversary, effect: Send) -> Iterable[Send]:
        """Every second member, by its key, gets another mean."""
        if effect.payload is None or effect.peer[0] % 2:
            return (effect,)
        part, mean = self._mean(effect)
        if mean is None:
            return (effect,)
        header, payload = effect.header, self._other(effect.payload)
        vouched = self._vouched(mean, effect.payload, payload)
        if vouched is not None:
            self.did("signed two roots under one statement")
            header = pack_items([part, to_items(vouched)])
        self.did("sent another mean to some")
        return (Send(effect.peer, effect.lane, header, payload, effect.purpose, effect.again),)

    def _vouched(self, mean: MeanChunk, true: Payload, other: Payload) -> ProvedMean | None:
        """The other mean with a root and a signature of its own."""
        if self._keeps is None or not isinstance(mean, ProvedMean):
            return None
        signature = self._keeps.sign_another(mean.signature, mean.path, true, other)
        return None if signature is None else replace(mean, signature=signature)

    def _mean(self, effect: Send) -> tuple[Any, MeanChunk | None]:
        """What a link says beside a message, and the message if it is a mean."""
        try:
            part, message = unpack_items(effect.header)
            found = from_items(message)
        except (BadFrame, ValueError):
            return None, None
        return part, found if isinstance(found, MeanChunk) else None

    def _other(self, payload: Payload) -> Payload:
        if isinstance(payload, Phantom):
            return Phantom(payload.size_bytes, bytes(32))
        values = np.frombuffer(payload, dtype=np.uint8).copy()
        values[:: max(1, len(values) // 8)] ^= 1
        return values.tobytes()
