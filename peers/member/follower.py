"""How a member stays at the head: commit records in order, results that it lacks, whole states.

A record is applied only on its parent (S2), with the result that it names, checked by hash. Results
come from the member's own exchange or from others who keep the last few; states come from donors.
Whoever has not caught up hands out nothing. One record at a time is with the application.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from peers.member.exchanges import Bulk
from peers.protocol.application import Application, StateBlob, piece_sizes
from peers.protocol.messages import CatchUp
from peers.protocol.record import GENESIS, Record
from transport.collectives.fetch import Fetch, Lack, Piece, Want, index_page
from transport.collectives.reducer import Reducer
from transport.digests import digest_of
from transport.effects import Payload, Phantom, PhantomBlob
from transport.limits import Limits

_RESULTS_AT_ONCE = 4
"""Fetches of results under way."""


@dataclass(frozen=True, slots=True)
class EncodedResult:
    """An encoded result by chunk."""

    digests: list[bytes]
    chunks: list[Payload]


@dataclass(slots=True)
class _StateFetch:
    """One fragment's state on its way."""

    order: CatchUp
    data: bytearray | PhantomBlob
    fetch: Fetch


@dataclass(slots=True)
class _ResultFetch:
    record: Record
    chunks: dict[int, Payload]
    fetch: Fetch
    lacking: set[bytes] = field(default_factory=set)
    """Those who did not have it when they were asked, and may have it soon."""


@dataclass(slots=True)
class _Served:
    fragment: int
    blob: StateBlob
    used_at: float


