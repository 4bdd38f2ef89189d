"""A member of the swarm: follows the coordinator, contributes, and never stops its own training.

It puts the parts of the member's side together and hands each word to the part that it is for. When the
coordinator is silent the member says so and waits; when it comes back, the member enters again with the head
that it holds and offers what it has. Keeps S2, S4, S5, S8, S13 and S14 on the member's side.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from peers.member.averaging import Averaging, Handler
from peers.member.contributions import Contributions
from peers.member.coordinator_watch import CoordinatorWatch
from peers.member.donor import Donor
from peers.member.exchanges import Exchanges
from peers.member.fetches import Fetches
from peers.member.follower import Follower
from peers.member.mean_proofs import MeanProofs
from peers.member.membership import Membership
from peers.member.notary import MemberNotary
from peers.member.outlet import MemberOutlet
from peers.member.results import KeptResults
from peers.member.rounds import Rounds
from peers.member.spot_checks import SpotChecks
from peers.member.stages import Stages
from peers.member.swaps import Swaps
from peers.member.versions import Versions
from peers.protocol import commands
from peers.protocol.application import Application
from peers.protocol.events import (
    EntryRefused,
    Fate,
    HostIsBehind,
    IdentitySuperseded,
    OfferWanted,
    PaceSet,
    RunFinished,
    SaveWanted,
    SettingsChanged,
    ShareWanted,
    VersionExpected,
)
from peers.protocol.evidence import ProveMean
from peers.protocol.fields import cut
from peers.protocol.held import Held
from peers.protocol.layout_rows import tell_rows
from peers.protocol.messages import (
    CatchUp,
    Committed,
    Counted,
    Entered,
    Finished,
    HostBehind,
    Leave,
    MemberGone,
    MemberIs,
    NoSwap,
    Pace,
    Refused,
    Rejected,
    RosterBatch,
    Saved,
    SaveNow,
    Seed,
    Serve,
    SettingsAre,
    Wanted,
)
from peers.protocol.naming import NameEvery, NameState, Saving
from peers.protocol.profile import Profile
from peers.protocol.record import Record
from peers.protocol.shares import ALL, PartHeld, SaveShare, Stored, pack_fragments
from peers.protocol.signing import Signer, Verify, run_of
from peers.protocol.spots import Spot, SpotPart
from peers.protocol.stage_work import StageCommand
from peers.routing.state import StreamTerms
from peers.routing.streaming import AMONG_REPLICAS, WITH_PAYLOAD
from transport.collectives.chunks import EarlyPart, MeanChunk, PartChunk
from transport.collectives.fetch import Lack, Piece, Want
from transport.effects import Payload
from transport.errors import BadFrame
from transport.limits import Limits

_MAX_PARTS_TOLD = 512
"""Fragments that are told at once of what the disk has: half of what a link holds back for a peer."""
AMONG_MEMBERS = (Want, Lack, NoSwap, *AMONG_REPLICAS)
"""Control messages that members say to each other; all others are the coordinator's."""


