"""What a replica of a stage computes next, and when its inner step ends: decisions, no tensors and no IO.

A driver tells the loop which inputs and gradients are there, carries out the work that it names and says when
that is done: in one process `in_process` does so. Backward goes before forward and the lowest number first,
which is the order of 1F1B (PipeDream, arXiv 1806.03377) as it is found while links make their own delays;
with a split backward the weights' part comes last, when there is nothing else to do (arXiv 2401.10241). A
step begins the forward of at most a quota of microbatches and ends when each of those was counted, so that
weights change only while nothing is in flight (PP2), and no microbatch's gradient is of other weights than
its forward's. Keeps PP5 on this side: a step names exactly what was counted since the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

from diloco.pipeline.microbatch import MicrobatchId


@dataclass(frozen=True, slots=True)
class Forward:
    """Run the part forward on a microbatch; at the last stage backward too, as one."""

    microbatch: MicrobatchId


@dataclass(frozen=True, slots=True)
class Backward:
    """Run it backward, by the gradient that came."""

    microbatch: MicrobatchId


@dataclass(frozen=True, slots=True)
class Weights:
    """Compute the gradients of weights that its backward left."""

    microbatch: MicrobatchId


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Run it forward only, at the last stage up to the loss: nothing is counted."""

    microbatch: MicrobatchId


@dataclass(frozen=True, slots=True)
class Step:
    """Let the optimizer step with the mean over the ``tokens`` of these microbatches, which were counted in
    this order."""

    microbatches: tuple[MicrobatchId, ...]
    tokens: int


Work = Forward | Backward | Weights | Evaluate | Step


