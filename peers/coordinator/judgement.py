"""The coordinator's judgement of what members show it about a proved round.

A chunk that its author vouched for and that must not be used puts its author out; a chunk that is all right,
or that nobody vouched for, puts the accuser out: one of the two is wrong, and it can be told which. Two roots
under one statement put their author out. Decoding is handed in (`Judge`), for a coordinator has no model; one
that cannot decode takes what it is shown for a word (`peers.coordinator.accusations`). Pure. Keeps X10.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from peers.coordinator.mean_case import MeanCase
from peers.coordinator.open_round import OpenRound
from peers.protocol.evidence import ROOT_BYTES, Shown, ToldTwoThings
from peers.protocol.signing import INDEX_TAG, Verify
from transport.collectives.plan import Plan
from transport.collectives.proofs import Place, Terms, num_groups, place_of, root_of
from transport.collectives.reducer import Part
from transport.digests import digest_of, tree_digest
from transport.effects import Payload, Phantom
from transport.errors import BadFrame, Poisoned

_CLEAR = 1e-3
"""Of a mean's length: it has to be so far off, beside what encoding costs, to be proof of anything."""
MAX_CHUNKS = 1 << 17
"""Of a vector that is judged."""


class Judge(Protocol):
    """Tells whether a chunk can be used, as members find it when they decode it."""

    def fault(self, fragment: int, payload: Payload, num_elements: int, num_parts: int | None) -> str | None:
        """What is wrong with an encoded chunk of a fragment, of so many elements: a mean of ``num_parts``, or
        a contribution for None. Nothing if it can be used, and None if that cannot be told here."""
        ...

    def square(
        self, fragment: int, payload: Payload, num_elements: int, num_parts: int | None
    ) -> float | None:
        """The squared norm of the same; infinity if it cannot be decoded, and None if it cannot be told."""
        ...

    def deviation(
        self, fragment: int, parts: Sequence[Part], mean: Payload, num_elements: int
    ) -> tuple[float, float, float] | None:
        """As `transport.collectives.reducer.Reducer.deviation` of one chunk says; None if it cannot be told.
        Raises `Poisoned`."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who was wrong, and how that is known."""

    guilty: bytes
    reason: str


