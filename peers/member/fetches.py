"""What a member fetches from others: states of fragments from donors, and results that it lacks.

Everything is checked by its digest, resumed when a link begins anew, and of each donor only so much is asked
at a time. What a fetched state or result is for is decided in `peers.member.follower`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import islice

from peers.member.liars import Liars
from peers.member.outlet import MemberOutlet
from peers.member.results import MAX_RESULTS_AT_ONCE, KeptResults
from peers.protocol.application import Application, piece_sizes
from peers.protocol.messages import CatchUp
from peers.protocol.record import Record
from peers.protocol.shares import Stored
from transport.collectives.fetch import AtHand, BlobBuffer, Fetch, Lack, Piece
from transport.effects import NEVER, EncodedResult, Payload, Phantom
from transport.limits import Limits

MAX_TIMES_LACKED = 4
"""A member that lacked a result so often is not asked for it again."""


@dataclass(slots=True)
class StateFetch:
    """One fragment's state on its way."""

    order: CatchUp
    data: bytearray | BlobBuffer
    fetch: Fetch


@dataclass(slots=True)
class ResultFetch:
    """One record's result on its way."""

    record: Record
    chunks: dict[int, Payload]
    fetch: Fetch
    lacking: set[bytes] = field(default_factory=set)
    """Members that did not have the result when they were asked, and may have it soon."""
    times_lacked: Counter[bytes] = field(default_factory=Counter)
    """By member. Each is asked so often only: of many who all lack it, one would be asked for ever."""


