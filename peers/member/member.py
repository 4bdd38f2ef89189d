"""A member of the swarm: follows the coordinator, contributes, and never stops its own training.

It announces contributions, exchanges them with the members that the coordinator names, and hands
committed results to the application, one at a time. When the coordinator is silent it says so and
waits; when it comes back, the member enters again with the head that it holds and offers what it
has. Keeps S2, S4, S5, S8, S13 and S14 on the member's side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from peers.member.exchanges import Bulk, Exchanges
from peers.member.follower import Follower
from peers.member.profile import Profile
from peers.member.swaps import Swaps, apply_roster_batch, meet_donors
from peers.protocol import commands
from peers.protocol.application import Application
from peers.protocol.events import (
    BecameActive,
    BecomeSeed,
    CoordinatorBack,
    CoordinatorLost,
    EntryRefused,
    Fate,
    FellBehind,
    IdentitySuperseded,
    OfferWanted,
    PaceSet,
    PeerLeft,
    PeersJoined,
    Restored,
    RoundCommitted,
    RunFinished,
    StateFetched,
)
from peers.protocol.messages import (
    PROTOCOL,
    Abort,
    Applied,
    CatchUp,
    CaughtUp,
    Committed,
    Enter,
    Entered,
    Finished,
    Leave,
    MemberActive,
    MemberGone,
    MemberIs,
    NeedState,
    NoSwap,
    Open,
    Pace,
    Refused,
    Rejected,
    RosterBatch,
    Seed,
    Serve,
    Wanted,
)
from peers.protocol.record import Record, genesis_head
from transport.collectives.direct_reduce import MeanChunk, PartChunk
from transport.collectives.fetch import Lack, Piece, Want
from transport.effects import Payload
from transport.errors import BadFrame
from transport.frames import unpack
from transport.limits import Limits


class Member:
    """Commands come from the training loop, messages from the node; answers are events."""

    def __init__(
        self,
        me: bytes,
        coordinator: bytes,
        profile: Profile,
        app: Application,
        bulk: Bulk,
        *,
        failure_timeout_s: float,
        patience_s: float,
        limits: Limits,
    ) -> None:
        self.me = me
        self.coordinator = coordinator
        self.profile = profile
        self.timeout_s = failure_timeout_s
        self.entered = False
        self.active = False
        self.roster: dict[bytes, MemberIs] = {}
        self.exchanges = Exchanges(me, coordinator, bulk, failure_timeout_s, patience_s)
        self.swaps: Swaps | None = None
        if profile.matching is not None:
            self.exchanges.gossips = True
            self.swaps = Swaps(me, profile.matching, self.exchanges, bulk, limits)
        elements = profile.manifest.elements
        self.follower = Follower(
            me, app, bulk, limits, failure_timeout_s, patience_s, elements, profile.adapts
        )
        self.outlet = bulk
        self._limits = limits
        self._applying: Record | None = None
        self._loading: CatchUp | None = None
        self._seeding = False
        self._stranded = False
        self._digests: dict[int, bytes] = {}
        self._lost = False
        self._started_at = 0.0
        self._waiting_wants: list[tuple[bytes, Want]] = []
        self._handlers: dict[type, Callable[[float, Any], None]] = {
            Entered: self._entered,
            MemberIs: lambda now, message: self.welcome((message,)),
            MemberGone: self.member_gone,
            Seed: self._seed,
            CatchUp: self._catch_up,
            Serve: lambda now, message: self.follower.serve(now, message.fragment, message.state),
            Committed: self._committed,
            Open: lambda now, message: self.exchanges.open(now, message),
            Rejected: lambda now, message: self.exchanges.rejected(message),
            Abort: lambda now, message: self.exchanges.abort(now, message),
            Refused: lambda now, message: bulk.deliver(EntryRefused(message.code, message.detail)),
            RosterBatch: lambda now, message: apply_roster_batch(self, now, message),
            Pace: lambda now, message: bulk.deliver(PaceSet(message.fastest)),
            Wanted: self._wanted,
            Finished: lambda now, message: bulk.deliver(RunFinished(message.rounds)),
        }

    # -- commands of the training loop --------------------------------------------------------

    def do(self, now: float, command: commands.Command) -> bool:
        """Carry out one command of the training loop; False if it was not taken."""
        match command:
            case commands.Offer():
                return self._offer(now, command)
            case commands.TakeBack():
                return self.exchanges.withdraw(now, command.fragment) is not None
            case commands.Swap():
                return self._swap(now, command)
            case commands.ConfirmApplied():
                self._confirm_applied(now, command.record, command.state)
            case commands.ConfirmLoaded():
                self._confirm_loaded(now, command)
            case commands.ConfirmCaptured():
                self._confirm_captured(now, command)
            case commands.ConfirmMoved():
                self._digests[command.fragment] = command.state
                self._say_applied(now, command.fragment)
            case commands.ReportProgress() if self.entered:
                self.outlet.send(now, self.coordinator, command.report)
            case commands.LeaveRun():
                self._leave(now, command.reason)
        return True

    def _offer(self, now: float, offer: commands.Offer) -> bool:
        """Nothing is taken while this member does not hold the newest version of the fragment."""
        fragment = offer.fragment
        if not self.active or self._applying or fragment in self.exchanges.offered:
            return False
        if any(record.fragment == fragment for record in self.follower.records):
            return False
        self.exchanges.offer(self.follower.base(fragment), offer)
        if self.entered:
            self.exchanges.say_ready(now, fragment)
        return True

    def _swap(self, now: float, swap: commands.Swap) -> bool:
        """`Swapped` or `SwapFailed` follows. Nothing is taken while this member does not hold a state."""
        assert self.swaps is not None, "this run has rounds"
        if not self.active:
            return False
        self.swaps.swap(now, swap.fragment, swap.step, swap.tokens, swap.reducer)
        self.swaps.settle(now)
        return True

    def _confirm_applied(self, now: float, record: Record, state: bytes) -> None:
        assert self._applying == record, "one record at a time is with the application"
        self._applying = None
        self.follower.moved(record)
        self._digests[record.fragment] = state
        if self.entered and self._follows:  # it may have fallen behind meanwhile
            self._say_applied(now, record.fragment)
            self.outlet.send(now, self.coordinator, CaughtUp(self.follower.head))
            self._become_active(now)  # if it entered while the application was applying
        self._advance(now)

    def _confirm_loaded(self, now: float, loaded: commands.ConfirmLoaded) -> None:
        """Ignored if another state was ordered meanwhile."""
        order = self._loading
        if order is None or (order.fragment, order.version) != (loaded.fragment, loaded.version):
            return
        self._loading = None
        self._digests[loaded.fragment] = loaded.state
        self.follower.set_version(loaded.fragment, loaded.version)
        if order.remaining == 0:
            self.follower.arrive(order)
            self._say_head(now)
        self._advance(now)

    def _confirm_captured(self, now: float, captured: commands.ConfirmCaptured) -> None:
        self._digests[captured.fragment] = captured.state
        if self._seeding and len(self._digests) == self.profile.manifest.num_fragments:
            self._seeding = False
            self.follower.begin_at(genesis_head([d for _, d in sorted(self._digests.items())]))
            self._say_head(now)
        self._advance(now)

    def _leave(self, now: float, reason: str) -> None:
        self.exchanges.end_all(Fate.REJECTED, reason)
        if self.entered:
            self.outlet.send(now, self.coordinator, Leave(reason))
        self.entered = self.active = False

    # -- inputs of the node -------------------------------------------------------------------

    def start(self, now: float) -> None:
        self._started_at = now

    def session_began(self, now: float, peer: bytes) -> None:
        """A peer lost its memory of us, or the coordinator greets."""
        self.exchanges.link_began_anew(peer)
        self._waiting_wants = [w for w in self._waiting_wants if w[0] != peer]
        self.follower.peer_restarted(now, peer)
        if peer != self.coordinator:
            return
        self.entered = self.active = False
        if self.swaps is not None:
            self.swaps.active.clear()  # the coordinator says anew who is there
        self._stranded = False
        self.follower.records.clear()  # they are said again from the head that we name
        if self.follower.holds_state:
            self.follower.stop_fetching()
        m, following = self.profile.manifest, self.follower
        self.outlet.send(
            now,
            peer,
            Enter(
                PROTOCOL,
                self.profile.name,
                self.profile.addresses,
                self.profile.stage,
                following.head,
                following.holds_state,
                m.settings,
                m.tensors,
                m.shapes,
                m.codec,
                m.elements,
                m.model,
            ),
        )

    def superseded(self) -> None:
        """A newer process has our identity: what is offered here counts no more."""
        for fragment, offered in list(self.exchanges.offered.items()):
            if not offered.committed:
                self.exchanges.end(fragment, Fate.SUPERSEDED, "a newer process runs with this identity")
        self.outlet.deliver(IdentitySuperseded())

    def control(self, now: float, peer: bytes, message: Any) -> None:
        """One control message."""
        if isinstance(message, Want):
            if not self.follower.want(now, peer, message):
                self._hold_want(peer, message)
        elif isinstance(message, NoSwap):
            if self.swaps is not None:
                self.swaps.refused(now, peer, message)
        elif isinstance(message, Lack):
            self.follower.lacks(now, peer, message)
            self._advance(now)
        elif peer == self.coordinator and (handler := self._handlers.get(type(message))):
            handler(now, message)

    def bulk(self, now: float, peer: bytes, message: Any, payload: Payload, cost: int) -> None:
        """One bulk message; `credit_came` follows every frame. Raises `BadFrame`."""
        if isinstance(message, (PartChunk, MeanChunk)):
            self.exchanges.chunk(now, peer, message, payload, cost)
            return
        self.outlet.consumed(now, peer, cost)
        if not isinstance(message, Piece):
            raise BadFrame(f"a payload beside {type(message).__name__}")
        self.follower.piece(now, peer, message, payload)
        self._advance(now)

    def credit_came(self, now: float) -> None:
        """Some link may have room again, or a chunk came: exchanges move on."""
        if self._waiting_wants:
            waiting = self._waiting_wants
            self._waiting_wants = [each for each in waiting if not self.follower.want(now, *each)]
        self.pump(now)

    def pump(self, now: float) -> None:
        """Move exchanges on."""
        self.exchanges.pump(now)
        if self.swaps is not None:
            self.swaps.settle(now)

    def peer_gone(self, now: float, peer: bytes) -> None:
        """The node dropped the link to a peer."""
        self.exchanges.link_began_anew(peer)
        self._waiting_wants = [w for w in self._waiting_wants if w[0] != peer]
        self.follower.peer_left(now, peer)
        self._advance(now)

    def tick(self, now: float) -> None:
        silent = now - max(self.outlet.last_heard(now, self.coordinator), self._started_at)
        if silent > self.timeout_s and not self._lost and self.coordinator != self.me:
            self._lost = True
            self.outlet.deliver(CoordinatorLost(silent))
        elif silent <= self.timeout_s and self._lost:
            self._lost = False
            self.outlet.deliver(CoordinatorBack())
        self.exchanges.tick(now)
        if self.swaps is not None:
            self.swaps.tick(now)
        self.follower.tick(now)
        self._advance(now)

    # -- the coordinator's word ---------------------------------------------------------------

    def _entered(self, now: float, message: Entered) -> None:
        self.entered = True
        self.exchanges.close_all(now)
        if self._follows and not self._applying:
            self._say_head(now)
        self._advance(now)

    def welcome(self, members: Sequence[MemberIs]) -> None:
        """These are in."""
        others = [each for each in members if each.key != self.me]
        self.roster.update((each.key, each) for each in others)
        if others:
            self.outlet.deliver(PeersJoined(tuple((each.key, each.name) for each in others)))

    def member_gone(self, now: float, message: MemberGone) -> None:
        """That one is out."""
        if self.swaps is not None:
            self.swaps.partner_left(now, message.key, message.reason)
        gone = self.roster.pop(message.key, None)
        if gone is not None:
            self.outlet.deliver(PeerLeft(message.key, gone.name, message.reason))

    def member_active(self, now: float, message: MemberActive) -> None:
        """That one holds a state."""
        if self.swaps is not None and message.key != self.me:
            self.swaps.active.add(message.key)

    def _wanted(self, now: float, message: Wanted) -> None:
        if message.fragment >= self.profile.manifest.num_fragments:
            raise BadFrame("a fragment that the model does not have")
        self.outlet.deliver(OfferWanted(message.fragment))

    def _seed(self, now: float, message: Seed) -> None:
        if not self.follower.holds_state and not self._seeding:
            self._seeding, self._stranded = True, False
            self._digests.clear()
            self.outlet.deliver(BecomeSeed())

    def _catch_up(self, now: float, message: CatchUp) -> None:
        if message.remaining == self.profile.manifest.num_fragments - 1:
            self._fall_behind("the shared state is fetched anew")
        self._stranded = False
        self.follower.begin_catching_up(now, message)
        if self.swaps is not None:
            meet_donors(self, now)
        self._advance(now)

    def _committed(self, now: float, message: Committed) -> None:
        record = unpack(message.record)
        if not isinstance(record, Record):
            raise BadFrame("a commit without a record")
        running = self.exchanges.running.get(record.serial)
        if running is not None and running.exchange.done and running.exchange.digest() == record.result:
            exchange = running.exchange
            self.follower.keep_result(record.result, exchange.digests(), exchange.means())
        mine = self.exchanges.offered.get(record.fragment)
        if mine is not None and self.me in record.members and mine.serial == record.serial:
            mine.committed = True
        if self._stranded and not (record.restores and record.result == self.follower.head):
            return
        self._stranded = False
        self.follower.records.append(record)
        if len(self.follower.records) > self._limits.history_records:
            self._need_state(now, "too many commits came while it was catching up")
        self._advance(now)

    # -- following ----------------------------------------------------------------------------

    def _say_head(self, now: float) -> None:
        if not self.entered:
            return
        for fragment in sorted(self._digests):
            self._say_applied(now, fragment)
        self.outlet.send(now, self.coordinator, CaughtUp(self.follower.head))
        self._become_active(now)

    def _become_active(self, now: float) -> None:
        if not self.active:
            self.active = True
            self.outlet.deliver(BecameActive(self.follower.head, self.follower.index))
            for fragment, offered in self.exchanges.offered.items():
                if not offered.committed:
                    self.exchanges.say_ready(now, fragment)

    def _say_applied(self, now: float, fragment: int) -> None:
        if self.entered:
            version = self.follower.base(fragment)
            self.outlet.send(now, self.coordinator, Applied(fragment, version, self._digests[fragment]))

    def _fall_behind(self, reason: str) -> None:
        self.active = False
        self._loading = None  # what it applies just now it will have applied
        self.exchanges.end_all(Fate.LATE, reason)
        self.outlet.deliver(FellBehind(reason))

    def _need_state(self, now: float, reason: str) -> None:
        self._fall_behind(reason)
        self.follower.stop_fetching()
        self.follower.records.clear()
        self._stranded = True  # it still holds an earlier head, to which the swarm may have to go back
        self.outlet.send(now, self.coordinator, NeedState(reason))

    def _advance(self, now: float) -> None:
        """Do the next thing on the way to the head, if it can be done."""
        self._finish_fetches(now)
        if self._follows and not self._applying:
            self._next_record(now)
        self.follower.fetch_missing_results(now, self.roster)

    @property
    def _follows(self) -> bool:
        """It holds a state, and no other one is on its way."""
        return self.follower.holds_state and not self._stranded and not self.follower.state_fetches

    def _finish_fetches(self, now: float) -> None:
        states = self.follower.state_fetches
        if any(each.fetch.failed for each in states):
            self._need_state(now, "no donor has the state any more")
        elif states and states[0].fetch.done and self._loading is None:
            first = states.pop(0)
            self._loading = first.order
            self.follower.holds_state = False  # until now this may be the last who has the earlier one
            self.outlet.deliver(StateFetched(first.order.fragment, first.order.version, first.data))
        if not self.follower.finish_result_fetches():
            self._need_state(now, "no member has a committed result any more")

    def _next_record(self, now: float) -> None:
        records = self.follower.records
        while records and not self._applying:
            record = records[0]
            if record.restores:  # its parent is a head that nobody holds
                records.popleft()
                self._restore(now, record)
            elif record.parent != self.follower.head:
                records.popleft()
                if record.hash() != self.follower.head:
                    self._need_state(now, "a commit does not follow the head")
                    return
            elif not self._deliver_commit(now, record):
                return

    def _restore(self, now: float, record: Record) -> None:
        if record.result != self.follower.head:
            self._need_state(now, "the swarm went back to an earlier state")
            return
        self.exchanges.end_all(Fate.SUPERSEDED, "the swarm goes on from another state")
        self.follower.moved(record)
        self.outlet.deliver(Restored(record))
        self._say_head(now)

    def _deliver_commit(self, now: float, record: Record) -> bool:
        running = self.exchanges.running.get(record.serial)
        mine = self.exchanges.offered.get(record.fragment)
        ours = running is not None and running.exchange.done
        ours = ours and running is not None and running.exchange.digest() == record.result
        reducer = running.exchange.reducer if ours and running else self.follower.decoded(record)
        if reducer is None:
            return False
        self.follower.records.popleft()
        self._applying = record
        number, tokens, weight = None, 0, 0.0
        if mine is not None and mine.committed:
            number, tokens, weight = mine.number, mine.tokens, float(mine.weight)
            self.exchanges.end(record.fragment, Fate.APPLIED, record.hash().hex())
        elif mine is not None and not (
            self.profile.rebases and self.exchanges.withdraw(now, record.fragment)
        ):
            self.exchanges.end(record.fragment, Fate.LATE, "the round was committed without it")
        seconds = now - running.opened_at if running else 0.0
        self.exchanges.close(now, record.serial)
        behind = len(self.follower.records)
        self.outlet.deliver(RoundCommitted(record, reducer, number, tokens, weight, seconds, behind))
        return True

    def _hold_want(self, peer: bytes, want: Want) -> None:
        if sum(1 for held, _ in self._waiting_wants if held == peer) >= 4 * self._limits.pieces_in_flight:
            raise BadFrame("more pieces wanted than may be asked at a time")
        self._waiting_wants.append((peer, want))
