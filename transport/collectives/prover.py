"""A member's side of proofs in one exchange: what it vouches for, and whether others keep to what they did.

`DirectReduce` asks it in attempts that are proved only. It signs nothing before all of an index is known, and
remembers under which root each author's chunks came. See `transport.collectives.proofs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from transport.collectives.proofs import Index, Notary, Terms, root_of
from transport.digests import digest_of
from transport.effects import Payload
from transport.errors import BadFrame

Proof = tuple[tuple[bytes, ...], bytes]
"""Path and signature."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A root, and its author's signature of the statement about it."""

    root: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Equivocation:
    """An author signed two roots under one statement."""

    author: bytes
    mean: bool
    attempt: int
    one: Signed
    other: Signed


class Prover:
    """The proofs of one member in one exchange."""

    def __init__(self, me: bytes, notary: Notary, terms: Terms) -> None:
        self.equivocation: Equivocation | None = None
        self._me = me
        self._notary = notary
        self._terms = terms
        self._founders: Sequence[bytes] = ()
        self._lost: frozenset[bytes] = frozenset()
        self._attempt = -1
        self._num_chunks = 0
        self._leaf_of: dict[int, int] = {}
        """Of each chunk: which of its owner's chunks it is."""
        self._num_owned: dict[bytes, int] = {}
        self._digests: list[bytes] = []
        """Of this member's part, so far."""
        self._part_index: Index | None = None
        self._mean_index: Index | None = None
        self._part_roots: dict[bytes, Signed] = {}
        self._mean_roots: dict[bytes, Signed] = {}
        self._part_proofs: dict[tuple[bytes, int], Proof] = {}
        self._mean_proofs: dict[int, Proof] = {}

    def begin(
        self, attempt: int, founders: Sequence[bytes], lost: Iterable[bytes], owners: Sequence[bytes]
    ) -> None:
        """Begin a proved attempt. ``owners`` are those of each chunk."""
        self._attempt, self._founders, self._lost = attempt, founders, frozenset(lost)
        self._num_chunks = len(owners)
        self._num_owned = dict.fromkeys(owners, 0)
        for chunk, owner in enumerate(owners):
            self._leaf_of[chunk] = self._num_owned[owner]
            self._num_owned[owner] += 1
        self._mean_index = self.equivocation = None
        self._mean_roots, self._mean_proofs = {}, {}

    # -- what this member vouches for ---------------------------------------------------------

    @property
    def prepared(self) -> bool:
        """This member's part is signed."""
        return self._part_index is not None or not self._num_chunks

    def prepare(self, encode: Callable[[int], Payload]) -> bool:
        """Take one more chunk of this member's part into its index; True if there was one."""
        if self.prepared:
            return False
        self._digests.append(digest_of(encode(len(self._digests))))
        if len(self._digests) == self._num_chunks:
            self._part_index = Index(self._digests)
            self._part_roots[self._me] = self._sign(self._part_index.root, -1)
        return True

    def part(self, chunk: int) -> Proof | None:
        """What goes beside a part of this member; None before its index is known."""
        if self._part_index is None:
            return None
        return self._part_index.path(chunk), self._part_roots[self._me].signature

    def reduced(self, means: Sequence[bytes]) -> None:
        """The digests of all means of this member are known, in the order of chunks."""
        self._mean_index = Index(means)
        self._mean_roots[self._me] = self._sign(self._mean_index.root, self._attempt)

    def mean(self, chunk: int) -> Proof | None:
        """What goes beside a mean of this member; None before it has them all."""
        if self._mean_index is None:
            return None
        return self._mean_index.path(self._leaf_of[chunk]), self._mean_roots[self._me].signature

    def _sign(self, root: bytes, attempt: int) -> Signed:
        return Signed(root, self._notary.sign(self._statement(root, attempt)))

    def _statement(self, root: bytes, attempt: int) -> bytes:
        lost = self._lost if attempt >= 0 else ()
        return self._terms.statement(root, self._founders, attempt, lost)

    # -- what others vouched for --------------------------------------------------------------

    def take_part(self, author: bytes, chunk: int, proof: Proof, payload: Payload) -> bool:
        """Whether a part is of the index that its author signed; False for a second index. Raises `BadFrame`
        if nobody signed that."""
        root = root_of(payload, chunk, self._num_chunks, proof[0])
        signed = self._check(self._part_roots, author, -1, Signed(root, proof[1]))
        if signed is None:
            return False
        self._part_proofs[author, chunk] = proof[0], signed.signature
        return True

    def take_mean(self, author: bytes, chunk: int, proof: Proof, payload: Payload) -> bool:
        """The same of a mean, from its owner."""
        root = root_of(payload, self._leaf_of[chunk], self._num_owned[author], proof[0])
        signed = self._check(self._mean_roots, author, self._attempt, Signed(root, proof[1]))
        if signed is None:
            return False
        self._mean_proofs[chunk] = proof[0], signed.signature
        return True

    def _check(self, roots: dict[bytes, Signed], author: bytes, attempt: int, found: Signed) -> Signed | None:
        known = roots.get(author)
        if known is not None and known.root == found.root:
            return known
        if not self._notary.verify(author, self._statement(found.root, attempt), found.signature):
            raise BadFrame("a chunk of no index that its sender signed")
        if known is None:
            roots[author] = found
            return found
        self.equivocation = Equivocation(author, attempt >= 0, max(0, attempt), known, found)
        return None

    # -- what is shown to a judge -------------------------------------------------------------

    def proof_of(self, author: bytes, chunk: int, mean: bool) -> Proof | None:
        """What came beside a chunk of another member; None if nothing did."""
        return self._mean_proofs.get(chunk) if mean else self._part_proofs.get((author, chunk))

    def mean_roots(self) -> dict[bytes, Signed]:
        """By owner, under which root its means of this attempt came."""
        return dict(self._mean_roots)
