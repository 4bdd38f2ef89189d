"""The encoded results of rounds that this member has at hand: the last few in memory, more on its own disk.

A result is named by its digest. Memory is bounded by bytes: what it would take to fetch the whole state is
more than older results are worth. A result that a record to come needs is never given up. What the
disk gives is hashed before it is used: what is not what it is named for is told, and not asked for again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable, Sequence

from peers.member.outlet import MemberOutlet
from peers.protocol.application import Application
from peers.protocol.events import KeptResultDamaged
from peers.protocol.record import Record
from transport.collectives.reducer import Reducer
from transport.digests import digest_of, tree_digest
from transport.effects import EncodedResult

MAX_RESULTS_AT_ONCE = 4
"""Fetches of results under way, of one member; so many that were read from the disk wait to be handed out."""
_MAX_NAMES = 1024
"""Results of the disk of which it is remembered whether they can be used."""


FEW, FEW_BYTES = 2, 8 << 20
"""So many older results are kept of a small model, whose rounds are fast, of so many bytes at most. With more
whoever came back went from one to the next and never caught up, instead of fetching the state."""


class KeptResults:
    """Of a model of ``num_fragments`` the last result of each, older ones of at most ``spare_bytes``
    together or a few small ones, and those that are needed. Of what was read from the disk as much, and a
    few at least."""

    def __init__(self, app: Application, num_fragments: int, spare_bytes: int, outlet: MemberOutlet) -> None:
        self._app = app
        self._num_fragments = num_fragments
        self._spare_bytes = spare_bytes
        self._outlet = outlet
        self._kept: dict[bytes, EncodedResult] = {}
        """The oldest first."""
        self._read: OrderedDict[bytes, EncodedResult] = OrderedDict()
        self._on_disk: dict[bytes, bool] = {}
        """By name: whether what the disk has can be used. What it does not have is asked for each time."""

    @classmethod
    def of(cls, app: Application, elements: Sequence[int], outlet: MemberOutlet) -> KeptResults:
        """Of a model whose fragments have so many values each: of older results a quarter of its bytes as
        fp32, and a little more, for one of int8 has scales too."""
        return cls(app, len(elements), sum(elements) * 5 // 4, outlet)

    def __contains__(self, digest: bytes) -> bool:
        if digest in self._kept:
            return True
        usable = self._on_disk.get(digest)
        return self._from_disk(digest) is not None if usable is None else usable

    def keep(self, digest: bytes, result: EncodedResult, needed: Container[bytes]) -> None:
        """Keep a result; the oldest ones that are not ``needed`` make room."""
        self._kept[digest] = result
        older = [each for each in list(self._kept)[: -self._num_fragments] if each not in needed]
        size = sum(self._kept[each].size_bytes for each in older)
        for place, each in enumerate(older):
            if size <= self._spare_bytes or (len(older) - place <= FEW and size <= FEW_BYTES):
                return
            size -= self._kept.pop(each).size_bytes

    def size_bytes(self, wanted: Iterable[bytes]) -> int:
        """Of those of the named results that are in memory, but for those that were read from the disk."""
        return sum(self._kept[each].size_bytes for each in wanted if each in self._kept)

    def find(self, digest: bytes) -> EncodedResult | None:
        """The result of that name, if it is at hand."""
        return self._kept.get(digest) or self._from_disk(digest)

    def drop(self, digest: bytes) -> None:
        """Hand a result out no more."""
        self._kept.pop(digest, None)
        self._read.pop(digest, None)
        self._note(digest, usable=False)

    def decode(self, record: Record) -> Reducer | None:
        """The record's result, decoded, if it is at hand. Raises `Poisoned`."""
        found = self.find(record.result)
        if found is None:
            return None
        reducer = self._app.receiver(record.fragment)
        reducer.begin(max(1, record.chunk_elements), len(record.members))
        for chunk, payload in enumerate(found.chunks):
            reducer.accept(chunk, payload)
        return reducer

    def _from_disk(self, digest: bytes) -> EncodedResult | None:
        if digest in self._read:
            self._read.move_to_end(digest)
            return self._read[digest]
        if self._on_disk.get(digest) is False:
            return None
        found = self._app.kept_result(digest)
        if found is None:
            self._on_disk.pop(digest, None)  # a checkpoint may have passed it since
            return None
        usable = tree_digest(found.digests) == digest and found.digests == list(map(digest_of, found.chunks))
        self._note(digest, usable=usable)
        if not usable:
            self._outlet.deliver(KeptResultDamaged(digest))
            return None
        self._read[digest] = found
        size = sum(each.size_bytes for each in self._read.values())
        while len(self._read) > MAX_RESULTS_AT_ONCE and size > self._spare_bytes:
            size -= self._read.popitem(last=False)[1].size_bytes
        return found

    def _note(self, digest: bytes, *, usable: bool) -> None:
        if len(self._on_disk) >= _MAX_NAMES:
            self._on_disk.clear()
        self._on_disk[digest] = usable
