"""Gossip: groups average one vector among themselves, without a coordinator, a commit or a common state.

At each outer step a member finds its group (`peers.member.matching`), exchanges directly with it
(`transport.collectives.direct_reduce`, equal weights) and goes on. Every swap ends in one event, whatever
becomes of the partners: a dead, silent or absent one costs its own group this exchange and nobody else
anything. Members may end an exchange differently, one with the mean and one without; replicas differ
anyway, so that only adds variance.
"""

from __future__ import annotations

from collections.abc import Callable

from peers.member.averaging import Handler
from peers.member.contributions import Contributions
from peers.member.exchanges import Exchanges, RunningExchange
from peers.member.matching import group_of
from peers.member.membership import Membership
from peers.member.outlet import MemberOutlet
from peers.protocol.commands import Swap
from peers.protocol.events import SwapFailed, Swapped
from peers.protocol.messages import NoSwap
from peers.protocol.profile import Matching
from transport.collectives.chunks import EarlyPart, MeanChunk, PartChunk
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.plan import Plan, chunk_elements_for
from transport.effects import Payload
from transport.limits import Limits


class Swaps:
    """A member's swaps (see `peers.member.averaging.Averaging`). The serial of a swap is its step plus 1."""

    needs_all_links = False

    def __init__(
        self,
        me: bytes,
        matching: Matching,
        membership: Membership,
        contributions: Contributions,
        exchanges: Exchanges,
        outlet: MemberOutlet,
        limits: Limits,
    ) -> None:
        self.handlers: dict[type, Handler] = {}  # the coordinator has no say in swaps
        self._me = me
        self._matching = matching
        self._membership = membership
        self._contributions = contributions
        self._exchanges = exchanges
        self._outlet = outlet
        self._limits = limits

    # -- a swap begins ------------------------------------------------------------------------

    def swap(self, now: float, swap: Swap) -> None:
        """Average with the group of this step; `Swapped` or `SwapFailed` follows."""
        active = {*self._membership.active, self._me}
        if len(active) < self._matching.min_peers:
            reason = f"{len(active)} active members of at least {self._matching.min_peers}"
            self._outlet.deliver(SwapFailed(swap.fragment, swap.step, swap.tokens, (), reason, alone=False))
        elif len(group := group_of(self._matching, active, swap.step, self._me)) == 1:
            self._take_alone(now, swap)
        else:
            self._begin(now, swap, group)
        self._settle(now)

    def _take_alone(self, now: float, swap: Swap) -> None:
        self._pass_by(now, swap.step + 1)
        self._contributions.count_applied(swap.fragment, swap.step, swap.tokens)
        reason = "nobody is left to pair with"
        self._outlet.deliver(SwapFailed(swap.fragment, swap.step, swap.tokens, (), reason, alone=True))

    def _begin(self, now: float, swap: Swap, group: tuple[bytes, ...]) -> None:
        """Exchange with a group. Who else sends to this member is matched elsewhere, and told so."""
        serial, limits = swap.step + 1, self._limits
        element_bytes = self._matching.element_bytes
        elements = chunk_elements_for(swap.reducer.num_elements, len(group), limits, element_bytes)
        exchange = DirectReduce(serial, self._me, swap.reducer, elements, now)
        for member in group:
            if member != self._me:
                self._outlet.meet(now, member)
        self._pass_by(now, serial - 1)
        self._exchanges.know(serial)
        self._exchanges.running[serial] = RunningExchange(swap.fragment, exchange, now, swap.tokens)
        exchange.begin(now, Plan(0, group, (1.0,) * len(group)))
        for peer, _ in self._exchanges.early_senders(lambda each: each == serial):
            if peer not in group:
                self._refuse(now, peer, serial)
        self._exchanges.replay_early(now, serial)
        self._exchanges.pump(now)

    def _pass_by(self, now: float, serial: int) -> None:
        """Nothing up to this serial is exchanged here any more: whoever has begun is told."""
        for peer, passed in self._exchanges.early_senders(lambda each: each <= serial):
            if passed not in self._exchanges.running:
                self._refuse(now, peer, passed)
        self._exchanges.pass_by(now, serial)

    def _refuse(self, now: float, peer: bytes, serial: int) -> None:
        self._outlet.send(now, peer, NoSwap(serial))

    def entered(self, now: float) -> None:
        """Nothing is to be done: swaps are none of the coordinator's."""

    # -- it is under way ----------------------------------------------------------------------

    def take_chunk(
        self, now: float, peer: bytes, message: PartChunk | MeanChunk, payload: Payload, cost: int
    ) -> None:
        """One chunk; `pump` is to follow. Who is not of the group is refused. Raises `BadFrame`."""
        exchanges = self._exchanges
        running = exchanges.running.get(message.serial)
        if running is not None and peer not in running.exchange.members:
            self._outlet.consumed(now, peer, cost)
            self._refuse(now, peer, message.serial)
            return
        late = running is None and exchanges.has_passed(message.serial)
        exchanges.take_chunk(now, peer, message, payload, cost)
        if late and isinstance(message, PartChunk):
            self._refuse(now, peer, message.serial)

    def offered(self, now: float, fragment: int) -> None:
        """Nothing is to be done: with gossip nothing is offered to the coordinator."""

    def take_early(self, now: float, peer: bytes, message: EarlyPart, payload: Payload, cost: int) -> None:
        """It is dropped: swaps wait for nobody's word, so nothing leaves before they begin."""
        self._outlet.consumed(now, peer, cost)

    def resume_link(self, peer: bytes) -> None:
        """The link to a peer began anew, or is gone."""
        self._exchanges.resume_link(peer)

    def pump(self, now: float) -> None:
        """Move every swap on, and tell of those that have ended."""
        self._exchanges.pump(now)
        self._settle(now)

    def _settle(self, now: float) -> None:
        """Tell of swaps that are done, and end those that cannot be."""
        for serial, running in list(self._exchanges.running.items()):
            exchange = running.exchange
            if exchange.poisoned:
                self._fail(now, serial, f"a partner sent {exchange.poisoned[1]}")
            elif exchange.done and running.told_done < 0:
                running.told_done = exchange.attempt
                self._contributions.count_applied(running.fragment, serial - 1, running.tokens)
                partners = self._partners(running)
                self._outlet.deliver(
                    Swapped(running.fragment, serial - 1, running.tokens, exchange.reducer, partners)
                )
            if exchange.done and exchange.all_sent:
                self._exchanges.close(now, serial)

    def _partners(self, running: RunningExchange) -> tuple[bytes, ...]:
        return tuple(each for each in running.exchange.members if each != self._me)

    # -- it fails -----------------------------------------------------------------------------

    def lose_sight(self, now: float, peer: bytes) -> None:
        """A partner that seems to be dead costs this exchange only, so nothing else is asked."""
        self._fail_where(now, lambda running: peer in self._partners(running), "its link ended")

    def partner_left(self, now: float, peer: bytes, reason: str) -> None:
        """Someone is gone: their groups' exchanges cannot end."""
        self._fail_where(now, lambda running: peer in self._partners(running), reason)

    def refused(self, now: float, peer: bytes, message: NoSwap) -> None:
        """A partner is elsewhere at that step, or has passed it."""
        running = self._exchanges.running.get(message.serial)
        if running is not None and peer in self._partners(running) and not running.exchange.done:
            self._fail(now, message.serial, "a partner is at another step or in another group")

    def tick(self, now: float) -> None:
        """Give up on partners that are silent."""

        def is_silent(running: RunningExchange) -> bool:
            return bool(self._exchanges.silent(now, running.exchange, may_be_late=True))

        self._fail_where(now, is_silent, "silence")

    def _fail_where(self, now: float, which: Callable[[RunningExchange], bool], reason: str) -> None:
        for serial, running in list(self._exchanges.running.items()):
            if not running.exchange.done and which(running):
                self._fail(now, serial, reason)

    def _fail(self, now: float, serial: int, reason: str) -> None:
        running = self._exchanges.close(now, serial)
        if running is not None and running.told_done < 0:
            partners = self._partners(running)
            for partner in partners:
                # Otherwise each finds out by its own patience, and they come ever more out of step.
                self._refuse(now, partner, serial)
            self._contributions.count_applied(running.fragment, serial - 1, running.tokens)
            self._outlet.deliver(
                SwapFailed(running.fragment, serial - 1, running.tokens, partners, reason, alone=True)
            )
