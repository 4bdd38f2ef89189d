"""Rounds as a member takes part in them: the coordinator opens them and says who is in.

A contribution takes part only in a round whose base is its own (S8). A member reports to the coordinator that
it holds the whole result, or who keeps it waiting; it ends a round only at the coordinator's word.
"""

from __future__ import annotations

from peers.member.appeal import roots_held, shown_by, two_things_told
from peers.member.averaging import Handler
from peers.member.contributions import Contributions
from peers.member.early_parts import EarlyParts
from peers.member.exchanges import Exchanges, RunningExchange
from peers.member.outlet import MemberOutlet
from peers.protocol.commands import Swap
from peers.protocol.events import Fate, RoundAborted, RoundOpened
from peers.protocol.fields import MAX_SQUARE, cut
from peers.protocol.messages import Abort, Decline, Done, Missing, NoSwap, Open, Stuck
from transport.collectives.chunks import EarlyPart, MeanChunk, PartChunk
from transport.collectives.direct_reduce import DirectReduce, Poison
from transport.collectives.norms import NormLimits
from transport.collectives.plan import Plan
from transport.collectives.proofs import Notary, Terms
from transport.collectives.prover import Prover
from transport.effects import EncodedResult, Payload
from transport.errors import BadFrame
from transport.limits import LIMITS, Limits