class Fetches:
    """A member's fetches."""

    def __init__(
        self,
        me: bytes,
        app: Application,
        outlet: MemberOutlet,
        limits: Limits,
        timeout_s: float,
        patience_s: float,
        max_ahead_bytes: int,
        results: KeptResults,
        *,
        adapts: bool = False,
        stored: Stored | None = None,
    ) -> None:
        """``patience_s``: how long a donor with a living link may hand out nothing. Of results behind the
        next one no more are begun once those at hand have ``max_ahead_bytes``. ``adapts``: how long a result
        is depends on the state before it. ``stored`` are shares of states on this machine's disk."""
        self._stored = stored
        self.states: list[StateFetch] = []
        self.results: list[ResultFetch] = []
        self._me = me
        self._app = app
        self._outlet = outlet
        self._limits = limits
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._max_ahead_bytes = max_ahead_bytes
        self._adapts = adapts
        self._kept = results
        self.liars = Liars()

    # -- results ------------------------------------------------------------------------------

    def fetch_missing_results(
        self, now: float, records: Collection[Record], head: bytes, others: Iterable[bytes]
    ) -> None:
        """Begin to fetch the results that nobody gave to us: of the record that follows our head, and of
        those behind it, also while the state before them is on its way. One after the other would take some
        round trips each, and by then others may have forgotten them."""
        fetching = {each.record.result for each in self.results}
        ahead_bytes = self._kept.size_bytes(record.result for record in records)
        for place, record in enumerate(islice(records, 1 if self._adapts else None)):
            full = len(self.results) >= MAX_RESULTS_AT_ONCE
            full |= place > 0 and ahead_bytes >= self._max_ahead_bytes
            if full or record.restores or (self._adapts and record.parent != head):
                return
            if record.result not in self._kept and record.result not in fetching:
                self._fetch_result(now, record, others)

    def finish_results(self, records: Iterable[Record]) -> bool:
        """Keep the results that have come whole. False if nobody has the one that is needed next any more."""
        wanted = [record.result for record in records]
        for each in list(self.results):
            if each.fetch.done:
                chunks = [each.chunks[i] for i in range(len(each.chunks))]
                result = EncodedResult(list(each.fetch.digests), chunks)
                self._outlet.keep(each.record.serial, each.record.result, result)
                self._kept.keep(each.record.result, result, wanted)
            elif each.fetch.failed and wanted[:1] == [each.record.result]:
                return False
            elif each.record.result in wanted:
                continue
            self.results.remove(each)
        return True

    def _fetch_result(self, now: float, record: Record, others: Iterable[bytes]) -> None:
        receiver = self._app.receiver(record.fragment)
        receiver.begin(max(1, record.chunk_elements), len(record.members))
        sizes = [receiver.mean_size_bytes(c) for c in range(record.num_chunks(receiver.num_elements))]
        donors = [m for m in record.members if m != self._me]
        donors += [m for m in others if m != self._me and m not in donors]
        donors = self.liars.without(record.result, donors)
        chunks: dict[int, Payload] = {}
        fetch = Fetch(record.result, sizes, donors, chunks.__setitem__, self._limits, now)
        self.results.append(ResultFetch(record, chunks, fetch))
        self._pump(now)

    # -- states -------------------------------------------------------------------------------

    def fetch_state(self, now: float, order: CatchUp) -> None:
        """One more fragment to fetch."""
        data = self._app.state_buffer(order.fragment)
        piece_bytes = self._limits.payload_bytes

        def take(index: int, payload: Payload) -> None:
            if isinstance(data, bytearray):
                assert not isinstance(payload, Phantom), "its digest is that of bytes"
                data[index * piece_bytes : index * piece_bytes + len(payload)] = payload
            else:
                data.put(index, payload, fetch.digests[index])

        sizes = piece_sizes(len(data), piece_bytes)
        donors = self.liars.without(order.state, [d for d in order.donors if d != self._me])
        fetch = Fetch(order.state, sizes, donors, take, self._limits, now)
        self.states.append(StateFetch(order, data, fetch))
        kept = self._stored.find(order.fragment, order.state) if self._stored is not None else None
        own = self._app.state_at_hand(order.fragment)
        if kept is not None:
            own = AtHand(kept.piece, kept.digests)
        if own is not None:
            # All began alike, say, or have the same frozen parameters: that need not travel.
            fetch.have(own)
        self._pump(now)

    # -- both ---------------------------------------------------------------------------------

    def stop(self) -> None:
        """Give up everything that is on its way."""
        self.states.clear()
        self.results.clear()

    def donors(self) -> set[bytes]:
        """Members from which something is fetched."""
        return {donor for fetch in self._all() for donor in (*fetch.donors, *fetch.later)}

    @property
    def busy(self) -> bool:
        """Something is at hand, and waits for nothing."""
        return any(each.fetch.busy for each in self.states)

    def take_at_hand(self, now: float) -> None:
        """Take some more of that, and ask for what proved to be another one."""
        for each in self.states:
            each.fetch.take_at_hand()
        self._pump(now)

    def take_piece(self, now: float, peer: bytes, message: Piece, payload: Payload) -> None:
        """An answer of a donor."""
        for fetch in self._all():
            if fetch.blob == message.blob:
                fetch.receive(now, peer, message, payload)
                self.liars.note(fetch.blob, fetch.bad_donors)
        self._pump(now)

    def drop_lacking(self, now: float, peer: bytes, message: Lack) -> None:
        """A donor does not have what it was asked for, perhaps not yet."""
        for each in self.results:
            if each.fetch.blob == message.blob and peer in each.fetch.donors:
                each.times_lacked[peer] += 1
                if each.times_lacked[peer] < MAX_TIMES_LACKED:
                    each.lacking.add(peer)
        for fetch in self._all():
            if fetch.blob == message.blob:
                fetch.drop(peer)
        self._pump(now)

    def drop_donor(self, now: float, peer: bytes) -> None:
        """There is no link to a peer any more."""
        for each in self.results:
            each.lacking.discard(peer)
        for fetch in self._all():
            fetch.drop(peer)
        self._pump(now)

    def ask_again(self, now: float, peer: bytes) -> None:
        """The link to a peer began anew: what it was asked for is lost."""
        for fetch in self._all():
            fetch.ask_again(peer)
        self._pump(now)

    def tick(self, now: float) -> None:
        """Drop donors that are silent, and ask donors again that lacked a result before."""
        for fetch in self._all():
            for donor in fetch.silent(now, self._timeout_s):
                # A donor whose link lives may have a slow line, and others to serve before us. Those that are
                # not heard of were silent while others were asked, and go with them.
                cut = now - self._outlet.last_heard(now, donor) > self._timeout_s
                if cut or fetch.had_s(now, donor) >= self._patience_s:
                    fetch.drop(donor)
        for each in self.results:
            if not each.fetch.failed:  # of many who lack a result, each that has got it spares the first one
                each.fetch.add_donors(sorted(each.lacking))
                each.lacking.clear()
        self._pump(now)

    def _all(self) -> list[Fetch]:
        # Results first: they are small beside a state, and are not kept for long.
        return [*(each.fetch for each in self.results), *(each.fetch for each in self.states)]

    def _pump(self, now: float) -> None:
        """Ask for more, of each donor only so much at a time over all fetches."""
        fetches = self._all()
        for fetch in fetches:
            fetch.put_off(lambda donor: self._outlet.last_heard(now, donor) > NEVER)
            others = [each for each in fetches if each is not fetch]

            def elsewhere(donor: bytes, others: list[Fetch] = others) -> int:
                return sum(each.num_asked(donor) for each in others)

            fetch.pump(now, lambda peer, message: self._outlet.send(now, peer, message), elsewhere)
