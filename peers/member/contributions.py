"""What this member offers, and what becomes of it.

A contribution stays as it was until its round commits or aborts (S5), and meets exactly one fate (S4): it is
applied if a record counts it, and nothing else is said of it before it is decided that none will. So what is
in a round waits for the coordinator's word, whatever happens to this member. This file counts tokens by fate
and knows nothing of how contributions are exchanged.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from peers.member.outlet import MemberOutlet
from peers.protocol.commands import Offer
from peers.protocol.events import ContributionEnded, Fate
from peers.protocol.fields import MAX_WEIGHT
from peers.protocol.messages import Counted, Ready, Rejected, Withdraw
from peers.protocol.record import Record
from transport.collectives.reducer import Reducer


@dataclass(slots=True)
class Contribution:
    """What this member offers for one fragment."""

    number: int
    fragment: int
    base: bytes
    tokens: int
    weight: int
    reducer: Reducer
    norm: float = 0.0
    serial: int = 0
    """The round that it is in; 0 while it is only offered."""
    counted_by: bytes = b""
    """Hash of the record that counts it; its fate follows when the record is applied."""

    @property
    def committed(self) -> bool:
        """Whether a record that counts it was written."""
        return bool(self.counted_by)

    @property
    def may_be_withdrawn(self) -> bool:
        """Whether no round has taken it."""
        return not self.serial and not self.committed


class Contributions:
    """A member's contributions, and its tokens by fate."""

    def __init__(self, me: bytes, coordinator: bytes, outlet: MemberOutlet) -> None:
        self.offered: dict[int, Contribution] = {}
        """By fragment."""
        self.held_back: set[int] = set()
        """Fragments of those of which the coordinator is not to hear yet."""
        self.num_offered = 0
        """Contributions so far, those that were taken back included: the number of the newest."""
        self.tokens_trained = 0
        """Tokens behind all contributions that were not taken back."""
        self.tokens_by_fate: dict[Fate, int] = dict.fromkeys(Fate, 0)
        self._me = me
        self._coordinator = coordinator
        self._outlet = outlet

    def offer(self, base: bytes, offer: Offer) -> Contribution:
        """Keep a contribution on top of version ``base``; `send_offer` tells the coordinator."""
        assert offer.fragment not in self.offered, "one contribution per fragment at a time"
        self.num_offered += 1
        self.tokens_trained += offer.tokens
        kept = Contribution(
            self.num_offered,
            offer.fragment,
            base,
            offer.tokens,
            min(offer.weight, MAX_WEIGHT),
            offer.reducer,
            offer.norm,
        )
        self.offered[offer.fragment] = kept
        return kept

    def send_offer(self, now: float, fragment: int) -> None:
        """Tell the coordinator of one contribution."""
        c = self.offered[fragment]
        self._outlet.send(
            now, self._coordinator, Ready(fragment, c.base, c.tokens, c.weight, c.number, c.norm)
        )

    def send_all_offers(self, now: float) -> None:
        """Tell the coordinator of every contribution that no record counts."""
        for fragment, offered in self.offered.items():
            if not offered.committed and fragment not in self.held_back:
                self.send_offer(now, fragment)

    def withdraw(self, now: float, fragment: int) -> Contribution | None:
        """Take a contribution back, to offer more later: its tokens are counted anew then. None if
        a round has it."""
        found = self.offered.get(fragment)
        if found is None or not found.may_be_withdrawn:
            return None
        del self.offered[fragment]
        self.tokens_trained -= found.tokens
        if fragment not in self.held_back:
            self._outlet.send(now, self._coordinator, Withdraw(fragment, found.number))
        self.held_back.discard(fragment)
        return found

    def mark_committed(self, record: Record) -> None:
        """A record was written: it may count a contribution of ours."""
        if self._me in record.members:
            self.mark_counted(Counted(record.fragment, record.serial, record.hash()))

    def mark_counted(self, counted: Counted) -> None:
        """A record that counts a contribution of this member was written."""
        mine = self.offered.get(counted.fragment)
        if mine is not None and mine.serial == counted.serial:
            mine.counted_by = counted.record

    def weight_in(self, record: Record) -> float:
        """The weight with which a record counts this member: at most what it offered."""
        return record.weights[record.members.index(self._me)] if self._me in record.members else 0.0

    def leave_rounds(self) -> None:
        """Every round is void: contributions are only offered again."""
        for mine in self.offered.values():
            mine.serial = 0

    # -- fates --------------------------------------------------------------------------------

    def end(
        self, fragment: int, fate: Fate, reason: str, *, without_result: bool = False
    ) -> Contribution | None:
        """A contribution meets its fate."""
        found = self.offered.pop(fragment, None)
        self.held_back.discard(fragment)
        if found is not None:
            self.tokens_by_fate[fate] += found.tokens
            ended = ContributionEnded(fragment, found.number, found.tokens, fate, reason, without_result)
            self._outlet.deliver(ended)
        return found

    def end_decided(self, fate: Fate, reason: str) -> None:
        """What a record counts is applied, and what is only offered meets ``fate``: no round will have it.
        What is in a round stays: it ends when the coordinator tells what became of that."""
        for fragment, mine in list(self.offered.items()):
            if mine.committed:
                self.end(fragment, Fate.APPLIED, mine.counted_by.hex(), without_result=True)
            elif mine.may_be_withdrawn:
                self.end(fragment, fate, reason)

    def supersede(self, kept: Container[bytes], reason: str) -> None:
        """The swarm goes back: of the records that count a contribution of ours only ``kept`` ones stand."""
        for fragment, mine in list(self.offered.items()):
            if mine.counted_by not in kept:
                self.end(fragment, Fate.SUPERSEDED, reason)

    def count_applied(self, fragment: int, number: int, tokens: int) -> None:
        """Gossip: what was trained is in this member's own replica, whatever became of its group."""
        self.tokens_trained += tokens
        self.tokens_by_fate[Fate.APPLIED] += tokens
        self._outlet.deliver(ContributionEnded(fragment, number, tokens, Fate.APPLIED, ""))

    def reject(self, message: Rejected) -> None:
        """The coordinator does not take a contribution."""
        mine = self.offered.get(message.fragment)
        if mine is not None and mine.number == message.number and mine.may_be_withdrawn:
            self.end(message.fragment, Fate.REJECTED, message.reason)
