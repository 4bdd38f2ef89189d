"""A member's microbatches: which are here, what is sent to whom, and what becomes of each.

It puts the parts of the stream together: `receiving` and `sending` move payloads, `cuts` and `ending` decide
what happens when replicas are gone, `asking` finds out what others have. It owns no tensor and computes
nothing: payloads are opaque, and what is computed next is the training thread's affair. Keeps PP1, PP3, PP7
and PP8 on the member's side.

A membership that is over takes everything with it that it had not offered (S14): a new one begins with an
empty state. Nothing is done on the word of a link: who is gone is what the coordinator says, in the order of
epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peers.protocol.placing import Wiring
from peers.protocol.stage_work import (
    Cause,
    ConfirmOpened,
    Counted,
    Drain,
    Drained,
    Evaluated,
    Feed,
    FeedMore,
    ForwardBegan,
    ForwardDone,
    How,
    MayStepEarly,
    MicrobatchId,
    MoreCome,
    QuotaIs,
    RefuseTensor,
    StageCommand,
    Stepped,
    StreamOpened,
    TellEnds,
)
from peers.protocol.stream import (
    Ask,
    AskTargets,
    Backward,
    Draining,
    Ended,
    EndsAre,
    Evaluation,
    Feeding,
    Forward,
    GradientHeard,
    Has,
    Holding,
    Meet,
    ReplicaGone,
    ReplicaIs,
    RosterIs,
    Slots,
    StandsSince,
    Targets,
)
from peers.routing import asking, cuts, ending, receiving, sending, sessions
from peers.routing.replicas import Replicas
from peers.routing.state import Fed, Item, Name, Pair, Phase, StreamOutlet, StreamState, StreamTerms
from peers.routing.wiring import Wires, quota_of
from transport.effects import Payload
from transport.errors import BadFrame

AMONG_REPLICAS = (Meet, Holding, Slots, GradientHeard, Ended, Evaluation, Ask, Has, AskTargets)
"""Control messages that replicas say to each other."""
WITH_PAYLOAD = (Forward, Targets, Backward)


class _Gate:
    """The node, whose training thread hears nothing of a membership before it has dropped the last one's."""

    def __init__(self, node: StreamOutlet) -> None:
        self.send, self.send_stream, self.stream_room = node.send, node.send_stream, node.stream_room
        self.is_open = False
        self._node = node
        self._waiting: list[object] = []

    def deliver(self, event: object) -> None:
        """Now, or once the gate is open."""
        if self.is_open:
            self._node.deliver(event)
        else:
            self._waiting.append(event)

    def open(self) -> None:
        """The training thread is ready."""
        self.is_open = True
        for event in self._waiting:
            self._node.deliver(event)
        self._waiting.clear()

    def close(self, opened: StreamOpened) -> None:
        """A membership begins, or its beginning is told once more."""
        self.is_open = False
        self._node.deliver(opened)

    def begin_anew(self) -> None:
        """What was to be told of the last membership is over with it."""
        self._waiting.clear()


