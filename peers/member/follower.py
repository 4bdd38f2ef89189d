"""How a member comes to the head and stays there: its first state, whole states, commits one by one.

A record is applied only on its parent (S2), with the result that it names. One record at a time is with the
application. A member that cannot follow says so and fetches the whole state; until it holds the head nothing
is offered. What it fetches is in `peers.member.fetches`. Where the coordinator lost its journal, the member
goes on by the records that its own disk has, and shows each.
"""

from __future__ import annotations

from collections import deque

from peers.member.contributions import Contributions
from peers.member.exchanges import Exchanges
from peers.member.fetches import Fetches
from peers.member.membership import Membership
from peers.member.outlet import MemberOutlet
from peers.member.own_states import OwnStates
from peers.member.results import KeptResults
from peers.member.versions import Versions
from peers.protocol.commands import ConfirmApplied, ConfirmCaptured, ConfirmLoaded, ConfirmMoved, RefuseLoaded
from peers.protocol.events import (
    BecameActive,
    BecomeSeed,
    Fate,
    FellBehind,
    GotUnusable,
    Restored,
    RoundCommitted,
    StateFetched,
)
from peers.protocol.fields import cut
from peers.protocol.held import Held
from peers.protocol.messages import Applying, CatchUp, CaughtUp, Committed, NeedState, Seed, Unusable
from peers.protocol.profile import Profile
from peers.protocol.record import Record, genesis_head, record_in
from transport.effects import EncodedResult
from transport.errors import BadFrame, Poisoned