class StageLoop:
    """One replica's inner steps, of ``quota`` microbatches each. A step whose microbatches stay away ends
    with fewer, once ``grace_s`` seconds have passed since it computed something. With ``split_backward`` each
    microbatch has its `Weights` after its backward, in the same order, and is counted then."""

    def __init__(
        self,
        quota: int,
        *,
        is_last: bool,
        grace_s: float,
        split_backward: bool = False,
        ends_early: bool = True,
    ) -> None:
        """Without ``ends_early`` a step does so only if something was given up in it, or others wait: so all
        stages of a line take the same steps."""
        assert quota >= 1, "a step has a microbatch at least"
        assert grace_s > 0, "or a step would end before its second microbatch"
        self.quota = self._next_quota = quota
        self._is_last = is_last
        self._grace_s = grace_s
        self._split_backward = split_backward
        self._waiting: set[MicrobatchId] = set()
        self._evaluations: set[MicrobatchId] = set()
        """Those that wait to go forward only."""
        self._in_flight: set[MicrobatchId] = set()
        """Their forward was begun in this step, and they are not counted."""
        self._gradients: set[MicrobatchId] = set()
        """Those of them whose gradient is there."""
        self._weights_left: list[tuple[MicrobatchId, int]] = []
        """Those of them whose backward left the weights to do, in its order, with their tokens."""
        self._counted: list[MicrobatchId] = []
        self._tokens = 0
        self._began_s = 0.0
        self._idle_since_s = self._now_s = self._worked_s = 0.0
        self._at_hand: Work | None = None
        self._was_at_work = False
        self._always_early = self._may_end_early = ends_early
        self._others_wait = self._at_once = False
        self._more_come = True

    # -- what is there ------------------------------------------------------------------------

    def input_arrived(self, microbatch: MicrobatchId) -> None:
        """A microbatch's input is here: what the stage below computed, or at stage 0 what was fed."""
        self._waiting.add(microbatch)

    def evaluation_arrived(self, microbatch: MicrobatchId) -> None:
        """The input of one that goes forward only is here: it has no place in a step."""
        self._evaluations.add(microbatch)

    def gradient_arrived(self, microbatch: MicrobatchId) -> None:
        """The gradient of what was handed up is here."""
        assert microbatch in self._in_flight, f"{microbatch} is not in flight here"
        self._gradients.add(microbatch)

    def given_up(self, microbatch: MicrobatchId) -> bool:
        """Nothing comes of a microbatch any more: its place in the quota is free. Returns False for one that
        is counted, or about to be, whatever was given up elsewhere."""
        computing = self._is_last and self._at_hand == Forward(microbatch)
        left = any(microbatch == each for each, _ in self._weights_left)
        if computing or left or microbatch in self._gradients:
            return False
        if microbatch in self._evaluations:
            self._evaluations.remove(microbatch)
            return True
        known = microbatch in self._waiting or microbatch in self._in_flight
        self._waiting.discard(microbatch)
        self._in_flight.discard(microbatch)
        self._may_end_early = self._may_end_early or known
        return known

    def refused(self, work: Forward | Backward | Evaluate) -> None:
        """What `next_work` said could not be computed: nothing is counted, and its place in the quota is
        free."""
        assert work is self._at_hand, "it was to be done"
        self._at_hand = None
        self._in_flight.discard(work.microbatch)
        self._gradients.discard(work.microbatch)
        self._may_end_early = self._may_end_early or not isinstance(work, Evaluate)

    def others_wait(self, waits: bool = True, *, at_once: bool = False) -> None:
        """Others of this stage wait for what this one offers, or no more: a step ends early, also with
        nothing, and what there is is offered; ``at_once`` if nothing more comes here."""
        self._others_wait = waits
        self._at_once = waits and at_once

    def take_quota(self, quota: int) -> None:
        """Steps are of so many microbatches, from the next one on."""
        assert quota >= 1, "a step has a microbatch at least"
        self._next_quota = quota
        if self.at_rest:
            self.quota = quota

    def more_come(self, more: bool = True) -> None:
        """Whether inputs are still to come, or none any more: then a step ends at once with what it has."""
        self._more_come = more

    def reset(self) -> None:
        """Begin anew with nothing: whatever was here is over. Not while something is computed."""
        assert self._at_hand is None, "what is computed is to be done first"
        self._waiting.clear()
        self._evaluations.clear()
        self._in_flight.clear()
        self._gradients.clear()
        self._weights_left.clear()
        self._ended_step()

    # -- what a driver asks -------------------------------------------------------------------

    @property
    def num_wanted(self) -> int:
        """How many more inputs this step has use for."""
        return self.quota - self._num_begun - len(self._waiting)

    @property
    def wants_now(self) -> bool:
        """Whether it would compute one of those, if it were here: none waits for its forward."""
        return not self._waiting and self.num_wanted > 0

    @property
    def drained(self) -> bool:
        """Whether nothing of the present step is in flight."""
        return not self._in_flight and self._at_hand is None

    @property
    def at_rest(self) -> bool:
        """Whether nothing of a step is begun."""
        return self.drained and not self._counted

    @property
    def ends_early_at_s(self) -> float | None:
        """When the step ends though it has not all its microbatches, if none comes meanwhile; None while it
        has counted none, or something is in flight."""
        if self.drained and self._counted and not self._waiting and not self._more_come:
            return self._began_s
        if not self.drained or not (self._others_wait or (self._counted and self._may_end_early)):
            return None
        if self._at_once and not self._waiting:
            return self._idle_since_s
        return (self._worked_s if self._counted else self._idle_since_s) + self._grace_s

    def next_work(self, now: float) -> Work | None:
        """What to compute now; None if there is nothing. `done` must follow before it is asked again."""
        assert self._at_hand is None, "one thing is computed at a time"
        if self._was_at_work:
            self._worked_s = now
        self._now_s = now
        self._at_hand = self._choose(now)
        self._was_at_work = self._at_hand is not None
        if self._was_at_work:
            self._worked_s = now
        if isinstance(self._at_hand, Forward):
            if not self._num_begun:
                self._began_s = now
            self._waiting.remove(self._at_hand.microbatch)
            self._in_flight.add(self._at_hand.microbatch)
        return self._at_hand

    def done(self, work: Work, tokens: int = 0) -> None:
        """The driver carried out what `next_work` said. After a backward, and forward at the last stage, it
        says how many tokens the loss had: that counts the microbatch, unless its weights are left to do."""
        assert work is self._at_hand, "it was to be done"
        self._at_hand = None
        match work:
            case Forward() if self._is_last:
                self._went_back(work.microbatch, tokens)
            case Backward():
                self._gradients.remove(work.microbatch)
                self._went_back(work.microbatch, tokens)
            case Weights():
                self._count(*self._weights_left.pop(0))
            case Step():
                self._ended_step()

    # -- inside -------------------------------------------------------------------------------

    @property
    def _num_begun(self) -> int:
        return len(self._counted) + len(self._in_flight)

    def _choose(self, now: float) -> Work | None:
        if self._gradients:
            return Backward(min(self._gradients, key=_age))
        if self._evaluations:
            oldest = min(self._evaluations, key=_age)
            self._evaluations.remove(oldest)
            return Evaluate(oldest)
        if len(self._counted) == self.quota:
            return self._step()
        if self._waiting and self._num_begun < self.quota:
            return Forward(min(self._waiting, key=_age))
        if self._weights_left:
            return Weights(self._weights_left[0][0])
        early = self.ends_early_at_s
        return self._step() if early is not None and now >= early else None

    def _ended_step(self) -> None:
        self._counted.clear()
        self._tokens, self.quota = 0, self._next_quota
        self._idle_since_s = self._now_s
        self._may_end_early = self._always_early

    def _step(self) -> Step:
        return Step(tuple(self._counted), self._tokens)

    def _went_back(self, microbatch: MicrobatchId, tokens: int) -> None:
        if self._split_backward:
            self._weights_left.append((microbatch, tokens))
        else:
            self._count(microbatch, tokens)

    def _count(self, microbatch: MicrobatchId, tokens: int) -> None:
        self._in_flight.remove(microbatch)
        self._counted.append(microbatch)
        self._tokens += tokens


def _age(microbatch: MicrobatchId) -> tuple[int, MicrobatchId]:
    """The lowest number is the oldest, whatever came first: sums round by their order, and all stages of a
    line are to count in the same one (PP4)."""
    return microbatch.number, microbatch
