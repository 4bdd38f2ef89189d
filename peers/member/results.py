"""The last few encoded results of rounds, kept for this member and for others who lack them.

A result is named by its digest. A result that a record to come needs is never given up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from dataclasses import dataclass

from peers.protocol.application import Application
from peers.protocol.record import Record
from transport.collectives.reducer import Reducer
from transport.effects import Payload


@dataclass(frozen=True, slots=True)
class EncodedResult:
    """An encoded result by chunk."""

    digests: list[bytes]
    chunks: list[Payload]


class KeptResults:
    """At most ``max_results`` results, but for those that are needed."""

    def __init__(self, app: Application, max_results: int) -> None:
        self._app = app
        self._max_results = max_results
        self._kept: OrderedDict[bytes, EncodedResult] = OrderedDict()

    def __contains__(self, digest: object) -> bool:
        return digest in self._kept

    def keep(self, digest: bytes, result: EncodedResult, needed: Container[bytes]) -> None:
        """Keep a result; the oldest ones that are not ``needed`` make room."""
        self._kept[digest] = result
        num_spare = max(0, len(self._kept) - self._max_results)
        for old in [d for d in self._kept if d not in needed][:num_spare]:
            del self._kept[old]

    def find(self, digest: bytes) -> EncodedResult | None:
        """The result of that name, if it is kept."""
        return self._kept.get(digest)

    def drop(self, digest: bytes) -> None:
        """Hand a result out no more."""
        self._kept.pop(digest, None)

    def decode(self, record: Record) -> Reducer | None:
        """The record's result, decoded, if it is kept. Raises `Poisoned`."""
        found = self._kept.get(record.result)
        if found is None:
            return None
        reducer = self._app.receiver(record.fragment)
        reducer.begin(max(1, record.chunk_elements), len(record.members))
        for chunk, payload in enumerate(found.chunks):
            reducer.accept(chunk, payload)
        return reducer
