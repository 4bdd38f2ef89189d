"""Fetching a blob from several donors at once: resumable, hash-checked, bounded.

A blob is named by the digest of the digests of its pieces, so that it is known beforehand from the
coordinator, each piece can be checked alone, and a donor that hands out wrong bytes is named. First
the list of digests (the index) comes from one donor and is checked against the name; then pieces
come from all donors. A donor that says that it lacks the blob, is silent or lies is not asked again.

A fetch asks and checks; it knows neither what a blob means nor when a donor counts as dead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from transport.digests import digest_of, tree_digest
from transport.effects import Payload
from transport.frames import Key, Small, kind
from transport.limits import Limits

DIGEST_BYTES = 32


@kind(20)
@dataclass(frozen=True, slots=True)
class Want:
    """Ask a donor for one piece, or (``index``) for one page of the blob's index."""

    blob: Key
    piece: Small
    index: bool


@kind(21)
@dataclass(frozen=True, slots=True)
class Piece:
    """The answer to `Want`, beside the bytes."""

    blob: Key
    piece: Small
    index: bool


@kind(22)
@dataclass(frozen=True, slots=True)
class Lack:
    """The donor does not have the blob (any more)."""

    blob: Key


SendControl = Callable[[bytes, object], None]


@dataclass(frozen=True, slots=True)
class AtMost:
    """A blob of which it is not known how it is cut: its name tells. One of more pieces is not fetched."""

    pieces: int


class BlobBuffer(Protocol):
    """Where a blob that is fetched is put together: what becomes of it, as a rule."""

    def __len__(self) -> int:
        """Bytes of the whole."""

    def put(self, index: int, payload: Payload, digest: bytes) -> None:
        """Take one piece, which was checked and has that digest."""


TAKEN_AT_ONCE = 64
"""Pieces at hand that are taken, or found to be other ones, in one go."""


@dataclass(frozen=True, slots=True)
class AtHand:
    """Pieces that are here already and may be those of a blob: what is alike need not travel."""

    piece: Callable[[int], Payload]
    digests: Sequence[bytes] = ()
    """Of them; none where they are not known: then each is hashed when it is compared."""
    num_together: int = 0
    """So many of the first ones change together: where the first is another one, so are they."""