class Rounds:
    """A member's part in rounds (see `peers.member.averaging.Averaging`)."""

    needs_all_links = True

    def __init__(
        self,
        me: bytes,
        coordinator: bytes,
        contributions: Contributions,
        exchanges: Exchanges,
        outlet: MemberOutlet,
        run: bytes = b"",
        notary: Notary | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        """Without a ``notary`` it takes no part in rounds that are proved."""
        self.handlers: dict[type, Handler] = {Open: self.open, Abort: self.abort}
        self.early = EarlyParts(me, contributions, exchanges, outlet, limits)
        self._me = me
        self._coordinator = coordinator
        self._contributions = contributions
        self._exchanges = exchanges
        self._outlet = outlet
        self._run = run
        self._notary = notary

    # -- the coordinator's word ---------------------------------------------------------------

    def open(self, now: float, message: Open) -> None:
        """A round opens, or goes on with fewer. Raises `BadFrame`."""
        if len(message.founders) != len(message.weights) or min(message.weights, default=0.0) <= 0.0:
            raise BadFrame("a round without a weight for each member")
        if message.part_limits and len(message.part_limits) != len(message.founders):
            raise BadFrame("a round without a limit for each member")
        if message.numbers and len(message.numbers) != len(message.founders):
            raise BadFrame("a round without a contribution of each member")
        self._exchanges.pass_by(now, message.serial - 1)
        self._exchanges.know(message.serial)
        lost = frozenset(message.founders[i] for i in message.lost if i < len(message.founders))
        idle = frozenset(message.founders[i] for i in message.idle if i < len(message.founders))
        if message.proved and self._notary is None:
            self._outlet.send(now, self._coordinator, Decline(message.serial, "it has no key to sign with"))
            return
        limits = NormLimits(message.part_limits, message.mean_limit)
        plan = Plan(
            message.attempt, message.founders, message.weights, lost, idle, message.proved, limits=limits
        )
        self.early.learn(message, plan)
        running = self._exchanges.running.get(message.serial) or self._join(now, message, plan)
        if running is None or self._me not in plan.members:
            return
        running.plan, running.num_shown = plan, 0
        running.exchange.begin(now, plan)
        self._outlet.deliver(RoundOpened(message.serial, message.attempt, message.fragment, plan.members))
        self._exchanges.replay_early(now, message.serial)
        self.early.opened(now, message, plan, running)
        self.pump(now)

    def _join(self, now: float, message: Open, plan: Plan) -> RunningExchange | None:
        mine = self._contributions.offered.get(message.fragment)
        weights = dict(zip(message.founders, message.weights, strict=True))
        numbers = dict(zip(message.founders, message.numbers, strict=False))
        agrees = (
            mine is not None
            and not mine.committed
            and mine.serial in (0, message.serial)
            and mine.base == message.base
            and mine.number == numbers.get(self._me, mine.number)
            and 0.0 < weights.get(self._me, 0.0) <= mine.weight
        )
        if mine is None or not agrees:
            reason = "nothing is offered" if mine is None else "it is not about what was offered"
            self._outlet.send(now, self._coordinator, Decline(message.serial, reason))
            return None
        mine.serial = message.serial
        chunk_elements = max(1, message.chunk_elements)
        prover = self._prover(message, mine.reducer.num_elements)
        exchange = DirectReduce(message.serial, self._me, mine.reducer, chunk_elements, now, prover)
        exchange.mark_sent(self.early.joined(message, plan, mine))
        running = RunningExchange(message.fragment, exchange, now, mine.tokens)
        self._exchanges.running[message.serial] = running
        return running

    def _prover(self, message: Open, num_elements: int) -> Prover | None:
        if self._notary is None:
            return None
        about = message.serial, message.base, message.fragment, num_elements, message.life
        terms = Terms(self._run, *about)
        return Prover(self._me, self._notary, terms)

    def abort(self, now: float, message: Abort) -> None:
        """A round is void. Its contribution is offered again, or has come too late."""
        running = self._exchanges.close(now, message.serial)
        if running is None:
            return
        self._outlet.deliver(RoundAborted(running.fragment, message.serial, message.reason, message.again))
        mine = self._contributions.offered.get(running.fragment)
        if mine is None or mine.serial != message.serial or mine.committed:
            return
        mine.serial = 0
        if message.again:
            self._contributions.send_offer(now, running.fragment)
        else:
            self._contributions.end(running.fragment, Fate.LATE, message.reason)

    def entered(self, now: float) -> None:
        """Every round is void; contributions are only offered again."""
        self.early.entered(now)
        self._exchanges.close_all(now)
        self._contributions.leave_rounds()

    # -- exchanging ---------------------------------------------------------------------------

    def take_chunk(
        self, now: float, peer: bytes, message: PartChunk | MeanChunk, payload: Payload, cost: int
    ) -> None:
        """One chunk; `pump` is to follow. Raises `BadFrame`."""
        self._exchanges.take_chunk(now, peer, message, payload, cost)

    def pump(self, now: float) -> None:
        """Move every round on, and report what it came to."""
        self._exchanges.pump(now, self._report)
        self._exchanges.busy |= self.early.pump(now)

    def _report(self, now: float, serial: int, running: RunningExchange) -> None:
        exchange = running.exchange
        if exchange.poisoned and running.told_stuck != exchange.attempt:
            self._accuse(now, serial, running, exchange.poisoned)
        elif exchange.done and running.told_done != exchange.attempt:
            running.told_done = exchange.attempt
            roots = roots_held(exchange)
            if roots is not None:
                self._outlet.show(now, *roots)
            encoded = EncodedResult(exchange.digests(), exchange.means())
            self._outlet.keep(serial, exchange.digest(), encoded)
            squares = tuple(min(square, MAX_SQUARE) for square in exchange.norms.parts)
            done = Done(serial, exchange.attempt, exchange.digest(), squares)
            self._outlet.send(now, self._coordinator, done)

    def _accuse(self, now: float, serial: int, running: RunningExchange, poison: Poison) -> None:
        """With what can be shown, if anything can; what there is no room for follows at the next tick."""
        told = two_things_told(running.exchange)
        shown = shown_by(running.exchange) if told is None else []
        for each in shown[running.num_shown :]:
            if not self._outlet.show(now, *each):
                return
            running.num_shown += 1
        if told is None and not shown:
            self._say_stuck(now, serial, running, (poison.peer,), poison.reason)
        elif told is not None:
            self._outlet.send(now, self._coordinator, told)
        running.told_stuck = running.exchange.attempt

    def tick(self, now: float) -> None:
        """Report members who owe us something and are silent, and what could not be shown before."""
        for serial, running in list(self._exchanges.running.items()):
            if running.exchange.poisoned:
                self._report(now, serial, running)
                continue  # it moves no further, so nobody is silent
            if running.exchange.done or running.told_stuck == running.exchange.attempt:
                continue
            silent = self._exchanges.silent(now, running.exchange)
            if silent:
                self._say_stuck(now, serial, running, silent, "")

    def _say_stuck(
        self, now: float, serial: int, running: RunningExchange, peers: tuple[bytes, ...], poison: str
    ) -> None:
        attempt = running.told_stuck = running.exchange.attempt
        self._outlet.send(now, self._coordinator, Stuck(serial, attempt, peers, cut(poison, 64)))

    # -- before a round opens -----------------------------------------------------------------

    def offered(self, now: float, fragment: int) -> None:
        """A contribution was offered to the coordinator, who is to hear of it before anything else leaves."""
        self.early.offered(fragment)
        self._exchanges.busy = True

    def take_early(self, now: float, peer: bytes, message: EarlyPart, payload: Payload, cost: int) -> None:
        """A part of somebody that left before its round opened; `pump` is to follow. Raises `BadFrame`."""
        self.early.take(now, peer, message, payload, cost)

    def resume_link(self, peer: bytes) -> None:
        """The link to a peer began anew, or is gone."""
        self._exchanges.resume_link(peer)
        self.early.resume_link(peer)

    # -- what only gossip knows ---------------------------------------------------------------

    def swap(self, now: float, swap: Swap) -> None:
        """A training loop of a run with rounds asks for no swap: it is a bug of ours if one does."""
        raise AssertionError("this run has rounds")

    def refused(self, now: float, peer: bytes, message: NoSwap) -> None:
        """Nothing is to be done: with rounds there are no swaps to refuse."""

    def lose_sight(self, now: float, peer: bytes) -> None:
        """Tell the coordinator, which finds out whether that is so."""
        running = self._exchanges.running.values()
        if peer != self._coordinator and any(peer in each.exchange.waiting_for() for each in running):
            self._outlet.send(now, self._coordinator, Missing(peer))

    def partner_left(self, now: float, peer: bytes, reason: str) -> None:
        """Nothing is to be done: the coordinator says how each round goes on."""
