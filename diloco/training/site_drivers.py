"""The driver of each rank of a site: the first one drives the worker, the others do what it orders.

All ranks meet where an inner step is over, before a batch is drawn, and where the outer parameters are lent:
each says what it did, rank 0 takes the sums, drives its session as a single process does (`driver`), and ends
the meeting with how things stand. Owns meetings and what a broken one leads to. What the words come to is
`site_words`' affair.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from diloco.errors import DilocoError, SiteBroken, UserError
from diloco.outer.inner_state import InnerState, Optimizers
from diloco.outer.layout import Layout
from diloco.training.driver import WorkerDriver
from diloco.training.lending import show_outer
from diloco.training.site_link import SiteLink
from diloco.training.site_tensors import SiteTensors
from diloco.training.site_terms import About
from diloco.training.site_words import Agreed, Facts, Order, Said, agreed, go

_LOG = logging.getLogger("diloco")
_PULSE_S = 1.0
"""So often rank 0 tells the others that it waits for the network."""


class Meetings:
    """Rank 0's side of the meetings of one site."""

    def __init__(self, link: SiteLink) -> None:
        self.link = link
        self._pulse_s = 0.0

    @contextmanager
    def meet(self, said: Said) -> Iterator[tuple[Agreed, list[Said]]]:
        """All ranks are where rank 0 is, or the site ends: what they said. Within, rank 0 gives orders; the
        caller ends it by `end`, and an error ends it for all."""
        heard = [said, *(Said.from_bytes(each) for each in self.link.collect())]
        together = agreed(heard)
        try:
            if together.error:
                raise UserError(together.error)
            yield together, heard
        except BaseException as error:
            self.fail(error)
            raise

    def go_on(self, facts: Facts) -> None:
        """The meeting is over."""
        self.link.tell(go(facts).to_bytes())

    def fail(self, error: BaseException) -> None:
        """No rank goes on."""
        text = str(error) or type(error).__name__
        try:
            self.link.tell(Order("end", text=text, mendable=isinstance(error, UserError)).to_bytes())
        except SiteBroken as lost:
            _LOG.debug("not all ranks were told: %s", lost)

    def pulse(self) -> None:
        """Rank 0 waits, and the others for it: say so now and then, which finds out who is gone."""
        now = time.monotonic()
        if now - self._pulse_s >= _PULSE_S:
            self._pulse_s = now
            self.link.tell(Order("wait").to_bytes())


class SiteState(InnerState):
    """Optimizer state and buffers on all ranks, as rank 0 asks for it."""

    def __init__(self, model: nn.Module, optimizers: Optimizers, link: SiteLink) -> None:
        super().__init__(model, optimizers)
        self._link = link

    def have_taken(self, steps: int) -> None:
        """The moments of all parameters are those of at least so many steps."""
        self._link.tell(Order("taken", steps).to_bytes())
        super().have_taken(steps)

    def mend(self) -> list[str]:
        """Begin anew with what is not finite, on all ranks; what rank 0 says of its own."""
        self._link.tell(Order("mend").to_bytes())
        return super().mend()


class Attending:
    """What the loop on any rank told, for its next word."""

    def __init__(self) -> None:
        self.asked = False
        """To train no further; the site does so once all ranks know."""
        self.loss: float | None = None

    def said(self, place: str, tokens: int = 0, *, out: bool = False, failed: str = "") -> Said:
        """The word of this rank."""
        loss, self.loss = self.loss, None
        return Said(place, tokens, loss, self.asked, out, failed)


class Speaker(WorkerDriver):
    """Rank 0's driver. ``meetings`` and ``told`` are the site's; the rest as for `WorkerDriver`."""

    meetings: Meetings
    told: Attending

    def meet(self, said: Said, *, tokens: int | None = None) -> Facts:
        """Meet the others, step if there are ``tokens``, and end the meeting. Raises what `stepped` does, and
        `SiteBroken`, of which the swarm is told."""
        try:
            with self.meetings.meet(said) as (together, _):
                if together.loss is not None:
                    self.session.loss = together.loss
                if tokens is not None:
                    super().stepped(together.tokens)
                self.stopping = self.stopping or together.stop or self.told.asked
                facts = replace(self.facts(), stop=self.stopping, out=together.out is not None)
                self.meetings.go_on(facts)
                return facts
        except SiteBroken as error:
            raise self.broken(error) from error

    def stepped(self, tokens: int, seconds: float | None = None) -> None:
        """An inner step of all ranks is over."""
        self.meet(self.told.said("optimizer.step", tokens), tokens=tokens)

    def show_all(self) -> None:
        """The outer parameters, on all ranks."""
        try:
            with self.meetings.meet(self.told.said("outer.outer_parameters")):
                show_outer(self.replica)
                self.meetings.go_on(replace(self.facts(), stop=self.stopping))
        except SiteBroken as error:
            raise self.broken(error) from error

    def idle(self) -> None:
        """While it waits for the network."""
        self.stopping = self.stopping or self.told.asked
        self.meetings.pulse()

    def facts(self) -> Facts:
        """For the other ranks."""
        session = self.session
        return Facts(
            step=session.steps,
            swarm_step=session.swarm_step,
            tokens=session.tokens,
            loss=session.loss,
            waited_s=session.waited_s,
            round=session.round,
            lag=session.lag,
            active=session.active,
            finished=session.finished,
            tokens_per_second=session.tokens_per_second(time.monotonic()),
            pseudo_grad_norm=self.pseudo_grad_norm,
            fates=session.tokens_by_fate,
        )

    def broken(self, error: SiteBroken) -> SiteBroken:
        """Leave the run in order, and say what became of what the site trained."""
        whole = SiteBroken(f"{error}: {self.story()}")
        self.swarm.close(f"failed: {error}")
        return whole

    def story(self) -> str:
        """What a site that ends has to say."""
        session = self.session
        in_model = session.tokens_by_fate["applied"]
        return (
            f"the site leaves the run behind step {session.steps}; of {session.tokens:,} tokens that it"
            f" trained {in_model:,} are in the shared model, and {session.lag} steps since its last offer are"
            " lost"
        )