@dataclass(slots=True)
class Follower:
    """Head, records to come, and what is fetched or handed out."""

    me: bytes
    app: Application
    bulk: Bulk
    limits: Limits
    timeout_s: float
    patience_s: float
    """How long a donor with a living link may hand out nothing."""
    elements: Sequence[int]
    adapts: bool = False
    """How long a result is depends on the state before it."""
    head: bytes = GENESIS
    index: int = 0
    """Of the head."""
    holds_state: bool = False
    records: deque[Record] = field(default_factory=deque)
    state_fetches: list[_StateFetch] = field(default_factory=list)
    result_fetches: list[_ResultFetch] = field(default_factory=list)
    _common_base: bytes = GENESIS
    _bases: dict[int, bytes] = field(default_factory=dict)
    _results: OrderedDict[bytes, EncodedResult] = field(default_factory=OrderedDict)
    _served: dict[bytes, _Served] = field(default_factory=dict)
    _donors: list[bytes] = field(default_factory=list)

    # -- where we are -------------------------------------------------------------------------

    def base(self, fragment: int) -> bytes:
        """The version of a fragment that we hold."""
        return self._bases.get(fragment, self._common_base)

    def begin_at(self, head: bytes) -> None:
        """Our own state is the run's first, under this name."""
        self.head, self.index = head, 0
        self._common_base = head
        self._bases = {}
        self.holds_state = True

    def moved(self, record: Record) -> None:
        """A record was applied, or adopted."""
        self.head, self.index = record.hash(), record.index
        if record.restores:
            self._common_base, self._bases = self.head, {}
        else:
            self._bases[record.fragment] = self.head

    def arrive(self, order: CatchUp) -> None:
        """The whole state that was ordered is here."""
        self.head, self.index, self.holds_state = order.head, order.index, True

    def set_version(self, fragment: int, version: bytes) -> None:
        self._bases[fragment] = version

    # -- results ------------------------------------------------------------------------------

    def keep_result(self, digest: bytes, digests: list[bytes], chunks: list[Payload]) -> None:
        """Keep a result for those who lack it, as long as it is one of the last few. ``digests`` are those
        of its chunks, known already: hashing takes as long as all other arithmetic of a round."""
        self._results[digest] = EncodedResult(digests, chunks)
        spare = len(self._results) - self.limits.history_rounds * len(self.elements)
        needed = {record.result for record in self.records}
        for old in [d for d in self._results if d not in needed][: max(0, spare)]:
            del self._results[old]

    def decoded(self, record: Record) -> Reducer | None:
        """The record's result, decoded, if we have it."""
        found = self._results.get(record.result)
        if found is None:
            return None
        reducer = self.app.receiver(record.fragment)
        reducer.begin(max(1, record.chunk_elements), len(record.members))
        for chunk, payload in enumerate(found.chunks):
            reducer.accept(chunk, payload)
        return reducer

    def fetch_missing_results(self, now: float, others: Iterable[bytes]) -> None:
        """Begin to fetch the results that nobody gave to us: of the record that follows our head, and of
        those behind it, also while the state before them is on its way. One after the other would take some
        round trips each, and by then others may have forgotten them."""
        most = 1 if self.adapts else 2 * self.limits.history_rounds * len(self.elements)
        fetching = {each.record.result for each in self.result_fetches}
        for record in islice(self.records, most):
            full = len(self.result_fetches) >= _RESULTS_AT_ONCE
            if full or record.restores or (self.adapts and record.parent != self.head):
                return
            if record.result not in self._results and record.result not in fetching:
                self._begin_result_fetch(now, record, others)

    def finish_result_fetches(self) -> bool:
        """Keep the results that have come whole. False if nobody has the one that is needed next any more."""
        wanted = [record.result for record in self.records]
        for each in list(self.result_fetches):
            if each.fetch.done:
                chunks = [each.chunks[i] for i in range(len(each.chunks))]
                self.keep_result(each.record.result, [digest_of(chunk) for chunk in chunks], chunks)
            elif each.fetch.failed and wanted[:1] == [each.record.result]:
                return False
            elif each.record.result in wanted:
                continue
            self.result_fetches.remove(each)
        return True

    def _begin_result_fetch(self, now: float, record: Record, others: Iterable[bytes]) -> None:
        receiver = self.app.receiver(record.fragment)
        receiver.begin(max(1, record.chunk_elements), len(record.members))
        sizes = [receiver.mean_size_bytes(c) for c in range(record.num_chunks(receiver.num_elements))]
        donors = [m for m in record.members if m != self.me]
        donors += [m for m in others if m != self.me and m not in donors]
        chunks: dict[int, Payload] = {}
        fetch = Fetch(record.result, sizes, donors, chunks.__setitem__, self.limits, now)
        self.result_fetches.append(_ResultFetch(record, chunks, fetch))
        self._pump(now)

    # -- states -------------------------------------------------------------------------------

    def begin_catching_up(self, now: float, order: CatchUp) -> None:
        """One more fragment to fetch; the first of a set makes everything before it void."""
        if order.remaining == len(self.elements) - 1:
            self.stop_fetching()
            self.records.clear()
        self._begin_state_fetch(now, order)

    def _begin_state_fetch(self, now: float, order: CatchUp) -> None:
        data = self.app.state_buffer(order.fragment)
        piece_bytes = self.limits.payload_bytes

        def take(index: int, payload: Payload) -> None:
            if isinstance(data, bytearray):
                assert not isinstance(payload, Phantom), "its digest is that of bytes"
                data[index * piece_bytes : index * piece_bytes + len(payload)] = payload
            else:
                data.put(index, payload)

        sizes = piece_sizes(len(data), piece_bytes)
        donors = [d for d in order.donors if d != self.me]
        fetch = Fetch(order.state, sizes, donors, take, self.limits, now)
        self.state_fetches.append(_StateFetch(order, data, fetch))
        own = self.app.state_blob(order.fragment, order.state)
        if own is not None:
            # All began alike, say: what has this digest need not travel.
            fetch.have(own.digests, own.piece)
        self._pump(now)

    def stop_fetching(self) -> None:
        self.state_fetches.clear()
        self.result_fetches.clear()

    # -- fetching and serving -----------------------------------------------------------------

    def fetches(self) -> list[Fetch]:
        # Results first: they are small beside a state, and are not kept for long.
        return [*(each.fetch for each in self.result_fetches), *(each.fetch for each in self.state_fetches)]

    def donors(self) -> set[bytes]:
        """Those of whom something is fetched."""
        return {donor for fetch in self.fetches() for donor in fetch.donors}

    def piece(self, now: float, peer: bytes, message: Piece, payload: Payload) -> None:
        """An answer of a donor."""
        for fetch in self.fetches():
            if fetch.blob == message.blob:
                fetch.receive(now, peer, message, payload)
        self._pump(now)

    def lacks(self, now: float, peer: bytes, message: Lack) -> None:
        for each in self.result_fetches:
            if each.fetch.blob == message.blob and peer in each.fetch.donors:
                each.lacking.add(peer)
        for fetch in self.fetches():
            if fetch.blob == message.blob:
                fetch.drop(peer)
        self._pump(now)

    def peer_left(self, now: float, peer: bytes) -> None:
        for each in self.result_fetches:
            each.lacking.discard(peer)
        for fetch in self.fetches():
            fetch.drop(peer)
        self._pump(now)

    def peer_restarted(self, now: float, peer: bytes) -> None:
        for fetch in self.fetches():
            fetch.ask_again(peer)
        self._pump(now)

    def tick(self, now: float) -> None:
        for fetch in self.fetches():
            for donor in fetch.silent(now, self.timeout_s):
                # A donor whose link lives may have a slow line, and others to serve before us.
                cut = now - self.bulk.last_heard(now, donor) > self.timeout_s
                if cut or donor in fetch.silent(now, self.patience_s):
                    fetch.drop(donor)
        for each in self.result_fetches:
            if not each.fetch.failed:  # of many who lack a result, each that has got it spares the first one
                each.fetch.add_donors(sorted(each.lacking))
                each.lacking.clear()
        self._pump(now)
        old = [b for b, s in self._served.items() if now - s.used_at > 2 * self.timeout_s]
        for blob in old:
            del self._served[blob]

    def _pump(self, now: float) -> None:
        """Ask for more, of each donor only so much at a time over all fetches."""
        fetches = self.fetches()
        for fetch in fetches:
            others = [each for each in fetches if each is not fetch]

            def elsewhere(donor: bytes, others: list[Fetch] = others) -> int:
                return sum(each.num_asked(donor) for each in others)

            fetch.pump(lambda peer, message: self.bulk.send(now, peer, message), elsewhere)

    def want(self, now: float, peer: bytes, message: Want) -> bool:
        """Hand out one piece; False if it must wait for credit, so that it is to be asked again."""
        found = self._blob(now, message.blob)
        if found is None:
            self.bulk.send(now, peer, Lack(message.blob))
            return True
        digests, piece_of = found
        if message.index:
            payload: Payload = index_page(digests, message.piece, self.limits)
        elif message.piece < len(digests):
            payload = piece_of(message.piece)
        else:
            self.bulk.send(now, peer, Lack(message.blob))
            return True
        if self.bulk.room(peer) < len(payload):
            return False
        answer = Piece(message.blob, message.piece, message.index)
        self.bulk.send_bulk(now, peer, answer, payload, "state")
        return True

    def serve(self, now: float, fragment: int, blob: bytes) -> None:
        """Keep a state for someone who is about to fetch it."""
        if blob not in self._served and self.holds_state and fragment < len(self.elements):
            snapshot = self.app.state_blob(fragment, blob)
            if snapshot is not None:
                self._served[blob] = _Served(fragment, snapshot, now)

    def _blob(self, now: float, blob: bytes) -> tuple[list[bytes], Callable[[int], Payload]] | None:
        result = self._results.get(blob)
        if result is not None:
            return result.digests, result.chunks.__getitem__
        for fragment in range(len(self.elements)):
            self.serve(now, fragment, blob)
        served = self._served.get(blob)
        if served is None:
            return None
        served.used_at = now
        return served.blob.digests, served.blob.piece