class Fetch:
    """One blob on its way. ``take(i, payload)`` receives each checked piece once."""

    def __init__(
        self,
        blob: bytes,
        sizes: Sequence[int] | AtMost,
        donors: Sequence[bytes],
        take: Callable[[int, Payload], None],
        limits: Limits,
        now: float,
    ) -> None:
        self.blob = blob
        self.donors = list(donors)
        self.later: list[bytes] = []
        """Donors that are asked once they are heard of, or if nobody else is left."""
        self.last_progress = now
        self.bad_donors: list[bytes] = []
        self._sizes = None if isinstance(sizes, AtMost) else sizes
        self._max_pieces = sizes.pieces if isinstance(sizes, AtMost) else len(sizes)
        self.too_large = False
        """The blob has more pieces than it may."""
        self._take = take
        self._limits = limits
        self._per_page = limits.payload_bytes // DIGEST_BYTES
        self._first_pages = 1 if self._sizes is None else max(1, -(-self._max_pieces // self._per_page))
        self._num_pages = self._first_pages
        """Of the index, as far as that is known: more follow one that is full."""
        self._pages: dict[int, bytes] = {}
        self._digests: list[bytes] | None = None
        self._index_from: bytes | None = None
        self._todo: list[int] = []
        self._asked: dict[bytes, set[tuple[int, bool]]] = {}
        self._first_asked: dict[bytes, float] = {}
        """When each donor was asked for the first time."""
        self._left = 0
        self._at_hand: AtHand | None = None
        self._here: list[int] = []
        """Pieces that are at hand, or may be, and were not taken yet, the last one first."""
        self._num_moved = 0
        """So many of the first pieces are known to be others than those at hand."""

    @property
    def done(self) -> bool:
        return self._left == 0 and self._digests is not None

    @property
    def failed(self) -> bool:
        """Nobody is left to ask, or there is no use in it."""
        return self.too_large or (not (self.donors or self.later or self._here) and not self.done)

    @property
    def busy(self) -> bool:
        """There are pieces at hand that wait for nothing but `take_at_hand`."""
        return bool(self._here)

    @property
    def digests(self) -> Sequence[bytes]:
        """Of the blob's pieces, which are checked by them; nothing until they are known."""
        return self._digests or ()

    @property
    def num_pieces(self) -> int:
        """Pieces of the blob; 0 until that is known."""
        return len(self.digests)

    def add_donors(self, donors: Sequence[bytes]) -> None:
        """More peers who have the blob."""
        self.donors += [d for d in donors if d not in self.donors and d not in self.bad_donors]

    def put_off(self, is_heard: Callable[[bytes], bool]) -> None:
        """Ask only donors that are heard of, if there is one: another may be dead and not be known to be."""
        everyone = [*self.donors, *self.later]
        heard = [donor for donor in everyone if is_heard(donor) or self._asked.get(donor)]
        self.donors = heard or everyone
        self.later = [donor for donor in everyone if donor not in self.donors]

    def drop(self, donor: bytes, *, bad: bool = False) -> None:
        """Do not ask ``donor`` (again); what it owed is asked of others."""
        if bad and donor not in self.bad_donors:
            self.bad_donors.append(donor)
        for donors in (self.donors, self.later):
            if donor in donors:
                donors.remove(donor)
        self.ask_again(donor)

    def ask_again(self, donor: bytes) -> None:
        """What ``donor`` was asked for is lost on the way: ask anew, of anyone."""
        if self._index_from == donor and self._digests is None:
            self._index_from, self._num_pages = None, self._first_pages
            self._pages.clear()
        for piece, is_index in sorted(self._asked.pop(donor, ())):
            if not is_index:
                self._todo.append(piece)

    def silent(self, now: float, timeout_s: float) -> list[bytes]:
        """Donors who owe an answer, once nothing has come of anybody for ``timeout_s``."""
        if now - self.last_progress < timeout_s:
            return []
        return sorted(donor for donor, asked in self._asked.items() if asked)

    def had_s(self, now: float, donor: bytes) -> float:
        """How long a donor has had, since it was first asked, while nothing came of anybody. To be asked once
        more, having lacked the blob, gives it no more time."""
        return now - max(self.last_progress, self._first_asked.get(donor, now))

    def have(self, at_hand: AtHand) -> None:
        """Pieces like these are here already: of the blob's, those of equal digest need not travel. Under the
        blob's own name nothing needs to."""
        self._at_hand = at_hand
        if at_hand.digests and tree_digest(at_hand.digests) == self.blob:
            self._begin_pieces(list(at_hand.digests))

    def num_asked(self, donor: bytes) -> int:
        """Pieces that ``donor`` owes."""
        return len(self._asked.get(donor, ()))

    def owes(self, donor: bytes, message: Piece) -> bool:
        """Whether ``donor`` was asked for that, and has not answered."""
        asked = self._asked.get(donor, ())
        return message.blob == self.blob and (message.piece, message.index) in asked

    def pump(
        self, now: float, send: SendControl, elsewhere: Callable[[bytes], int] = lambda donor: 0
    ) -> None:
        """Ask what may be asked now; ``elsewhere`` is what a donor owes to other fetches of ours."""
        max_pieces = self._limits.pieces_in_flight
        if not self.donors:
            return
        if self._digests is None:
            ask = not self.too_large and (self._index_from or elsewhere(self.donors[0]) < max_pieces)
            if ask:
                self._ask_index(now, send)
            return
        for donor in self.donors:
            asked, others = self._asked.setdefault(donor, set()), elsewhere(donor)
            while self._todo and others + len(asked) < max_pieces:
                self._ask(now, send, donor, self._todo.pop(), is_index=False)

    def _ask_index(self, now: float, send: SendControl) -> None:
        self._index_from = self._index_from or self.donors[0]
        asked = self._asked.setdefault(self._index_from, set())
        for page in range(self._num_pages):
            if page not in self._pages and (page, True) not in asked:
                self._ask(now, send, self._index_from, page, is_index=True)

    def _ask(self, now: float, send: SendControl, donor: bytes, piece: int, *, is_index: bool) -> None:
        self._first_asked.setdefault(donor, now)
        self._asked[donor].add((piece, is_index))
        send(donor, Want(self.blob, piece, is_index))

    def receive(self, now: float, donor: bytes, message: Piece, payload: Payload) -> bool:
        """One answer; False if the donor was not asked for it or handed out wrong bytes."""
        asked = self._asked.get(donor, set())
        if (message.piece, message.index) not in asked:
            return False
        asked.remove((message.piece, message.index))
        self.last_progress = now
        if message.index:
            return self._index_page(donor, message.piece, payload)
        assert self._digests is not None
        wrong = self._sizes is not None and len(payload) != self._sizes[message.piece]
        if wrong or digest_of(payload) != self._digests[message.piece]:
            self._todo.append(message.piece)
            self.drop(donor, bad=True)
            return False
        self._take(message.piece, payload)
        self._left -= 1
        return True

    def _index_page(self, donor: bytes, page: int, payload: Payload) -> bool:
        assert isinstance(payload, (bytes, bytearray, memoryview)), "an index is always bytes"
        self._pages[page] = bytes(payload)
        if len(self._pages) < self._num_pages:
            return True
        index = b"".join(self._pages[i] for i in range(self._num_pages))
        digests = [index[i : i + DIGEST_BYTES] for i in range(0, len(index), DIGEST_BYTES)]
        known = self._sizes is None or len(index) == DIGEST_BYTES * self._max_pieces
        if known and tree_digest(digests) == self.blob:
            self.too_large = len(digests) > self._max_pieces
            if not self.too_large:
                self._begin_pieces(digests)
            return True
        # A page that is full may be followed by others, as far as the blob may have so many pieces.
        if self._sizes is None and len(digests) == self._num_pages * self._per_page <= self._max_pieces:
            self._num_pages += 1
            return True
        self.drop(donor, bad=True)
        return False

    def _begin_pieces(self, digests: list[bytes]) -> None:
        """The index is known."""
        self._digests = digests
        self._todo = list(range(len(digests) - 1, -1, -1))
        self._left = len(digests)
        if self._at_hand is not None and self._at_hand.digests:
            ours = self._at_hand.digests
            self._here = [i for i in self._todo if i < len(ours) and ours[i] == digests[i]]
            here = set(self._here)
            self._todo = [i for i in self._todo if i not in here]
        elif self._at_hand is not None:
            self._here, self._todo = self._todo, []
        self.take_at_hand()

    def take_at_hand(self) -> None:
        """Take some more of the pieces that are at hand, and leave others to donors: to compare or copy all
        of a large model would keep this process from its peers for longer than they wait."""
        if self._at_hand is None:
            return
        for _ in range(min(TAKEN_AT_ONCE, len(self._here))):
            self._take_or_leave(self._at_hand, self._here.pop())
        while self._here and self._here[-1] < self._num_moved:
            self._todo.append(self._here.pop())
        if not self._here:
            self._at_hand = None

    def _take_or_leave(self, at_hand: AtHand, index: int) -> None:
        if index >= self._num_moved:
            piece = at_hand.piece(index)
            if digest_of(piece) == self.digests[index]:  # memory may have worn since it was hashed
                self._take(index, piece)
                self._left -= 1
                return
        self._todo.append(index)
        if index == 0:
            self._num_moved = at_hand.num_together


def index_page(digests: Sequence[bytes], page: int, limits: Limits) -> bytes:
    """One page of a blob's index, for a donor to hand out."""
    per_page = limits.payload_bytes // DIGEST_BYTES
    return b"".join(digests[page * per_page : (page + 1) * per_page])