class Follower:
    """Whether this member is in and at the head, and what is next on its way there."""

    def __init__(
        self,
        coordinator: bytes,
        profile: Profile,
        outlet: MemberOutlet,
        max_records: int,
        *,
        versions: Versions,
        results: KeptResults,
        fetches: Fetches,
        membership: Membership,
        contributions: Contributions,
        exchanges: Exchanges,
    ) -> None:
        """Of a member that falls ``max_records`` commits behind the whole state is fetched."""
        self.entered = False
        """The coordinator has let this member in."""
        self.active = False
        """Whether this member holds the head, and has told the coordinator."""
        self.applying: Record | None = None
        """The record that is with the application."""
        self._coordinator = coordinator
        self._profile = profile
        self._outlet = outlet
        self._max_records = max_records
        self._versions = versions
        self.states = OwnStates(coordinator, outlet, versions)
        """What is said of the states that are held."""
        self._results = results
        self._fetches = fetches
        self._membership = membership
        self._contributions = contributions
        self._exchanges = exchanges
        self._records: deque[Record] = deque()
        self._loading: CatchUp | None = None
        self._held_before = False
        """Whether a whole state was held when the application was given the fragment that it loads."""
        self._seeding = False
        self._stranded = False
        self._later: tuple[Record, ...] = ()
        """Records on this machine's disk that lead on from where it began."""
        self._alone = False
        """It follows those, and not the coordinator's word."""
        self._over = False

    def may_offer(self, fragment: int) -> bool:
        """Whether this member holds the newest version of the fragment that it knows of. A record of another
        fragment leaves its version as it is."""
        if not self.active or (self.applying and self.applying.fragment == fragment):
            return False
        return not any(each.restores or each.fragment == fragment for each in self._records)

    def expects(self, fragment: int) -> bool:
        """Whether a newer version of the fragment is yet to be handed to the application."""
        # What it applies it may be told again, after a break.
        return any(each.fragment == fragment and each != self.applying for each in self._records)

    # -- in and out of the run ----------------------------------------------------------------

    def begin_with(self, held: Held, later: tuple[Record, ...] = ()) -> None:
        """The application has loaded a checkpoint: enter with its head, and follow from there, if the host
        has lost its journal by the records that are ``later``. Raises `BadFrame` for one of another model, or
        of another stage."""
        if held.record:
            self._profile.check(record_in(held.record))
        num_fragments = self._profile.manifest.num_fragments
        if not len(held.versions) == len(held.digests) == len(held.checks) == num_fragments:
            raise BadFrame(f"a checkpoint of {len(held.versions)} fragments, of a model with {num_fragments}")
        self._versions.begin_with(held)
        self._later = later
        self.states.begin_with(held)

    def enter(self, now: float, *, over: bool = False) -> None:
        """The coordinator has let this member in, to a run that may be ``over``."""
        self.entered, self._over = True, over
        if self._follows and self.applying:
            self._outlet.send(now, self._coordinator, Applying(self.applying.hash()))
        elif self._follows:
            self._say_head(now)
        self.advance(now)

    def leave(self) -> None:
        """This member is out of the run."""
        self.entered = self.active = False

    def begin_session(self) -> None:
        """The coordinator greets, and is about to say anew what follows the head that we name."""
        self.leave()
        self._stranded = self._alone = False
        self._records.clear()
        self.states.begin_session()
        if self._versions.holds_state:
            self._fetches.stop()

    def follow_alone(self, now: float) -> None:
        """The coordinator's journal ends before our head. An earlier life of it told the records that this
        machine kept: come as far as they lead, so that its owner can go on from there."""
        starts = [record.result if record.restores else record.parent for record in self._later]
        if self._records or self.applying or not self._follows or self._versions.head not in starts:
            return
        self._alone = True
        self._records.extend(self._later[starts.index(self._versions.head) :])
        self.advance(now)

    # -- the coordinator's word ---------------------------------------------------------------

    def begin_seeding(self, now: float, message: Seed) -> None:
        """Our own state is to be the run's first; or with gossip, to be gone on from: nobody else is left."""
        if self._profile.matching is not None and self._versions.holds_state:
            self._stranded = False
            self._fetches.stop()
            self._say_head(now)
        elif not self._versions.holds_state and not self._seeding and self._loading is None:
            self._seeding, self._stranded = True, False
            self.states.clear()
            self._outlet.deliver(BecomeSeed())

    def fetch_state(self, now: float, order: CatchUp) -> None:
        """One more fragment to fetch; the first of a set makes everything before it void. `advance` is to
        follow. Raises `BadFrame`."""
        if order.remaining == self._profile.manifest.num_fragments - 1:
            self._fall_behind("the shared state is fetched anew")
            self._fetches.stop()
            self._records.clear()
            self._seeding = False  # another one was named meanwhile
        if len(self._fetches.states) >= self._profile.manifest.num_fragments:
            raise BadFrame("more fragments of a state than the model has")
        self._stranded = False
        self._fetches.fetch_state(now, order)

    def take_commit(self, now: float, message: Committed) -> None:
        """A record was written. Raises `BadFrame`."""
        record = record_in(message.record)
        self._profile.check(record)
        exchange = self._exchanges.find_result(record.serial, record.result)
        if exchange is not None:
            # The exchange has hashed its chunks: that takes as long as all other arithmetic of a round.
            result = EncodedResult(exchange.digests(), exchange.means())
            self._results.keep(record.result, result, {each.result for each in self._records})
        self._contributions.mark_committed(record)
        if record.restores:
            self._go_back(record)
        # Stranded, it lacked a result that somebody may have by now, or the others go back to where it is.
        continues = (record.result if record.restores else record.parent) == self._versions.head
        if (self._stranded and not continues) or record == self.applying or record in self._records:
            return
        self._stranded = False
        self._records.append(record)
        if len(self._records) > self._max_records and not self.applying:
            self._need_state(now, "too many commits came while it was catching up")
        self.advance(now)

    def _go_back(self, restoring: Record) -> None:
        """No round is open any more; of records that are to come here, those up to the restored one stand,
        and the others are not followed."""
        reached = self.applying.hash() if self.applying else self._versions.head
        heads = [reached, *(record.hash() for record in self._records)]
        num_kept = heads.index(restoring.result) if restoring.result in heads else 0
        self._contributions.supersede(heads[1 : num_kept + 1], "the swarm goes on from another state")
        if restoring.result in heads:
            self._records = deque(list(self._records)[:num_kept])
        elif self._alone:
            self._records.clear()
        self._alone = False

    # -- the training loop's word -------------------------------------------------------------

    def confirm_applied(self, now: float, applied: ConfirmApplied) -> None:
        """The record that was with the application is applied."""
        record = applied.record
        assert self.applying == record, "one record at a time is with the application"
        self.applying = None
        self.states.move(record.fragment, applied.check)
        self._versions.move(record)
        if self.entered and self._follows:  # it may have fallen behind meanwhile
            if self.active:
                self._say_applied(now, record.fragment)
                self._say_caught_up(now)
            else:  # it entered while the application was applying, and said nothing of what it holds
                self._say_head(now)
        self.advance(now)

    def confirm_loaded(self, now: float, loaded: ConfirmLoaded) -> None:
        """A fetched state is loaded. Ignored if another one was ordered meanwhile."""
        order = self._loading
        if order is None or (order.fragment, order.version) != (loaded.fragment, loaded.version):
            return
        self._loading = None
        self.states.replace(loaded.fragment, loaded.check)
        self._versions.set_base(loaded.fragment, loaded.version)
        if order.remaining == 0:
            self._versions.arrive(order)
            self._say_head(now)
        self.advance(now)

    def refuse_loaded(self, now: float, refused: RefuseLoaded) -> None:
        """A fetched state could not be loaded. Ignored if another one was ordered meanwhile."""
        order = self._loading
        if order is not None and (order.fragment, order.version) == (refused.fragment, refused.version):
            # Nothing of an earlier state is gone yet where it is the first of this one that is refused.
            self._versions.holds_state = self._held_before
            self._cannot_use(now, order.fragment, order.state, refused.reason)

    def confirm_captured(self, now: float, captured: ConfirmCaptured) -> None:
        """One fragment of our own first state is captured; with the last one the run begins at it. Ignored if
        the state of another one was ordered meanwhile."""
        if not self._seeding:
            return
        self.states.replace(captured.fragment, captured.check, captured.state)
        names = self.states.names
        if len(names) == self._profile.manifest.num_fragments:
            self._seeding = False
            self._versions.begin_at(genesis_head([name for _, name in sorted(names.items())]))
            self._say_head(now)
        self.advance(now)

    def confirm_moved(self, now: float, moved: ConfirmMoved) -> None:
        """Gossip: our state is another one, under the same head."""
        self.states.replace(moved.fragment, moved.check)
        self._versions.steps = None  # from here on it goes on as one that was never away
        self._say_applied(now, moved.fragment)

    # -- saying where we are ------------------------------------------------------------------

    def _say_head(self, now: float) -> None:
        if not self.entered:
            return
        for fragment in sorted(self.states.checks):
            self._say_applied(now, fragment)
        self._say_caught_up(now)
        self._become_active(now)

    def _say_caught_up(self, now: float) -> None:
        if self._alone:
            self._outlet.send(now, self._coordinator, self._versions.newest())
        self._outlet.send(now, self._coordinator, CaughtUp(self._versions.head))

    def _become_active(self, now: float) -> None:
        if not self.active:
            self.active = True
            self._outlet.deliver(BecameActive(self._versions.head, self._versions.index, self._over))
            self._contributions.send_all_offers(now)

    def _say_applied(self, now: float, fragment: int) -> None:
        if self.entered:
            self.states.say(now, fragment)

    def _fall_behind(self, reason: str) -> None:
        self.active = False
        self._loading = None  # what it applies just now it will have applied
        self._contributions.end_decided(Fate.LATE, reason)
        self._outlet.deliver(FellBehind(reason))

    def _need_state(self, now: float, reason: str) -> None:
        self._fall_behind(reason)
        self._fetches.stop()
        self._records.clear()
        self._stranded = True  # it still holds an earlier head, to which the swarm may have to go back
        self._outlet.send(now, self._coordinator, NeedState(reason))

    def _cannot_use(
        self, now: float, fragment: int, blob: bytes, reason: str, peers: tuple[bytes, ...] = ()
    ) -> None:
        """What was fetched is of no use: tell that, and wait for a whole state that is another one, or of
        others. Training goes on meanwhile."""
        reason = cut(reason)
        self._outlet.deliver(GotUnusable(fragment, reason))
        self._outlet.send(now, self._coordinator, Unusable(fragment, blob, peers, reason))
        self._need_state(now, reason)

    # -- following ----------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Do the next thing on the way to the head, if it can be done."""
        self._finish_fetches(now)
        if self._follows and not self.applying:
            self._take_records(now)
        self._fetches.fetch_missing_results(now, self._records, self._versions.head, self._membership.others)

    @property
    def _follows(self) -> bool:
        """It holds a state, and no other one is on its way."""
        return self._versions.holds_state and not self._stranded and not self._fetches.states

    def _finish_fetches(self, now: float) -> None:
        states = self._fetches.states
        failed = next((each for each in states if each.fetch.failed), None)
        if failed is not None and (liars := self._fetches.liars.of(failed.fetch.blob)):
            order = failed.order
            self._cannot_use(
                now, order.fragment, order.state, "donors of the state hand out other bytes", liars
            )
        elif failed is not None:
            self._need_state(now, "no donor has the state any more")
        elif states and states[0].fetch.done and self._loading is None:
            first = states.pop(0)
            self._loading = first.order
            self._held_before = self._versions.holds_state
            self._versions.holds_state = False  # until now this may be the last who has the earlier one
            self._outlet.deliver(StateFetched(first.order.fragment, first.order.version, first.data))
        # What it applies just now it first tells: the others may have to go back to where it is.
        if self._fetches.finish_results(self._records) or self.applying:
            return
        if self._alone:
            self._records.clear()  # they lead no further
        else:
            self._need_state(now, "no member has a committed result any more")

    def _take_records(self, now: float) -> None:
        """Take the records that follow the head, up to the first one that must wait."""
        while self._records and not self.applying:
            record = self._records[0]
            if record.restores:  # its parent is a head that nobody holds
                self._records.popleft()
                self._restore(now, record)
            elif record.parent != self._versions.head:
                self._records.popleft()
                if record.hash() != self._versions.head:
                    self._need_state(now, "a commit does not follow the head")
                    return
            elif not self._deliver_commit(now, record):
                return

    def _restore(self, now: float, record: Record) -> None:
        if record.result != self._versions.head:
            self._versions.step_behind(record)
            self._need_state(now, "the swarm went back to an earlier state")
            return
        self._versions.move(record)
        self._outlet.deliver(Restored(record))
        self._say_head(now)

    def _deliver_commit(self, now: float, record: Record) -> bool:
        """Hand a record to the application; False if its result is not here yet."""
        exchange = self._exchanges.find_result(record.serial, record.result)
        try:
            reducer = exchange.reducer if exchange is not None else self._results.decode(record)
        except Poisoned as error:
            self._results.drop(record.result)
            self._cannot_use(
                now, record.fragment, record.result, f"the result does not decode: {error.reason}"
            )
            return False
        if reducer is None:
            return False
        self._records.popleft()
        self.applying = record
        mine = self._contributions.offered.get(record.fragment)
        number, tokens, weight = None, 0, 0.0
        if mine is not None and mine.committed:
            number, tokens, weight = mine.number, mine.tokens, self._contributions.weight_in(record)
            self._contributions.end(record.fragment, Fate.APPLIED, mine.counted_by.hex())
        elif mine is not None and not (
            self._profile.rebases and self._contributions.withdraw(now, record.fragment)
        ):
            self._contributions.end(record.fragment, Fate.LATE, "the round was committed without it")
        running = self._exchanges.close(now, record.serial)
        if exchange is None or running is None:  # else it said so when it had the result
            self._outlet.send(now, self._coordinator, Applying(record.hash()))
        seconds = now - running.opened_at if running else 0.0
        self._outlet.deliver(
            RoundCommitted(record, reducer, number, tokens, weight, seconds, len(self._records))
        )
        return True
