"""A member's side of proofs in one exchange: what it vouches for, and whether others keep to what they did.

`DirectReduce` asks it in attempts that are proved only. It sends nothing before its index is signed, and
remembers under which root each author's chunks came. See `transport.collectives.proofs`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from transport.collectives.proofs import GROUP, Index, Notary, Place, Terms, num_groups, place_of, root_of
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
    group: int
    one: Signed
    other: Signed


_Roots = dict[tuple[bytes, int], Signed]
"""By author and group."""


class Prover:
    """The proofs of one member in one exchange."""

    def __init__(self, me: bytes, notary: Notary, terms: Terms) -> None:
        self.equivocation: Equivocation | None = None
        self.mean_digests: dict[int, bytes] = {}
        """Of the means of this attempt, by chunk."""
        self._me = me
        self._notary = notary
        self._terms = terms
        self._founders: Sequence[bytes] = ()
        self._lost: frozenset[bytes] = frozenset()
        self._attempt = -1
        self._num_chunks = 0
        self._places: list[Place] = []
        """Of each chunk: its place among its owner's."""
        self._num_owned: dict[bytes, int] = {}
        self._wanted: dict[int, list[bytes]] = {}
        """Groups of this member's contribution that are to be signed, with the digests so far."""
        self._part_indexes: dict[int, Index] = {}
        self._mean_digests: dict[int, dict[int, bytes]] = {}
        """By group of this member's means and by leaf."""
        self._mean_indexes: dict[int, Index] = {}
        self._part_roots: _Roots = {}
        self._mean_roots: _Roots = {}
        self._part_proofs: dict[tuple[bytes, int], Proof] = {}
        self._mean_proofs: dict[int, Proof] = {}

    def begin(
        self, attempt: int, founders: Sequence[bytes], lost: Iterable[bytes], owners: Sequence[bytes]
    ) -> None:
        """Begin a proved attempt. ``owners`` are those of each chunk."""
        self._attempt, self._founders, self._lost = attempt, founders, frozenset(lost)
        self._num_chunks, self._num_owned = len(owners), Counter(owners)
        before: Counter[bytes] = Counter()
        self._places = []
        for owner in owners:
            self._places.append(place_of(before[owner], self._num_owned[owner]))
            before[owner] += 1
        self.equivocation = None
        self._mean_digests, self._mean_indexes = {}, {}
        self._mean_roots, self._mean_proofs, self.mean_digests = {}, {}, {}

    # -- what this member vouches for ---------------------------------------------------------

    @property
    def prepared(self) -> bool:
        """Nothing waits for `prepare`."""
        return not self._wanted

    def prepare(self, encode: Callable[[int], Payload]) -> bool:
        """Take one more chunk of this member's contribution into an index; True if one was wanted."""
        if not self._wanted:
            return False
        group, digests = next(iter(self._wanted.items()))
        chunk = group * GROUP + len(digests)
        digests.append(digest_of(encode(chunk)))
        if len(digests) == place_of(chunk, self._num_chunks).num_leaves:
            index = self._part_indexes[group] = Index(digests)
            self._part_roots[self._me, group] = self._sign(index.root, group, -1)
            del self._wanted[group]
        return True

    def part(self, chunk: int) -> Proof | None:
        """What goes beside a part of this member; None before its group is signed, which is wanted then."""
        place = place_of(chunk, self._num_chunks)
        index = self._part_indexes.get(place.group)
        if index is None:
            self._wanted.setdefault(place.group, [])
            return None
        return index.path(place.leaf), self._part_roots[self._me, place.group].signature

    def own_part(self, chunk: int, encode: Callable[[int], Payload]) -> Proof:
        """The same of any chunk, at once."""
        proof = self.part(chunk)
        while proof is None:
            self.prepare(encode)
            proof = self.part(chunk)
        return proof

    def reduced(self, chunk: int, mean: Payload) -> None:
        """This member has made a mean."""
        place = self._places[chunk]
        digests = self._mean_digests.setdefault(place.group, {})
        digests[place.leaf] = self.mean_digests[chunk] = digest_of(mean)
        if len(digests) == place.num_leaves:
            index = self._mean_indexes[place.group] = Index([digests[i] for i in range(place.num_leaves)])
            self._mean_roots[self._me, place.group] = self._sign(index.root, place.group, self._attempt)

    def mean(self, chunk: int) -> Proof | None:
        """What goes beside a mean of this member; None before it has all of the group."""
        place = self._places[chunk]
        index = self._mean_indexes.get(place.group)
        if index is None:
            return None
        return index.path(place.leaf), self._mean_roots[self._me, place.group].signature

    def _sign(self, root: bytes, group: int, attempt: int) -> Signed:
        return Signed(root, self._notary.sign(self._statement(root, group, attempt)))

    def _statement(self, root: bytes, group: int, attempt: int) -> bytes:
        lost = self._lost if attempt >= 0 else ()
        return self._terms.statement(root, group, self._founders, attempt, lost)

    # -- what others vouched for --------------------------------------------------------------

    def take_part(self, author: bytes, chunk: int, proof: Proof, payload: Payload) -> bool:
        """Whether a part is of the one index that its author signed; not if it signed another one too (see
        `equivocation`), or none that the part is in."""
        place = place_of(chunk, self._num_chunks)
        signature = self._check(self._part_roots, author, -1, place, proof, digest_of(payload))
        if signature is None:
            return False
        self._part_proofs[author, chunk] = proof[0], signature
        return True

    def take_mean(self, author: bytes, chunk: int, proof: Proof, payload: Payload) -> bool:
        """The same of a mean, from its owner."""
        place = self._places[chunk]
        digest = digest_of(payload)
        signature = self._check(self._mean_roots, author, self._attempt, place, proof, digest)
        if signature is None:
            return False
        self.mean_digests[chunk] = digest
        self._mean_proofs[chunk] = proof[0], signature
        return True

    def _check(
        self, roots: _Roots, author: bytes, attempt: int, place: Place, proof: Proof, digest: bytes
    ) -> bytes | None:
        """The signature under which a chunk came; None if that is not as it should be."""
        try:
            found = Signed(root_of(digest, place, proof[0]), proof[1])
        except BadFrame:
            return None
        known = roots.get((author, place.group))
        if known is not None and known.root == found.root:
            return known.signature
        statement = self._statement(found.root, place.group, attempt)
        if not self._notary.verify(author, statement, found.signature):
            return None
        if known is None:
            roots[author, place.group] = found
            return found.signature
        self.equivocation = Equivocation(author, attempt >= 0, max(0, attempt), place.group, known, found)
        return None

    # -- what is shown to a judge -------------------------------------------------------------

    def proof_of(self, author: bytes, chunk: int, mean: bool) -> Proof | None:
        """What came beside a chunk of another member; None if nothing did."""
        return self._mean_proofs.get(chunk) if mean else self._part_proofs.get((author, chunk))

    def mean_roots(self) -> list[Signed | None]:
        """Under which roots the means of this attempt came: of each member that is in, group by group."""
        members = [each for each in self._founders if each not in self._lost]
        return [
            self._mean_roots.get((member, group))
            for member in members
            for group in range(num_groups(self._num_owned.get(member, 0)))
        ]
