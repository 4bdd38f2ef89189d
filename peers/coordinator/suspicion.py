"""Who is under suspicion: accusations that nobody can check, and what follows from them.

A word is not believed, and not ignored. An accusation marks the *pair*, for either of the two may be wrong:
both still contribute, and own no chunks for 2^k commits, k being how often the pair was marked. Rounds with a
marked or distrusted member are proved. A single liar can set nobody aside, and cannot take the chunks from
all: where fewer than two unmarked members are left, all own again, after a wait. Time is counted in commits.
Pure; what follows for an open round is in `peers.coordinator.accusations`. Keeps X2 and R1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peers.coordinator.marks import Marks

DISTRUSTED_FOR = 16
"""Commits for which the rounds of a distrusted member, or of all, are proved."""
MAX_WAIT_S = 60.0


class Suspicion:
    """The marks of one course: pairs of accuser and accused, and at most ``max_pairs`` of them."""

    def __init__(self, max_pairs: int = 4096) -> None:
        self._max_pairs = max_pairs
        self._marks = Marks(first=2, max_pairs=max_pairs)
        self._distrusted: dict[bytes, int] = {}
        self._owes_proof: dict[bytes, int] = {}
        self._all_distrusted_until = 0

    # -- what is said -------------------------------------------------------------------------

    def accuse(self, accuser: bytes, accused: bytes, index: int) -> None:
        """Mark a pair at the commit of that index, longer each time."""
        self._marks.add((accuser, accused), index)

    def distrust(self, member: bytes, index: int) -> None:
        """Have the next rounds of a member proved; it still owns chunks."""
        self._distrusted = {each: until for each, until in self._distrusted.items() if index < until}
        if member in self._distrusted or len(self._distrusted) < self._max_pairs:
            self._distrusted[member] = index + DISTRUSTED_FOR

    def owes_proof(self, member: bytes, index: int) -> None:
        """A distrusted member did not show of what it made a mean: for as long it owns no chunks."""
        self._owes_proof = {each: until for each, until in self._owes_proof.items() if index < until}
        if member in self._owes_proof or len(self._owes_proof) < self._max_pairs:
            self._owes_proof[member] = index + DISTRUSTED_FOR

    def distrust_all(self, index: int) -> None:
        """Have the next rounds proved, whoever is in them: somebody lied, and it is not known who."""
        self._all_distrusted_until = index + DISTRUSTED_FOR

    def forget(self, member: bytes) -> None:
        """A member is out for good, so nothing that was said by it or of it matters any more."""
        self._marks.forget(member)
        self._distrusted.pop(member, None)
        self._owes_proof.pop(member, None)

    # -- what follows -------------------------------------------------------------------------

    def is_marked(self, accuser: bytes, accused: bytes, index: int) -> bool:
        """Whether that accusation holds now."""
        return self._marks.holds((accuser, accused), index)

    def marked(self, members: Iterable[bytes], index: int) -> set[bytes]:
        """Those of the members who own no chunks, with whomever they are marked."""
        owing = {each for each, until in self._owes_proof.items() if index < until}
        return set(members) & ({each for pair in self._marks.live(index) for each in pair} | owing)

    def distrusted(self, members: Iterable[bytes], index: int) -> list[bytes]:
        """Those of the members whose rounds are proved for what was said of them alone."""
        return [each for each in members if index < self._distrusted.get(each, 0)]

    def idle(self, members: Sequence[bytes], index: int) -> frozenset[bytes]:
        """Members of an attempt who own no chunks. Nobody, where fewer than two would be left to own any."""
        if not self._marks and not self._owes_proof:
            return frozenset()
        marked = self.marked(members, index)
        return frozenset(marked if len(members) - len(marked) >= 2 else ())

    def proves(self, members: Iterable[bytes], index: int) -> bool:
        """Whether a round of these members is to be proved."""
        if index < self._all_distrusted_until:
            return True
        if not self._marks and not self._distrusted and not self._owes_proof:
            return False
        here = set(members)
        return bool(self.distrusted(here, index) or self.marked(here, index))

    def outvoted(self, members: Sequence[bytes], index: int) -> list[bytes]:
        """Members who are at odds, accused or accusing, with more than half of an attempt's members. One liar
        makes nobody but itself one of them."""
        against = self._against(members, index)
        return [each for each in members if 2 * len(against.get(each, ())) > len(members)]

    def worse_of(self, accuser: bytes, accused: bytes, members: Sequence[bytes], index: int) -> bytes:
        """Who of a pair is at odds with more of an attempt's members. The accuser, if it is the same: these
        rounds are proved, and it shows nothing."""
        against = self._against(members, index)
        more = len(against.get(accused, ())) > len(against.get(accuser, ()))
        return accused if more else accuser

    def times(self, accuser: bytes, accused: bytes) -> int:
        """How often that pair was marked, and is not forgiven."""
        return self._marks.times((accuser, accused))

    def _against(self, members: Sequence[bytes], index: int) -> dict[bytes, set[bytes]]:
        """By member, with whom it is at odds."""
        against: dict[bytes, set[bytes]] = {}
        here = set(members)
        for accuser, accused in self._marks.live(index):
            if accuser in here and accused in here:
                against.setdefault(accuser, set()).add(accused)
                against.setdefault(accused, set()).add(accuser)
        return against

    def wait_s(self, members: Iterable[bytes], index: int) -> float:
        """Seconds before a round opens again in which fewer than two unmarked members are left to own chunks;
        0 where there are two."""
        here = set(members)
        if len(here - self.marked(here, index)) >= 2:
            return 0.0
        times = [self._marks.times(pair) for pair in self._marks.live(index) if here & set(pair)]
        return min(MAX_WAIT_S, 2.0 ** max(times, default=0))

    def pairs(self, index: int) -> list[tuple[bytes, bytes, int]]:
        """Accuser, accused, and how many commits the mark lasts; for people."""
        return [(*pair, self._marks.until(pair) - index) for pair in self._marks.live(index)]
