"""What a host fetches to compute one disputed step once more: the layout, the state before it, the result.

All three are named by digests that were agreed on before there was a dispute, and every piece is checked when
it comes: who hands out anything else is not asked again. Members are asked side by side, so that one that
holds its pieces back costs one failure timeout. Bounded in bytes, and in time by the slowest line that a run
counts on. Whether there is anything to compute, and what follows, is decided in `recomputing`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from transport.collectives.fetch import AtHand, AtMost, Fetch, Piece
from transport.effects import Payload, Phantom
from transport.limits import Limits

MAX_LAYOUT_PIECES = 16
"""Of the text of a layout; a tensor takes some fifty bytes of it."""
_TIMEOUTS = 4
"""Failure timeouts that fetching may take beside the time of the bytes themselves."""

Found = tuple[Sequence[bytes], Callable[[int], Payload]]
"""A blob that is here: the digests of its pieces, and each piece."""


class _Blob:
    """One blob on its way, and the pieces of it that have come."""

    def __init__(
        self, now: float, name: bytes, max_pieces: int, donors: Sequence[bytes], limits: Limits
    ) -> None:
        self.chunks: dict[int, Payload] = {}
        self.fetch = Fetch(name, AtMost(max_pieces), donors, self.chunks.__setitem__, limits, now)

    def pieces(self) -> list[Payload]:
        return [self.chunks[index] for index in range(len(self.chunks))]


class _State(_Blob):
    """One that is put together where it lies, since it is large."""

    def __init__(
        self, now: float, name: bytes, max_pieces: int, donors: Sequence[bytes], limits: Limits
    ) -> None:
        super().__init__(now, name, max_pieces, donors, limits)
        self.fetch = Fetch(name, AtMost(max_pieces), donors, self._take, limits, now)
        self._piece_bytes = limits.payload_bytes
        self._size = 0
        self.data = bytearray()

    def _take(self, index: int, payload: Payload) -> None:
        assert not isinstance(payload, Phantom), "its digest is that of bytes"
        if not self.data:  # how many there are is known from the index
            self.data = bytearray(self.fetch.num_pieces * self._piece_bytes)
        start = index * self._piece_bytes
        self.data[start : start + len(payload)] = payload
        self._size = max(self._size, start + len(payload))

    def give_away(self) -> bytearray:
        data, self.data = self.data, bytearray()
        del data[self._size :]
        return data


class Gathering:
    """The bytes of one disputed step on their way."""

    def __init__(
        self,
        now: float,
        *,
        layout: bytes,
        former: bytes,
        result: bytes,
        max_chunks: int,
        max_bytes: int,
        donors: Iterable[bytes],
        timeout_s: float,
        limits: Limits,
    ) -> None:
        """Of blobs by these names: a text, a state of at most ``max_bytes``, a result of at most so many
        chunks."""
        found = sorted(donors)
        self._layout = _Blob(now, layout, MAX_LAYOUT_PIECES, found, limits)
        self._result = _Blob(now, result, max_chunks, found, limits)
        self._former = _State(now, former, max(1, max_bytes // limits.payload_bytes), found, limits)
        self._fetches = [each.fetch for each in (self._layout, self._result, self._former)]
        self._limits = limits
        self._timeout_s = timeout_s
        self._began_at = now

    # -- how far it is ------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Everything is here."""
        return all(fetch.done for fetch in self._fetches)

    @property
    def too_large(self) -> bool:
        """The state takes more memory than this host may use for it."""
        return self._former.fetch.too_large

    def failed(self, now: float) -> bool:
        """Nobody hands out what is lacking, or not in the time in which the slowest would."""
        for_bytes_s = self.num_pieces * self._limits.payload_bytes / self._limits.least_upload
        late = now >= self._began_at + _TIMEOUTS * self._timeout_s + for_bytes_s
        return not self.done and (late or any(fetch.failed for fetch in self._fetches))

    @property
    def layout(self) -> bytes:
        """The text, once all is here."""
        return b"".join(map(bytes, self._layout.pieces()))  # type: ignore[arg-type]

    @property
    def result(self) -> list[Payload]:
        """The result's chunks, likewise."""
        return self._result.pieces()

    def take_former(self) -> bytearray:
        """The state, likewise, once: its memory is the caller's."""
        return self._former.give_away()

    # -- what comes ---------------------------------------------------------------------------

    def use(self, find: Callable[[bytes], Found | None]) -> None:
        """Whatever this process holds by itself need not travel."""
        for fetch in self._fetches:
            found = find(fetch.blob)
            if found is not None:
                digests, piece = found
                fetch.have(AtHand(piece, digests))

    @property
    def busy(self) -> bool:
        """Something is at hand, and waits for nothing."""
        return any(fetch.busy for fetch in self._fetches)

    @property
    def num_pieces(self) -> int:
        """Of all three, as far as that is known."""
        return sum(fetch.num_pieces for fetch in self._fetches)

    def take_at_hand(self) -> None:
        """Take some more of that."""
        for fetch in self._fetches:
            fetch.take_at_hand()

    def names(self, blob: bytes) -> bool:
        """Whether a blob of that name is wanted, or was."""
        return any(fetch.blob == blob for fetch in self._fetches)

    def expects(self, peer: bytes, message: Piece) -> bool:
        """Whether that member owes such a piece."""
        return any(fetch.owes(peer, message) for fetch in self._fetches)

    def take(self, now: float, peer: bytes, message: Piece, payload: Payload) -> None:
        """An answer of a member; one that was not asked for changes nothing."""
        for fetch in self._fetches:
            if fetch.blob == message.blob:
                fetch.receive(now, peer, message, payload)

    def lacks(self, peer: bytes, blob: bytes) -> None:
        """A member does not have that blob."""
        for fetch in self._fetches:
            if fetch.blob == blob:
                fetch.drop(peer)

    def add(self, peer: bytes) -> None:
        """Another member that may have it."""
        for fetch in self._fetches:
            fetch.add_donors([peer])

    def drop(self, peer: bytes) -> None:
        """A member is gone."""
        for fetch in self._fetches:
            fetch.drop(peer)

    def pump(self, now: float, send: Callable[[bytes, Any], None]) -> None:
        """Ask for more, of each member only so much at a time, and of those no more that are silent."""
        for fetch in self._fetches:
            for peer in fetch.silent(now, self._timeout_s):
                if fetch.had_s(now, peer) >= self._timeout_s:  # whoever is asked after another has as long
                    fetch.drop(peer)
            others = [each for each in self._fetches if each is not fetch]

            def elsewhere(peer: bytes, others: list[Fetch] = others) -> int:
                return sum(each.num_asked(peer) for each in others)

            fetch.pump(now, send, elsewhere)
