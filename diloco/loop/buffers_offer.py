"""A worker's side of the one round of a model's buffers: when it offers them, waits, and takes the mean.

It offers when the coordinator asks for it, which is after the last round of parameters. Who has seen that
waits to be asked, for its loop may have no step left, and then for the result, for nothing is left to train.
Weighed by the tokens that these buffers have seen here. Owns nothing of the parameters' rounds: those are
`outer_loop`'s. Pure.
"""

from __future__ import annotations

from diloco.errors import NonFiniteContribution, StateError
from diloco.loop.replica import Replica
from diloco.loop.setbacks import Setbacks
from diloco.loop.weights import share_of
from diloco.methods.schedule import Schedule
from peers.protocol.commands import Command, ConfirmApplied, ConfirmLoaded, Offer, RefuseLoaded, TakeBack
from peers.protocol.events import (
    ContributionEnded,
    Fate,
    OfferWanted,
    RoundAborted,
    RoundCommitted,
    RoundOpened,
    StateFetched,
    VersionExpected,
)
from transport.collectives.reducer import Reducer


class BuffersOffer:
    """The buffers of one worker, which are ``fragment`` of ``replica``; None if it has none, and then nothing
    happens."""

    def __init__(self, fragment: int | None, wait_s: float, replica: Replica, setbacks: Setbacks) -> None:
        self.fragments: tuple[int, ...] = () if fragment is None else (fragment,)
        self.tokens = 0
        """That went by these buffers since they began, or were averaged."""
        self.offered: Reducer | None = None
        self.wait_until = 0.0
        self.asked_until = 0.0
        """Until then it waits to be asked."""
        self.wait_s = wait_s
        self._replica = replica
        self._setbacks = setbacks
        self._is_wanted = False
        self._has_stepped = True
        """An inner step was taken since an offer came to nothing."""
        self._in_round = False
        self._is_outdated = False
        """A newer version is on its way here: no offer would be taken."""

    def is_about(self, said: object) -> bool:
        """Whether an event or a command is about the buffers."""
        record = getattr(said, "record", said)
        return getattr(record, "fragment", None) in self.fragments

    @property
    def _fragment(self) -> int:
        return self.fragments[0]

    # -- the training loop's side -------------------------------------------------------------

    def count(self, tokens: int) -> None:
        """Inner steps of so many tokens are done."""
        self.tokens += tokens
        self._has_stepped = True

    @property
    def is_pending(self) -> bool:
        """They are to be offered after the next inner step."""
        return self._is_wanted and self.offered is None

    def due(self, now: float, may_offer: bool) -> list[Command]:
        """The offer, or to take it back because nobody comes for it."""
        if self.offered is not None:
            return [TakeBack(self._fragment)] if not self._in_round and now >= self.wait_until else []
        if not (self.is_pending and may_offer and self._has_stepped) or self._is_outdated:
            return []
        try:
            reducer, norm = self._replica.contribution(self._fragment)
        except NonFiniteContribution as error:
            self._setbacks.buffers_lost(self._fragment, error)
            self._replica.discard(self._fragment)
            self.tokens = 0
            reducer, norm = self._replica.contribution(self._fragment)
        self.offered, self.wait_until = reducer, now + self.wait_s
        return [Offer(self._fragment, 0, max(1, self.tokens), reducer, norm)]

    def told(self, command: Command, done: bool) -> None:
        """What the member answered to a command."""
        if (isinstance(command, Offer) and not done) or (isinstance(command, TakeBack) and done):
            self._over()
        elif isinstance(command, TakeBack):
            self._in_round = True

    def ends(self) -> list[float]:
        """When it gives up what it waits for, or gave it up."""
        return [self.asked_until, *([self.wait_until] if self.offered is not None else [])]

    def waits(self, now: float) -> bool:
        """Whether the training loop is to wait: to be asked, or for the result."""
        return now < self.asked_until or (self.offered is not None and now < self.wait_until)

    # -- the member's side --------------------------------------------------------------------

    def follow(self, wait_s: float) -> None:
        """The run's settings say otherwise from now on, and maybe where it ends."""
        self.wait_s, self.asked_until = wait_s, 0.0

    def committed(self, now: float, index: int, schedule: Schedule, rounds: int) -> None:
        """A round of parameters is over, which is record ``index``; the last of a run of ``rounds``, as far
        as can be told here. The index counts restores too, and the outer steps what a run began with: where
        there are both, it waits too early, and not for long."""
        steps = sum(self._replica.count(fragment) for fragment in range(schedule.num_fragments))
        is_last = min(index, steps * schedule.exchanges_per_step) >= schedule.num_commits(rounds)
        if self.fragments and is_last and not self._is_wanted:
            self.asked_until = now + self.wait_s

    def begin_anew(self) -> None:
        """The run is not at its end, as far as is known: who coordinates asks again."""
        self._is_wanted = self._in_round = False
        self.asked_until = 0.0

    def expect_nothing(self) -> None:
        """No newer version is on its way: the run went back."""
        self._is_outdated, self.asked_until = False, 0.0

    def handle(self, now: float, event: object) -> list[Command]:
        """One event of the member about the buffers."""
        match event:
            case OfferWanted():
                self._is_wanted, self.asked_until = True, 0.0
            case RoundOpened():
                self._in_round, self.wait_until = True, now + 4 * self.wait_s
            case RoundAborted():
                self._in_round, self.wait_until = False, now + self.wait_s
            case ContributionEnded() if event.fate != Fate.APPLIED or event.without_result:
                self._over()
            case VersionExpected():
                self._is_outdated = True
            case RoundCommitted():
                return [self._committed(event)]
            case StateFetched():
                return [self._loaded(event)]
        return []

    def forget(self) -> None:
        """What is held is in a record that is about to be applied, by an earlier life."""
        self._replica.discard(self._fragment)
        self.tokens = 0
        self._over()

    # -- inside -------------------------------------------------------------------------------

    def _over(self) -> None:
        self.offered, self._in_round, self._has_stepped = None, False, False

    def _committed(self, event: RoundCommitted) -> Command:
        ours = self.offered if event.number is not None else None
        self._replica.apply(self._fragment, event.mean, ours, share_of(event), keep_old=False)
        self._replica.land(self._fragment, ours, on_time=True)
        self._over()
        self._is_wanted = self._is_outdated = False
        self.tokens, self.asked_until = 0, 0.0
        return ConfirmApplied(event.record, self._replica.check(self._fragment))

    def _loaded(self, event: StateFetched) -> Command:
        try:
            self._replica.load(self._fragment, event.data)
        except StateError as error:  # before anything changed: this worker goes on with its own
            return RefuseLoaded(self._fragment, event.version, str(error))
        self._over()
        self._is_outdated, self._has_stepped = False, True
        self.tokens, self.asked_until = 0, 0.0
        return ConfirmLoaded(self._fragment, event.version, self._replica.check(self._fragment))