class Court:
    """Judges by signatures, and by decoding where it can."""

    def __init__(self, run: bytes, verify: Verify, judge: Judge | None) -> None:
        self.decodes = judge is not None
        self._run = run
        self._verify = verify
        self._judge = judge

    def of_shown(
        self, current: OpenRound, accuser: bytes, identity: bytes, shown: Shown, payload: Payload
    ) -> Verdict | None:
        """Who is wrong about a chunk whose author has that ``identity``; None if it cannot be told. Raises
        `BadFrame` for what no member can have got."""
        found = self._sized(current, accuser, identity, shown, payload)
        if isinstance(found, Verdict):
            return found
        fault = self._judge.fault(current.fragment, payload, *found) if self._judge else None
        if fault is None:
            return None
        what = "the mean" if shown.mean else "a contribution"
        if fault:
            return Verdict(shown.author, f"it vouched for {what} that cannot be used: {fault}")
        return Verdict(accuser, f"it refused {what} that is all right")

    def square_of(
        self, current: OpenRound, accuser: bytes, identity: bytes, shown: Shown, payload: Payload
    ) -> float | Verdict | None:
        """How long a chunk is, squared, that is one of several; or who is wrong if nobody vouched for it.
        None if it cannot be told. Raises `BadFrame`."""
        found = self._sized(current, accuser, identity, shown, payload)
        if isinstance(found, Verdict):
            return found
        return self._judge.square(current.fragment, payload, *found) if self._judge else None

    def _sized(
        self, current: OpenRound, accuser: bytes, identity: bytes, shown: Shown, payload: Payload
    ) -> tuple[int, int | None] | Verdict:
        """The elements of a chunk for which its author vouched, and of how many parts it is a mean."""
        plan = _plan_of(current, shown.attempt, shown.author, accuser)
        num_chunks = _num_chunks(current, shown.num_elements)
        if shown.chunk >= num_chunks:
            raise BadFrame("a chunk outside the vector")
        place = place_of(shown.chunk, num_chunks)
        if shown.mean:
            owned = [c for c in range(num_chunks) if plan.owner(c, num_chunks) == shown.author]
            if shown.chunk not in owned:
                raise BadFrame("a mean from someone who does not own the chunk")
            place = place_of(owned.index(shown.chunk), len(owned))
        root = root_of(digest_of(payload), place, shown.path)
        terms = self._terms(current, shown.num_elements)
        if not self._signed(terms, plan, shown, identity, place.group, root, shown.signature):
            return Verdict(accuser, "it showed a chunk for which nobody vouched")
        start = shown.chunk * current.chunk_elements
        length = min(current.chunk_elements, shown.num_elements - start)
        return length, len(plan.members) if shown.mean else None

    def of_two_things(
        self, current: OpenRound, accuser: bytes, identity: bytes, told: ToldTwoThings
    ) -> Verdict:
        """Who is wrong about two roots of an author with that ``identity``. Raises `BadFrame`."""
        plan = _plan_of(current, told.attempt, told.author, accuser)
        terms = self._terms(current, told.num_elements)
        both = ((told.root, told.signature), (told.other_root, told.other_signature))
        signed = all(self._signed(terms, plan, told, identity, told.group, *each) for each in both)
        if signed and told.root != told.other_root:
            return Verdict(told.author, "it vouched for two different things in one round")
        return Verdict(accuser, "it showed two words of which one was never said")

    def of_roots(self, current: OpenRound, identities: Mapping[bytes, bytes]) -> list[Verdict]:
        """Who is wrong where members hold different means: whoever vouched for two in this attempt, and
        whoever says that another vouched for what it did not."""
        plan, founders = current.plans[current.attempt], current.founders
        verdicts: dict[bytes, Verdict] = {}
        found: dict[tuple[bytes, int], set[bytes]] = {}

        @cache  # most members show the same
        def vouched(owner: bytes, group: int, num_elements: int, one: bytes) -> bool:
            terms = self._terms(current, num_elements)
            statement = terms.statement(one[:32], group, founders, plan.attempt, plan.lost)
            return self._verify(identities[owner], INDEX_TAG, statement, one[32:])

        for member, (num_elements, roots) in sorted(current.roots.items()):
            for at, (owner, group) in enumerate(mean_groups(current, num_elements)):
                one = roots[at * ROOT_BYTES : (at + 1) * ROOT_BYTES]
                if not vouched(owner, group, num_elements, one):
                    verdicts[member] = Verdict(member, "it showed a root for which nobody vouched")
                    break
                found.setdefault((owner, group), set()).add(one[:32])
        for (owner, _), different in found.items():
            if len(different) > 1:
                reason = "it vouched for different means to different members"
                verdicts.setdefault(owner, Verdict(owner, reason))
        return list(verdicts.values())

    def of_mean(self, case: MeanCase) -> Verdict | None:
        """Whether an owner called something else the mean of what it shows; None if it did not, or if that
        cannot be told. All is complete."""
        current, plan, wrong = case.current, case.plan, Verdict(case.owner, "it showed what is not so")
        num_elements = case.parts[case.owner][0].num_elements
        try:
            num_chunks = _num_chunks(current, num_elements)
        except BadFrame:
            return wrong
        chunk = plan.drawn_of(case.owner, case.drawn, num_chunks)
        if chunk is None or not _is_in_result(case, chunk, num_chunks):
            return wrong
        place = place_of(chunk, num_chunks)
        if not all(self._is_part(case, num_elements, place, each) for each in plan.members):
            return wrong
        length = min(current.chunk_elements, num_elements - chunk * current.chunk_elements)
        return self._on_mean(case, length)

    def _is_part(self, case: MeanCase, num_elements: int, place: Place, author: bytes) -> bool:
        """Whether that author vouched for the part that is shown."""
        shown, payload = case.parts[author]
        try:
            root = root_of(digest_of(payload), place, shown.path)
        except BadFrame:
            return False
        terms, founders = self._terms(case.current, num_elements), case.plan.founders
        statement = terms.statement(root, place.group, founders)
        return self._verify(case.identities[author], INDEX_TAG, statement, shown.signature)

    def _on_mean(self, case: MeanCase, length: int) -> Verdict | None:
        assert case.mean is not None
        parts = [Part(i, share, case.parts[member][1]) for i, member, share in case.plan.shares]
        try:
            fragment = case.current.fragment
            found = self._judge.deviation(fragment, parts, case.mean, length) if self._judge else None
        except Poisoned as error:
            reason = "it made a mean of a part that cannot be used"
            return Verdict(case.owner, reason) if error.member >= 0 else None
        if found is None or found[0] <= min(found[1], found[2]) + _CLEAR * found[2]:
            return None
        return Verdict(case.owner, "it vouched for a mean that is not that of its parts")

    def _terms(self, current: OpenRound, num_elements: int) -> Terms:
        about = current.serial, current.base, current.fragment, num_elements, current.life
        return Terms(self._run, *about)

    def _signed(
        self,
        terms: Terms,
        plan: Plan,
        about: Shown | ToldTwoThings,
        identity: bytes,
        group: int,
        root: bytes,
        signature: bytes,
    ) -> bool:
        attempt, lost = (plan.attempt, plan.lost) if about.mean else (-1, frozenset[bytes]())
        statement = terms.statement(root, group, plan.founders, attempt, lost)
        return self._verify(identity, INDEX_TAG, statement, signature)


def mean_groups(current: OpenRound, num_elements: int) -> list[tuple[bytes, int]]:
    """Owner and number of each group of means of the present attempt, in the order in which they are shown.
    Raises `BadFrame` for a vector that is too long."""
    plan, num_chunks = current.plans[current.attempt], _num_chunks(current, num_elements)
    owned = Counter(plan.owner(chunk, num_chunks) for chunk in range(num_chunks))
    return [(owner, group) for owner in plan.members for group in range(num_groups(owned[owner]))]


def _is_in_result(case: MeanCase, chunk: int, num_chunks: int) -> bool:
    """Whether the mean that is shown is that chunk of what the record names."""
    if case.mean is None or case.digests is None or isinstance(case.digests, Phantom):
        return False
    digests = [bytes(case.digests[at : at + 32]) for at in range(0, len(case.digests), 32)]
    in_result = len(digests) == num_chunks and tree_digest(digests) == case.result
    return in_result and digest_of(case.mean) == digests[chunk]


def _plan_of(current: OpenRound, attempt: int, author: bytes, accuser: bytes) -> Plan:
    plan = current.plans.get(attempt)
    if plan is None or not plan.proved or author == accuser:
        raise BadFrame("evidence about no attempt that was proved")
    if author not in plan.members or accuser not in plan.members:
        raise BadFrame("evidence about somebody who was not in that attempt")
    return plan


def _num_chunks(current: OpenRound, num_elements: int) -> int:
    num_chunks = -(-num_elements // current.chunk_elements)
    if num_chunks > MAX_CHUNKS:
        raise BadFrame(f"a vector of {num_chunks} chunks")
    return num_chunks
