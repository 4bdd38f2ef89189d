"""Gossip: groups average one vector among themselves, without a coordinator, a commit or a common state.

At each outer step a member finds its group (`peers.member.matching`), exchanges directly with it
(`transport.collectives.direct_reduce`, equal weights) and goes on. Every swap ends in one event, whatever
becomes of the partners: a dead, silent or absent one costs its own group this exchange and nobody else
anything. Members may end an exchange differently, one with the mean and one without; replicas differ
anyway, so that only adds variance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from peers.member.exchanges import Bulk, Exchanges, RunningExchange
from peers.member.matching import Matching
from peers.protocol.events import SwapFailed, Swapped
from peers.protocol.messages import MemberActive, MemberGone, MemberIs, NoSwap, RosterBatch
from peers.protocol.roster_feed import messages_in
from transport.collectives.direct_reduce import DirectReduce, Plan, chunk_elements_for
from transport.collectives.reducer import Reducer
from transport.limits import Limits

if TYPE_CHECKING:
    from peers.member.member import Member


def apply_roster_batch(member: Member, now: float, news: RosterBatch) -> None:
    """Many changes of the roster at once."""
    arrived: list[MemberIs] = []
    for each in messages_in(news.batch):
        if isinstance(each, MemberIs):
            arrived.append(each)
            continue
        member.welcome(arrived)
        arrived = []
        if isinstance(each, MemberGone):
            member.member_gone(now, each)
        elif isinstance(each, MemberActive):
            member.member_active(now, each)
    member.welcome(arrived)
    meet_donors(member, now)


def meet_donors(member: Member, now: float) -> None:
    """Have links to those of whom something is fetched, once the roster tells where they are."""
    for donor in sorted(member.follower.donors()):
        if member.outlet.meet(now, donor):
            member.follower.peer_restarted(now, donor)  # what was asked before there was a link is lost


class Swaps:
    """A member's swaps. They run beside other exchanges; chunks reach them through `Exchanges`."""

    def __init__(
        self, me: bytes, matching: Matching, exchanges: Exchanges, bulk: Bulk, limits: Limits
    ) -> None:
        self.active: set[bytes] = set()
        """Other members that hold a state: those that may be matched."""
        self._me = me
        self._matching = matching
        self._exchanges = exchanges
        self._bulk = bulk
        self._limits = limits

    def swap(self, now: float, fragment: int, step: int, tokens: int, reducer: Reducer) -> None:
        """Average with the group of this step; `Swapped` or `SwapFailed` follows."""
        serial = step + 1
        if len(self.active) + 1 < self._matching.min_peers:
            reason = f"{len(self.active) + 1} active members of at least {self._matching.min_peers}"
            self._bulk.deliver(SwapFailed(fragment, step, tokens, (), reason, alone=False))
            return
        group = self._matching.group({*self.active, self._me}, step, self._me)
        if len(group) == 1:
            self._exchanges.pass_by(now, serial)
            self._exchanges.count_applied(fragment, step, tokens)
            self._bulk.deliver(
                SwapFailed(fragment, step, tokens, (), "nobody is left to pair with", alone=True)
            )
            return
        limits = self._limits
        elements = chunk_elements_for(
            reducer.num_elements, len(group), limits.chunk_elements, limits.chunks_per_owner
        )
        exchange = DirectReduce(serial, self._me, reducer, elements, now)
        partners = tuple(each for each in group if each != self._me)
        running = RunningExchange(fragment, exchange, now, partners=partners, tokens=tokens)
        for partner in partners:
            self._bulk.meet(now, partner)
        self._exchanges.open_group(now, running, Plan(0, group, (1.0,) * len(group)))

    def settle(self, now: float) -> None:
        """Tell of swaps that are done, and end those that cannot be."""
        for serial, running in list(self._exchanges.running.items()):
            if running.partners is None:
                continue
            exchange = running.exchange
            if exchange.poisoned:
                self._fail(now, serial, f"a partner sent {exchange.poisoned[1]}")
            elif exchange.done and running.told_done < 0:
                running.told_done = 0
                self._exchanges.count_applied(running.fragment, serial - 1, running.tokens)
                event = Swapped(
                    running.fragment, serial - 1, running.tokens, exchange.reducer, running.partners
                )
                self._bulk.deliver(event)
            if exchange.done and exchange.all_sent:
                self._exchanges.close(now, serial)

    def partner_left(self, now: float, peer: bytes, reason: str) -> None:
        """Someone is gone: their groups' exchanges cannot end."""
        self.active.discard(peer)
        self._fail_where(now, lambda running: peer in (running.partners or ()), reason)

    def refused(self, now: float, peer: bytes, message: NoSwap) -> None:
        """A partner is elsewhere at that step, or has passed it."""
        running = self._exchanges.running.get(message.serial)
        if running is not None and peer in (running.partners or ()) and not running.exchange.done:
            self._fail(now, message.serial, "a partner is at another step or in another group")

    def tick(self, now: float) -> None:
        """Give up on partners that are silent."""
        self._fail_where(now, lambda running: bool(self._exchanges.silent(now, running.exchange)), "silence")

    def _fail_where(self, now: float, which: Callable[[RunningExchange], bool], reason: str) -> None:
        for serial, running in list(self._exchanges.running.items()):
            if running.partners is not None and not running.exchange.done and which(running):
                self._fail(now, serial, reason)

    def _fail(self, now: float, serial: int, reason: str) -> None:
        running = self._exchanges.close(now, serial)
        if running is not None and running.told_done < 0:
            partners = running.partners or ()
            for partner in partners:
                # Otherwise each finds out by its own patience, and they come ever more out of step.
                self._bulk.send(now, partner, NoSwap(serial))
            self._exchanges.count_applied(running.fragment, serial - 1, running.tokens)
            self._bulk.deliver(
                SwapFailed(running.fragment, serial - 1, running.tokens, partners, reason, alone=True)
            )