class Member:
    """Commands come from the training loop, messages from the node; answers are events."""

    def __init__(
        self,
        me: bytes,
        coordinator: bytes,
        profile: Profile,
        app: Application,
        outlet: MemberOutlet,
        *,
        failure_timeout_s: float,
        patience_s: float,
        limits: Limits,
        signing: tuple[Signer, Verify] | None = None,
        held: Held | None = None,
        keeps: bool = False,
        leads_on: bool = True,
        later: tuple[Record, ...] = (),
        stored: Stored | None = None,
        stream: StreamTerms | None = None,
    ) -> None:
        """It begins with what the application loaded from a checkpoint, if it is ``held``, and ``keeps``
        results of rounds on this machine's disk, which ``leads_on`` from there by them; ``later`` are records
        that were kept too, ``stored`` shares of states. Raises `BadFrame` for one of another model."""
        num_fragments = profile.manifest.num_fragments
        self.profile = profile
        self.keeps = keeps
        """Whether results of rounds go to this machine's disk before it is said that they are held."""
        self.leads_on = keeps and leads_on
        """Whether those of all rounds since the newest checkpoint are there, as far as they were had."""
        self.versions = Versions()
        self.membership = Membership(me, outlet, self._partner_left, stage=profile.stage)
        self.contributions = Contributions(me, coordinator, outlet)
        self.exchanges = Exchanges(outlet, failure_timeout_s, patience_s, limits)
        self._me, self._coordinator, self._outlet = me, coordinator, outlet
        self.averaging = self._averaging(limits, signing)
        results = self._results = KeptResults.of(app, profile.manifest.elements, outlet)
        about = (me, coordinator, app, self.exchanges, limits.members, outlet, patience_s)
        self._spot_checks = SpotChecks(*about)
        self._mean_proofs = MeanProofs(me, self.exchanges, outlet)
        served = (num_fragments, self.versions, results, stored)
        self._donor = Donor(app, outlet, limits, failure_timeout_s, *served)
        # As fp32, twice the model: about what a state has that is fetched instead.
        bounds = (failure_timeout_s, patience_s, 8 * sum(profile.manifest.elements))
        self._fetches = Fetches(
            me, app, outlet, limits, *bounds, results, adapts=profile.adapts, stored=stored
        )
        self._follower = Follower(
            coordinator,
            profile,
            outlet,
            limits.history_records,
            versions=self.versions,
            results=results,
            fetches=self._fetches,
            membership=self.membership,
            contributions=self.contributions,
            exchanges=self.exchanges,
        )
        if held is not None:
            self._follower.begin_with(held, later)
        self.to_name = app.to_name  # for the program around
        self._timeout_s = failure_timeout_s
        self._stored = stored
        self._saved = commands.ConfirmSaved(held) if held is not None else None
        """The newest state on this machine's disk of which the coordinator is to know."""
        self.stages = self._stages(stream)
        """What travels between this member's stage and others, in a model that is cut."""
        self.coordinator_watch = CoordinatorWatch(failure_timeout_s, outlet.deliver)
        self._handlers: dict[type, Handler] = {**self._handlers_of_its_parts(), **self.averaging.handlers}

    def _averaging(self, limits: Limits, signing: tuple[Signer, Verify] | None) -> Averaging:
        """By rounds, or with gossip by swaps."""
        me, outlet, parts = self._me, self._outlet, (self.contributions, self.exchanges)
        if self.profile.matching is not None:
            return Swaps(me, self.profile.matching, self.membership, *parts, outlet, limits)
        run = run_of(self._coordinator, self.profile.manifest.settings)
        notary = MemberNotary(*signing, self.membership.others) if signing else None
        return Rounds(me, self._coordinator, *parts, outlet, run, notary, limits)

    def _stages(self, terms: StreamTerms | None) -> Stages | None:
        if terms is None:
            return None
        return Stages(self._me, self._coordinator, terms, self.contributions, self._outlet, self._send_offer)

    def _handlers_of_its_parts(self) -> dict[type, Handler]:
        """Handlers of the coordinator's messages but for those about exchanges, by kind."""
        deliver = self._outlet.deliver
        return {
            Entered: self._entered,
            MemberIs: self._welcome,
            MemberGone: self.membership.gone,
            RosterBatch: self._apply_roster_batch,
            Seed: self._follower.begin_seeding,
            CatchUp: self._fetch_state,
            Serve: lambda now, message: self._donor.serve(now, message.fragment, message.state),
            NameState: self._follower.states.order,
            NameEvery: self._follower.states.order_every,
            HostBehind: self._host_behind,
            Committed: self._follower.take_commit,
            Counted: lambda now, message: self.contributions.mark_counted(message),
            Rejected: lambda now, message: self.contributions.reject(message),
            Refused: lambda now, message: deliver(self._refusal(message)),
            Pace: lambda now, message: deliver(PaceSet(message.fastest)),
            Wanted: self._wanted,
            Spot: self._spot_checks.begin,
            ProveMean: self._mean_proofs.begin,
            SaveShare: lambda now, message: deliver(
                ShareWanted(message.index, message.copies, message.covered)
            ),
            SaveNow: lambda now, message: deliver(SaveWanted(message.index)),
            SettingsAre: lambda now, message: deliver(SettingsChanged(message.values)),
            Finished: lambda now, message: deliver(RunFinished(message.rounds)),
            **(self.stages.handlers if self.stages is not None else {}),
        }

    @property
    def all_known(self) -> Mapping[bytes, MemberIs]:
        """Who is in the run, as far as this member has to know; it changes with what is told."""
        neighbours = self.stages.neighbours if self.stages is not None else {}
        return ChainMap(self.membership.others, neighbours)

    @property
    def active(self) -> bool:
        """Whether this member holds the head, and has told the coordinator."""
        return self._follower.active

    @property
    def applying(self) -> bool:
        """Whether a record is with the application."""
        return self._follower.applying is not None

    def waits_for(self) -> set[bytes]:
        """Peers whose silence would matter now."""
        others = self.stages.partners() if self.stages is not None else set()
        return {self._coordinator} | self.exchanges.partners() | self._fetches.donors() | others

    def find_blob(self, now: float, blob: bytes) -> tuple[Sequence[bytes], Callable[[int], Payload]] | None:
        """What this member would hand out: the digests of a blob's pieces, and each piece."""
        return self._donor.find(now, blob)

    # -- commands of the training loop --------------------------------------------------------

    def do(self, now: float, command: commands.Command) -> bool:
        """Carry out one command of the training loop; False if it was not taken."""
        match command:
            case commands.Offer():
                return self._offer(now, command)
            case commands.TakeBack():
                return self.contributions.withdraw(now, command.fragment) is not None
            case commands.Swap() if not self.active:
                return False  # this member does not hold a state
            case commands.Swap():
                self.averaging.swap(now, command)
            case commands.ConfirmApplied():
                self._follower.confirm_applied(now, command)
            case commands.ConfirmLoaded():
                self._follower.confirm_loaded(now, command)
            case commands.RefuseLoaded():
                self._follower.refuse_loaded(now, command)
            case commands.ConfirmCaptured():
                self._follower.confirm_captured(now, command)
            case commands.ConfirmMoved():
                self._follower.confirm_moved(now, command)
            case commands.ConfirmNamed():
                self._follower.states.confirm_named(now, command, says=self._follower.entered)
            case commands.BeginSave() if self._follower.entered:
                self._outlet.send(now, self._coordinator, Saving(command.head))
            case commands.ConfirmSaved():
                self._confirm_saved(now, command)
            case commands.ReportProgress() if self._follower.entered:
                self._outlet.send(now, self._coordinator, command.report)
            case commands.LeaveRun():
                self._leave(now, command.reason)
            case _ if self.stages is not None and isinstance(command, StageCommand):
                return self.stages.do(now, command)
        return True

    def _offer(self, now: float, offer: commands.Offer) -> bool:
        """Nothing is taken while this member does not hold the newest version of the fragment."""
        fragment = offer.fragment
        if fragment in self.contributions.offered or not self._follower.may_offer(fragment):
            if self._follower.expects(fragment):
                self._outlet.deliver(VersionExpected(fragment))
            return False
        if self.stages is not None and not self.stages.may_offer:
            return False
        self.contributions.offer(self.versions.base(fragment), offer)
        if self.stages is None or not self.stages.holds_back(fragment):
            self._send_offer(now, fragment)
        return True

    def _send_offer(self, now: float, fragment: int) -> None:
        if self._follower.entered:
            self.contributions.send_offer(now, fragment)
            self.averaging.offered(now, fragment)

    def _confirm_saved(self, now: float, saved: commands.ConfirmSaved) -> None:
        self.leads_on, self._saved = saved.keeps, saved
        if self._follower.entered:
            self._say_saved(now, saved)

    def _say_saved(self, now: float, saved: commands.ConfirmSaved) -> None:
        held, fragments = saved.held, ALL
        if saved.fragments is not None:
            fragments = pack_fragments(saved.fragments, self.profile.manifest.num_fragments)
        said = Saved(held.place, held.head, held.digest(), self.leads_on, fragments)
        self._outlet.send(now, self._coordinator, said)

    def _leave(self, now: float, reason: str) -> None:
        self.contributions.end_decided(Fate.REJECTED, reason)
        if self._follower.entered:
            self._outlet.send(now, self._coordinator, Leave(cut(reason)))
        self._follower.leave()

    # -- inputs of the node -------------------------------------------------------------------

    def start(self, now: float) -> None:
        """First input: silence of the coordinator counts from here."""
        self._donor.hold_layout(self.profile.layout)
        self.coordinator_watch.start(now)

    def begin_session(self, now: float, peer: bytes) -> None:
        """A peer began a new session with this member; the coordinator does so whenever it greets."""
        self.averaging.resume_link(peer)
        self._donor.drop_waiting(peer)
        self._spot_checks.drop(peer)
        self._fetches.ask_again(now, peer)
        if peer == self._coordinator:
            self._mean_proofs.drop()
            self.membership.forget_active()
            self._follower.begin_session()
            if (newest := self.versions.newest()) is not None:
                self._outlet.send(now, peer, newest)
            if self.stages is not None and (stood := self.stages.streaming.before_entering()) is not None:
                self._outlet.send(now, peer, stood)
            enter = self.profile.enter(self.versions.head, self.versions.holds_state)
            self._outlet.send(now, peer, enter)

    def lose_peer(self, now: float, peer: bytes) -> None:
        """The node dropped the link to a peer."""
        self.averaging.resume_link(peer)
        self._donor.drop_waiting(peer)
        self._fetches.drop_donor(now, peer)
        self._spot_checks.drop(peer)
        if self.stages is not None:
            self.stages.streaming.link_lost(peer)
        self._follower.advance(now)

    def link_began(self, now: float, peer: bytes, *, anew: bool = False) -> None:
        """A session of the link to a peer began, the first one too, if it did not begin ``anew``."""
        if anew:
            self.begin_session(now, peer)
        if self.stages is not None:
            self.stages.streaming.link_began(now, peer)

    def supersede(self) -> None:
        """A newer process has our identity: what is offered here counts no more."""
        self.contributions.end_decided(Fate.SUPERSEDED, "a newer process runs with this identity")
        self._outlet.deliver(IdentitySuperseded())

    def take_control(self, now: float, peer: bytes, message: Any) -> None:
        """One control message. Raises `BadFrame`."""
        if isinstance(message, Want):
            self._donor.hand_out(now, peer, message)
        elif isinstance(message, NoSwap):
            self.averaging.refused(now, peer, message)
        elif isinstance(message, AMONG_REPLICAS):
            if self.stages is not None:
                self.stages.streaming.take_control(now, peer, message)
        elif isinstance(message, Lack):
            self._fetches.drop_lacking(now, peer, message)
            self._follower.advance(now)
        elif peer == self._coordinator and (handler := self._handlers.get(type(message))):
            self.profile.check(message)
            handler(now, message)

    def take_bulk(self, now: float, peer: bytes, message: Any, payload: Payload, cost: int) -> None:
        """One bulk message; `use_credit` follows every frame. Raises `BadFrame`."""
        if isinstance(message, (PartChunk, MeanChunk)):
            self.averaging.take_chunk(now, peer, message, payload, cost)
            return
        if isinstance(message, EarlyPart):
            self.averaging.take_early(now, peer, message, payload, cost)
            return
        self._outlet.consumed(now, peer, cost)
        if isinstance(message, SpotPart):
            self._spot_checks.take_part(now, peer, message, payload)
            return
        if not isinstance(message, Piece):
            raise BadFrame(f"a payload beside {type(message).__name__}")
        self._fetches.take_piece(now, peer, message, payload)
        self._follower.advance(now)

    def take_stream(self, now: float, peer: bytes, message: Any, payload: Payload, cost: int) -> None:
        """One payload that waits behind no other bulk; `use_credit` follows. Raises `BadFrame`."""
        self._outlet.stream_consumed(now, peer, cost)
        if self.stages is None or not isinstance(message, WITH_PAYLOAD):
            raise BadFrame(f"a payload of a stream beside {type(message).__name__}")
        self.stages.streaming.take_payload(now, peer, message, payload)

    def use_credit(self, now: float) -> None:
        """Some link may have room again, or a chunk came: what waited moves on."""
        if self.stages is not None:
            self.stages.streaming.pump(now)
        if self._donor.waiting:  # looked at after every frame
            self._donor.hand_out_waiting(now)
        self.averaging.pump(now)

    @property
    def busy(self) -> bool:
        """There is work that waits for nothing: `work` does some of it."""
        return self.exchanges.busy or self._fetches.busy

    def work(self, now: float) -> None:
        """Go on with what waits for nothing."""
        if self.exchanges.busy:
            self.averaging.pump(now)
        if self._fetches.busy:
            self._fetches.take_at_hand(now)
            self._follower.advance(now)

    def tick(self, now: float) -> None:
        """Time has passed: look for those who are silent."""
        if self._coordinator != self._me:
            self.coordinator_watch.look(now, self._outlet.last_heard(now, self._coordinator))
        self.averaging.tick(now)
        self._fetches.tick(now)
        self._donor.tick(now)
        self._spot_checks.tick(now)
        self._mean_proofs.tick(now)
        if self.stages is not None:
            self.stages.streaming.tick(now)
        self._follower.advance(now)

    # -- the coordinator's word ---------------------------------------------------------------

    def _entered(self, now: float, message: Entered) -> None:
        self.averaging.entered(now)
        self._follower.enter(now, over=message.over)
        if self._saved is not None:
            self._say_saved(now, self._saved)
        if self._stored is not None:
            self._say_parts(now, self._stored)

    def _say_parts(self, now: float, stored: Stored) -> None:
        """Of which states the disk has a share: others may have the rest."""
        most = max(1, _MAX_PARTS_TOLD // self.profile.manifest.num_fragments)
        for part in [each for each in stored.parts() if each.fragments][:most]:
            held = part.held
            for fragment, (version, state) in enumerate(zip(held.versions, held.digests, strict=True)):
                here = fragment in part.fragments
                told = PartHeld(held.index, held.head, fragment, version, state, here)
                self._outlet.send(now, self._coordinator, told)

    def _partner_left(self, now: float, peer: bytes, reason: str) -> None:
        self.averaging.partner_left(now, peer, reason)

    def _welcome(self, now: float, message: MemberIs) -> None:
        """Somebody entered. What it was asked for before, by its name in a record, is lost: there was no link
        to it, or no member behind that."""
        self.membership.welcome((message,))
        if message.key in self._fetches.donors():
            self._outlet.meet(now, message.key)
            self._fetches.ask_again(now, message.key)

    def _apply_roster_batch(self, now: float, message: RosterBatch) -> None:
        self.membership.apply_batch(now, message)
        self._meet_donors(now)

    def _refusal(self, message: Refused) -> EntryRefused:
        detail, text = message.detail, self.profile.layout
        if message.row >= 0 and text:
            detail = f"{detail}; {tell_rows(text, message.row, message.num_rows)}"
        return EntryRefused(message.code, detail)

    def _host_behind(self, now: float, message: HostBehind) -> None:
        self._outlet.deliver(HostIsBehind(message.index, self.versions.index))
        self._follower.follow_alone(now)

    def _fetch_state(self, now: float, message: CatchUp) -> None:
        if self.versions.holds_state and message.index < self.versions.index:
            self._outlet.deliver(HostIsBehind(message.index, self.versions.index))
            return  # ours is newer, and may be the last one
        self._follower.fetch_state(now, message)
        self._meet_donors(now)
        self._follower.advance(now)

    def _meet_donors(self, now: float) -> None:
        """Have links to those of whom something is fetched, once the roster tells where they are."""
        for donor in sorted(self._fetches.donors()):
            if self._outlet.meet(now, donor):
                self._fetches.ask_again(now, donor)  # what was asked before there was a link is lost

    def _wanted(self, now: float, message: Wanted) -> None:
        self._outlet.deliver(OfferWanted(message.fragment))
        if self.stages is not None:
            self.stages.streaming.others_offer()
