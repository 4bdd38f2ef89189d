"""Bugs that the model must find: each a stream, a loop or a public function that breaks one rule."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from diloco.pipeline.microbatch import MicrobatchId
from diloco.pipeline.stage_loop import StageLoop, Work
from peers.protocol.stream import Ask, ReplicaGone, StandsSince
from peers.routing import asking, cuts, ending, receiving, sending, sessions
from peers.routing.state import Name, StreamState
from peers.routing.streaming import Streaming


class OffersTooEarly(Streaming):
    """An offer does not wait until its gradients were acknowledged."""

    def unheard(self) -> frozenset[Name]:
        return frozenset()


class PromisesTooEarly(Streaming):
    """Says that it has not got a microbatch before it takes nothing more of who is gone."""

    def take_control(self, now: float, peer: bytes, message: Any) -> None:
        super().take_control(now, peer, replace(message, epoch=0) if isinstance(message, Ask) else message)


class KeepsWhatIsVoid(Streaming):
    """Its membership ended, and what it counted is offered all the same."""

    def stand(self, now: float, message: StandsSince) -> bool:
        if message.since != self.state.since:
            self.state.items.clear()
        return super().stand(now, message)


class BelievesLinks(Streaming):
    """Takes a member for gone that greets anew, before the coordinator says so."""

    def link_began(self, now: float, key: bytes) -> None:
        replica = self.state.replicas.of(key)
        if replica is not None:
            self.replica_gone(now, ReplicaGone(replica.since + 1, key))
        super().link_began(now, key)


class StepsInFlight(StageLoop):
    """A step ends though something is in flight."""

    def __init__(self, quota: int, **more: Any) -> None:
        super().__init__(quota, **{**more, "ends_early": True})

    @property
    def drained(self) -> bool:
        return True


class KeepsQuota(StageLoop):
    """What is given up keeps its place in the quota."""

    def given_up(self, microbatch: MicrobatchId) -> bool:
        return False


class CountsByArrival(StageLoop):
    """Computes in the order in which tensors come."""

    def __init__(self, quota: int, **more: Any) -> None:
        super().__init__(quota, **more)
        self.inputs: deque[MicrobatchId] = deque()
        self.gradients: deque[MicrobatchId] = deque()

    def input_arrived(self, microbatch: MicrobatchId) -> None:
        self.inputs.append(microbatch)

    def gradient_arrived(self, microbatch: MicrobatchId) -> None:
        self.gradients.append(microbatch)

    @property
    def num_wanted(self) -> int:
        return super().num_wanted - len(self.inputs)

    def next_work(self, now: float) -> Work | None:
        if self.gradients:
            super().gradient_arrived(self.gradients.popleft())
        elif self.inputs and super().num_wanted > 0:
            super().input_arrived(self.inputs.popleft())
        return super().next_work(now)


def too_far(state: StreamState) -> int:
    """Everything is said to be over that was fed."""
    return state.next_number


def nothing(*args: Any, **more: Any) -> None:
    """Instead of something."""


@dataclass(frozen=True)
class Bug:
    """What is planted, and the seed that shows it, or the story."""

    seed: int | None = None
    story: str = ""
    stream: Callable[..., Streaming] = Streaming
    loop: Callable[..., StageLoop] = StageLoop
    faulty: bool = True
    patches: tuple[tuple[Any, str, Any], ...] = ()


BUGS = {
    "send again without asking": Bug(
        story="test_one_that_was_passed_on_goes_on_above_the_cut_and_is_given_up_below",
        patches=((cuts, "ask_above_the_cut", cuts.replace_above),),
    ),
    "an offer before its gradients were acknowledged": Bug(
        story="test_an_offer_waits_until_its_gradients_were_acknowledged", stream=OffersTooEarly
    ),
    "no without the promise": Bug(
        story="test_a_question_is_answered_once_its_epoch_was_heard", stream=PromisesTooEarly
    ),
    "a step with one in flight": Bug(1, loop=StepsInFlight),
    "the quota is not given back on a cut": Bug(5, loop=KeepsQuota),
    "a slot is not given back": Bug(0, patches=((ending, "grant_one", nothing),)),
    "an end above is not told below": Bug(
        story="test_nobody_waits_for_a_stage_that_nobody_holds", patches=((ending, "say_ended", nothing),)
    ),
    "the order of counting is that of arrival": Bug(9, loop=CountsByArrival, faulty=False),
    "a mark that moves too far": Bug(0, patches=((StreamState, "mark", property(too_far)),)),
    "a gradient is acknowledged to nobody": Bug(0, patches=((sending, "send_gradient", nothing),)),
    "what a link lost is not sent again": Bug(32, patches=((sessions, "send_all_again", nothing),)),
    "the last replica asks nobody for targets": Bug(
        2, patches=((receiving, "ask_targets", nothing), (asking, "ask_targets", nothing))
    ),
    "a membership ends at the word of a link": Bug(0, stream=BelievesLinks),
    "what an ended membership counted is offered": Bug(1014, stream=KeepsWhatIsVoid),
}