class Followed:
    """A worker as another rank of its site knows it: by the facts that it was told (`WorkerSession`)."""

    def __init__(self) -> None:
        self.facts = Facts()
        self.loss = 0.0

    def learn(self, facts: Facts) -> None:
        """The newest."""
        self.facts, self.loss = facts, facts.loss

    @property
    def steps(self) -> int:
        return self.facts.step

    @property
    def swarm_step(self) -> int:
        return self.facts.swarm_step

    @property
    def tokens(self) -> int:
        return self.facts.tokens

    @property
    def tokens_by_fate(self) -> dict[str, int]:
        return dict(self.facts.fates)

    @property
    def waited_s(self) -> float:
        return self.facts.waited_s

    @property
    def round(self) -> int:
        return self.facts.round

    @property
    def finished(self) -> bool:
        return self.facts.finished

    @property
    def active(self) -> bool:
        return self.facts.active

    @property
    def lag(self) -> int:
        return self.facts.lag

    def tokens_per_second(self, now: float) -> float:
        """As of the last step."""
        return self.facts.tokens_per_second


class FollowedReplica:
    """The tensors of a site on another rank than the first, which alone has the outer state."""

    def __init__(self, model: SiteTensors, rank: int) -> None:
        self.model = model
        self._rank = rank

    @property
    def layout(self) -> Layout:
        return self.model.layout

    def __getattr__(self, name: str) -> object:
        raise AttributeError(f"{name}: rank 0 of a site has its outer state, and this is rank {self._rank}")


class Follower:
    """The driver of any other rank: what `Outer` asks of a `WorkerDriver`."""

    keeping = None

    def __init__(
        self, link: SiteLink, tensors: SiteTensors, inner: InnerState, told: Attending, first: Said
    ) -> None:
        self.link, self.told = link, told
        self._first = first
        self.session = Followed()
        self.replica = FollowedReplica(tensors, link.rank)
        self.stopping = False
        self._inner = inner

    @property
    def pseudo_grad_norm(self) -> float:
        """As rank 0 has it."""
        return self.session.facts.pseudo_grad_norm

    @property
    def num_parameters(self) -> int:
        """Values that are exchanged, but for averaged moments."""
        layout = self.replica.layout
        every = sum(
            spec.num_elements
            for specs in layout.fragments
            for spec in specs
            if not spec.name.startswith(("exp_avg/", "exp_avg_sq/"))
        )
        return every - sum(each.numel() for each in self.replica.model.buffers())

    def enter(self, timeout_s: float) -> None:
        """Take part; the model holds the shared state then."""
        self.meet(self._first)

    def stepped(self, tokens: int, seconds: float | None = None) -> None:
        """An inner step of all ranks is over."""
        self.meet(self.told.said("optimizer.step", tokens))

    def show_all(self) -> None:
        """The outer parameters, on all ranks."""
        self.meet(self.told.said("outer.outer_parameters"))

    def meet(self, said: Said, *, tokens: int | None = None) -> Facts:
        """Say it, and do what rank 0 orders until it goes on. Raises `UserError` and `SiteBroken` where that
        ends, with its words."""
        self.link.say(said.to_bytes())
        while (order := Order.from_bytes(self.link.hear())).do != "go":
            self._carry_out(order)
        self.session.learn(order.told)
        self.stopping = self.stopping or order.told.stop
        return order.told

    def _carry_out(self, order: Order) -> None:
        match order.do:
            case "end":
                raise ended(order)
            case "wait":
                pass
            case "boxes":
                abouts = [About.from_text(each) for each in json.loads(order.text)]
                self.replica.model.plan(self.link, [each.boxes for each in abouts])
                self.replica.model.gather_frozen()
            case "mend":
                self._inner.mend()
            case "taken":
                self._inner.have_taken(order.number)
            case _:
                self.replica.model.carry_out(order)


def ended(order: Order) -> DilocoError:
    """Why this rank goes no further."""
    return UserError(order.text) if order.mendable else SiteBroken(f"rank 0 of this site ended: {order.text}")