class Streaming:
    """Commands come from the training thread, messages from the node; answers are events."""

    def __init__(
        self,
        key: bytes,
        terms: StreamTerms,
        outlet: StreamOutlet,
        to_coordinator: Callable[[float, Any], None],
        heard: Callable[[float], None] = lambda now: None,
    ) -> None:
        """``heard(now)`` is called when fewer gradients wait to be acknowledged than before."""
        self._key = key
        self._terms = terms
        self._gate = _Gate(outlet)
        self._lost_count = False
        """The training thread has counted something that this membership knows nothing of."""
        self._to_coordinator = to_coordinator
        self._heard = heard
        self._feeds = True
        self._links: set[bytes] = set()
        """Peers with a link that is up."""
        self.state = self._begin(0)

    def _begin(self, since: int) -> StreamState:
        wires = Wires(self._terms.wiring, self._terms.seed)
        return StreamState(self._key, since, self._terms, self._gate, Replicas(self._terms.stages), wires)

    @property
    def confirmed(self) -> bool:
        """Whether the training thread holds nothing of an earlier membership."""
        return self._gate.is_open

    @property
    def stands(self) -> bool:
        """Whether this member has a membership."""
        return self.state.since > 0

    def unheard(self) -> frozenset[Name]:
        """Microbatches counted here that an offer may not hold yet."""
        return frozenset(self.state.unheard_gradients)

    def wants(self, key: bytes) -> bool:
        """Whether there is to be a link to a peer for microbatches."""
        replica = self.state.replicas.of(key)
        return replica is not None and self.state.exchanges_with(replica.stage)

    # -- the coordinator ----------------------------------------------------------------------

    def before_entering(self) -> StandsSince | None:
        """What is said before this member enters again."""
        return StandsSince(self.state.since) if self.stands else None

    def stand(self, now: float, message: StandsSince) -> bool:
        """The coordinator says which membership this is: the one that it was, or a new one. Returns whether
        what was counted and not offered to the coordinator is void, for others may count it again: then
        nothing of it may be offered any more."""
        void = False
        if message.since != self.state.since:
            void = bool(self.state.unheard_gradients)
            for number in sorted(self.state.fed):
                ending.end(self.state, now, number, How.PARTIAL, 1, Cause.FEEDER_GONE)
            self._gate.begin_anew()
            self.state = self._begin(message.since)
            self._gate.close(StreamOpened(message.since, void))
        else:  # a coordinator that restarted does not know
            self.state.feeds = True
            if self.state.drains:
                self._to_coordinator(now, Draining(self.state.since))
        self.state.replicas.begin_list()
        return void

    def roster_is(self, now: float, message: RosterIs) -> None:
        """All replicas were told of."""
        for gone in self.state.replicas.end_list(message.epoch):
            cuts.membership_ended(self.state, now, gone)
        cuts.find_cuts(self.state, now)
        self._after_news(now)

    def replica_is(self, now: float, message: ReplicaIs) -> None:
        """A replica is in. Raises `BadFrame` for one of a stage that the model does not have."""
        if message.stage >= self._terms.stages:
            raise BadFrame(f"a replica of stage {message.stage} of {self._terms.stages}")
        is_new = self.state.replicas.standing(message.since) is None
        for gone in self.state.replicas.hear(message):
            cuts.membership_ended(self.state, now, gone)
        if is_new and message.key in self._links:
            sessions.meet(self.state, now, message.key)
        self._after_news(now)

    def replica_gone(self, now: float, message: ReplicaGone) -> None:
        """Memberships of a replica are over."""
        for gone in self.state.replicas.hear_gone(message):
            cuts.membership_ended(self.state, now, gone)
        self._after_news(now)

    def _after_news(self, now: float) -> None:
        self._tell_what_comes()
        receiving.hand_over(self.state, now)
        ending.tell_may_feed(self.state)
        asking.answer_waiting(self.state, now)
        self._heard(now)

    def _tell_what_comes(self) -> None:
        """The training thread hears what news mean for its steps."""
        state, terms = self.state, self._terms
        comes = terms.stage == 0 or state.wires.is_fed(state.replicas, terms.stage, state.since)
        if comes != state.more_come:
            state.more_come = comes
            self._gate.deliver(MoreCome(comes))
        if terms.wiring is Wiring.LINES:
            return
        quota = quota_of(terms.wiring, state.replicas, terms.stage, state.since, terms.quota)
        if quota != state.quota:
            state.quota = quota
            self._gate.deliver(QuotaIs(quota))

    def others_offer(self) -> None:
        """Others of this stage wait for what this member offers."""
        self._gate.deliver(MayStepEarly(not self.state.more_come and not self.state.items))

    # -- links --------------------------------------------------------------------------------

    def link_began(self, now: float, key: bytes) -> None:
        """A session with a peer begins: whatever was on its way is lost, on both ways."""
        self._links.add(key)
        self.state.pairs.pop(key, None)
        sessions.meet(self.state, now, key)

    def link_lost(self, key: bytes) -> None:
        """There is no link to a peer any more."""
        self._links.discard(key)
        self.state.pairs.pop(key, None)

    def pump(self, now: float) -> None:
        """Some link may have room again."""
        sending.pump_all(self.state, now)

    def tick(self, now: float) -> None:
        """Time has passed."""
        asking.ask_about_slow(self.state, now)
        if self._terms.stage == 0:
            self._tell_feeding(now)
        if self.state.drains and not self.state.items and not self.state.drained:
            self.state.drained = True
            self._gate.deliver(Drained())

    # -- the training thread ------------------------------------------------------------------

    def do(self, now: float, command: StageCommand) -> bool:
        """Carry out a command of the training thread; False if it was not taken."""
        if not self.confirmed and not isinstance(command, ConfirmOpened):
            self._lost_count |= isinstance(command, Counted)
            return False  # it is about what an earlier membership had
        match command:
            case Feed():
                return self._feed(now, command)
            case ForwardBegan():
                item = self._item(command.microbatch)
                if item is not None and item.phase is Phase.WAITING:
                    item.phase = Phase.BEGUN
                    ending.free_slot(self.state, now, item)
            case ForwardDone():
                item = self._item(command.microbatch)
                if item is not None and item.phase is Phase.BEGUN:
                    item.phase, item.payload, item.since_s = Phase.UP, command.payload, now
                    cuts.went_forward(self.state, now, item)
            case Counted():
                self._count(now, command)
            case Evaluated():
                item = self._item(command.microbatch)
                if item is not None and item.evaluates and item.phase is Phase.BEGUN:
                    ending.evaluated(self.state, now, item, command.loss_sum, command.tokens)
            case RefuseTensor():
                self._refuse(now, command)
            case FeedMore():
                self._feeds = command.more
                self._tell_feeding(now)
            case Drain():
                self.state.drains = True
                self._to_coordinator(now, Draining(self.state.since))
            case TellEnds():
                self._to_coordinator(
                    now, EndsAre(self.state.since, command.settled, command.partial, command.lost)
                )
            case ConfirmOpened():
                self._confirm(command)
            case Stepped():
                pass  # whoever watches sees it
        return True

    def _confirm(self, command: ConfirmOpened) -> None:
        if command.membership != self.state.since or self.confirmed:
            return
        if self._lost_count:  # meanwhile: it is void like what was counted before
            self._lost_count = False
            self._gate.close(StreamOpened(self.state.since, void=True))
        else:
            self._gate.open()

    def _feed(self, now: float, feed: Feed) -> bool:
        state, number = self.state, feed.number
        if self._terms.stage or not self.stands or state.drains or number != state.next_number:
            return False
        path = None
        if number < state.may_feed:
            paths = [each.path for each in state.items.values()]
            path = state.wires.path(state.replicas, state.since, number, paths)
        if path is None:
            state.blocked = True
            return False
        state.next_number += 1
        name = (state.since, number)
        state.fed[number] = Fed(feed.targets, feed.evaluates)
        item = Item(name, state.id_of(name), list(path), 0, Phase.BEGUN, since_s=now, told=True)
        item.evaluates = feed.evaluates
        state.items[name] = item
        sending.send_targets(state, now, number, path[-1])
        return True

    def _tell_feeding(self, now: float) -> None:
        """The coordinator hears of the end of what is fed once nothing of it is under way."""
        told = self._feeds or bool(self.state.fed)
        if told != self.state.feeds and self.stands:
            self.state.feeds = told
            self._to_coordinator(now, Feeding(self.state.since, told))

    def _count(self, now: float, counted: Counted) -> None:
        item = self._item(counted.microbatch)
        ready = Phase.BEGUN if self._terms.is_last else Phase.BACK
        if item is None or item.phase is not ready or item.evaluates:
            return  # of an earlier membership
        feeder, number = item.name
        if not self.state.replicas.is_over(feeder):
            self.state.past_of(feeder).counted[number] = item.below
        item.phase, item.payload, item.tokens = Phase.COUNTED, counted.payload, counted.tokens
        if self._terms.stage == 0:
            del self.state.items[item.name]
            ending.end(self.state, now, number, How.SETTLED, 0, Cause.NONE)
        elif self.state.replicas.is_over(item.below):
            del self.state.items[item.name]
        else:
            sending.send_gradient(self.state, now, item)

    def _refuse(self, now: float, refused: RefuseTensor) -> None:
        item = self._item(refused.microbatch)
        if item is None or item.phase is Phase.COUNTED:
            return
        how = How.PARTIAL if item.phase is Phase.BACK else How.LOST
        if item.phase is Phase.BACK:  # those above have counted it
            item.phase = Phase.UP
        item.told = False  # the training thread has dropped it
        stage = self._terms.stage + 1 if how is How.PARTIAL else 0
        ending.give_up(self.state, now, item, how, stage, Cause.REFUSED)

    def _item(self, microbatch: MicrobatchId) -> Item | None:
        item = self.state.items.get((microbatch.incarnation, microbatch.number))
        return item if item is not None and item.id == microbatch else None

    # -- other replicas -----------------------------------------------------------------------

    def take_control(self, now: float, peer: bytes, message: Any) -> None:
        """One control message of another replica. Raises `BadFrame`."""
        if isinstance(message, (Meet, Holding)):
            sessions.take(self.state, now, peer, message)
            return
        pair = self.state.pairs.get(peer)
        if pair is None or not self.state.is_mine(pair, message.me, message.you):
            return
        match message:
            case Slots():
                pair.may_send_up = max(pair.may_send_up, message.total)
                sending.pump(self.state, now, pair)
            case GradientHeard():
                self._gradient_heard(now, pair, (message.feeder, message.number))
            case Ended():
                self._ended_above(now, pair, message)
            case Evaluation():
                self._evaluated_above(now, pair, message)
            case Ask():
                asking.asked(self.state, now, pair, message)
            case Has():
                asking.answered(self.state, now, pair, message)
            case AskTargets():
                self._asked_for_targets(now, pair, message.number)

    def take_payload(self, now: float, peer: bytes, message: Any, payload: Payload) -> None:
        """One payload of another replica. Raises `BadFrame`."""
        pair = self.state.pairs.get(peer)
        if pair is None or not self.state.is_mine(pair, message.me, message.you):
            return
        match message:
            case Forward():
                receiving.take_forward(self.state, now, pair, message, payload)
            case Targets():
                receiving.take_targets(self.state, now, pair, message, payload)
            case Backward():
                receiving.take_backward(self.state, now, pair, message, payload)

    def _gradient_heard(self, now: float, pair: Pair, name: Name) -> None:
        item = self.state.items.get(name)
        if item is not None and item.phase is Phase.COUNTED and item.below == pair.since:
            del self.state.items[name]
            self._heard(now)

    def _evaluated_above(self, now: float, pair: Pair, message: Evaluation) -> None:
        """The loss of one that was sent up to evaluate comes down its path. Raises `BadFrame` for a weight
        that no microbatch has."""
        receiving.require_tokens(self._terms, message.tokens)
        item = self.state.items.get((message.feeder, message.number))
        if item is None or not item.evaluates or item.phase is not Phase.UP:
            return
        if item.path[self._terms.stage + 1] == pair.since:
            ending.evaluated(self.state, now, item, message.loss_sum, message.tokens)

    def _ended_above(self, now: float, pair: Pair, message: Ended) -> None:
        """Nothing comes from above of one that was sent there; at the last stage, of one whose targets its
        feeder has no more. Raises `BadFrame` for a stage that the model does not have."""
        if message.stage >= self._terms.stages:
            raise BadFrame(f"a microbatch that ended at stage {message.stage} of {self._terms.stages}")
        item = self.state.items.get((message.feeder, message.number))
        if item is None or item.loses_nothing:
            return
        how, cause = How(message.how), Cause(message.cause)
        if self._terms.is_last:
            if item.phase is Phase.WAITING and not item.told and pair.since == item.name[0]:
                ending.give_up(self.state, now, item, How.PARTIAL, self._terms.stage, Cause.OVER)
        elif item.phase is Phase.UP and item.path[self._terms.stage + 1] == pair.since:
            ending.give_up(self.state, now, item, how, message.stage, cause)

    def _asked_for_targets(self, now: float, pair: Pair, number: int) -> None:
        replica = self.state.replicas.of(pair.key)
        if self._terms.stage or replica is None or replica.stage != self._terms.stages - 1:
            raise BadFrame("targets are asked for by another stage than the last one, or of no feeder")
        if number in self.state.fed:
            sending.send_targets(self.state, now, number, pair.since)
        else:
            name = (self.state.since, number)
            ending.say_ended(self.state, now, pair.since, name, How.PARTIAL, 0, Cause.OVER)
