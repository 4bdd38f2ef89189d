"""`attach` with a process group: several ranks train one model, and are one worker of the swarm.

Owns what the ranks compare before they begin, and the loop's side of a site. Rank 0 has the swarm and the
outer state and speaks for all (`site_drivers`); what is landed lands on all ranks behind the same step.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

from diloco.checkpoints.own import Stateful
from diloco.errors import DilocoError, LayoutError, OptimizerUndoes, UserError
from diloco.methods.spec import Method
from diloco.outer.inner_state import InnerState
from diloco.outer.layout import Layout
from diloco.outer.replica import TensorReplica, require_inner
from diloco.outer.shards import local_part
from diloco.settings import RunSettings
from diloco.swarm.swarm import Swarm
from diloco.training.driver import WorkerDriver
from diloco.training.fitting import require_stepped
from diloco.training.outer import Outer
from diloco.training.site_drivers import Attending, Follower, Meetings, SiteState, Speaker, ended
from diloco.training.site_link import SiteLink, require_group
from diloco.training.site_saving import write_site
from diloco.training.site_tensors import SiteTensors, reshard
from diloco.training.site_terms import About, difference
from diloco.training.site_words import Order, Said

_LOG = logging.getLogger("diloco")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Terms:
    """What rank 0 tells the others of the run before they look at their model."""

    settings: RunSettings
    data_seed: int

    def order(self) -> Order:
        return Order("terms", self.data_seed, self.settings.to_bytes().decode())

    @classmethod
    def of(cls, order: Order) -> _Terms:
        return cls(RunSettings.from_bytes(order.text.encode()), order.number)


@dataclass(frozen=True, slots=True)
class _Heard:
    """The swarm on a rank that does not speak: the run's settings, and whose data is drawn."""

    settings: RunSettings
    data_seed: int
    attached: None = None


@dataclass(frozen=True, slots=True)
class _Given:
    """What a loop handed to `attach` on one rank."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    tokens_per_step: int | None
    on_event: Callable[[object], None] | None
    keep: Mapping[str, Stateful] | None

    def tensors(self, method: Method) -> SiteTensors:
        """The model as this rank has it. Raises `LayoutError` and `UserError`."""
        if self.keep:
            raise UserError(
                f"keep={sorted(self.keep)}: a site keeps the shared state alone; what is each rank's own is"
                " the loop's to save"
            )
        require_stepped(self.model, self.optimizers)
        reshard(self.model)
        layout = Layout.of(
            self.model, method.num_fragments, pattern=method.fragment_pattern, modules=method.fragment_modules
        )
        moments = self.optimizers if method.moments_every else None
        found = SiteTensors.of(layout, self.model, moments, buffers=method.buffers == "mean")
        found.modules = self.model
        return found


def attach_site(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    swarm: Swarm | None,
    group: dist.ProcessGroup,
    *,
    tokens_per_step: int | None,
    timeout_s: float,
    on_event: Callable[[object], None] | None,
    keep: Mapping[str, Stateful] | None,
) -> SiteOuter:
    """`attach` on one rank of ``group``; see there."""
    require_group(group)
    given = _Given(model, optimizers, tokens_per_step, on_event, keep)
    link = SiteLink(group, timeout_s)
    if link.rank:
        return _follow(link, given, swarm, timeout_s)
    return _speak(link, given, swarm, timeout_s)


def _speak(link: SiteLink, given: _Given, swarm: Swarm | None, timeout_s: float) -> SiteOuter:
    meetings, told = Meetings(link), Attending()
    try:
        swarm = _checked(swarm)
        method = swarm.settings.method.resolved()
        link.tell(_Terms(swarm.settings, swarm.data_seed).order().to_bytes())
    except BaseException as error:
        meetings.fail(error)
        raise
    tensors, said = _described(given, method, told)
    with meetings.meet(said) as (_, heard):
        assert tensors is not None, "or it had failed"
        abouts = [About.from_text(each.about) for each in heard]
        if differs := difference(abouts):
            raise LayoutError(differs)
        tensors.plan(link, [each.boxes for each in abouts])
        link.tell(Order("boxes", text=json.dumps([each.about for each in heard])).to_bytes())
        tensors.gather_frozen()
        if any(each.frozen != abouts[0].frozen for each in abouts):
            tensors.make_frozen_alike()
        require_inner(method, given.optimizers)
        replica = TensorReplica(tensors, method, SiteState(given.model, given.optimizers, link))
        driver = Speaker(
            given.model, given.optimizers, swarm, given.on_event, None, replica=replica, keeps_own=False
        )
        driver.meetings, driver.told = meetings, told
        outer = SiteOuter(given, swarm, driver, told, rank=0)
        try:
            _begin_alike(replica)
            outer.enter(timeout_s)
            meetings.go_on(driver.facts())
        except BaseException:
            outer.detach()
            raise
    swarm.attached = outer
    return outer


def _follow(link: SiteLink, given: _Given, swarm: Swarm | None, timeout_s: float) -> SiteOuter:
    order = Order.from_bytes(link.hear())
    if order.do == "end":
        raise ended(order)
    terms, told = _Terms.of(order), Attending()
    tensors, said = _described(given, terms.settings.method.resolved(), told)
    if swarm is not None:
        said = replace(
            said, failed="it has a swarm of its own: join on rank 0 alone, and give None elsewhere"
        )
    if tensors is None or said.failed:
        link.say(said.to_bytes())
        raise ended(Order.from_bytes(link.hear()))
    driver = Follower(link, tensors, InnerState(given.model, given.optimizers), told, said)
    swarm_here = _Heard(terms.settings, terms.data_seed)
    outer = SiteOuter(given, cast(Swarm, swarm_here), cast(WorkerDriver, driver), told, rank=link.rank)
    try:
        outer.enter(timeout_s)
    except BaseException:
        outer.detach()
        raise
    return outer


def _checked(swarm: Swarm | None) -> Swarm:
    """The swarm that rank 0 speaks to."""
    if swarm is None:
        raise UserError("rank 0 speaks for a site: give attach the swarm there, and None on the other ranks")
    if swarm.attached is not None:
        raise UserError(
            f"this swarm trains already, {swarm.attached!r}: a site attaches once, so close the swarm and"
            " join anew"
        )
    if swarm.settings.pipeline.stages > 1:
        raise UserError(
            f"the run's model has {swarm.settings.pipeline.stages} stages, and a stage is trained by one"
            " process: attach without group="
        )
    return swarm


def _described(given: _Given, method: Method, told: Attending) -> tuple[SiteTensors | None, Said]:
    """The tensors of this rank, and what it says of them; or why there are none."""
    try:
        tensors = given.tensors(method)
        boxes = tensors.boxes()
    except (UserError, RuntimeError) as error:  # a rank that fails here must say so, for all others wait
        return None, told.said("attach", failed=f"{error}")
    text = tensors.layout.manifest().text
    told_by_loop = given.tokens_per_step is None
    about = About(text, boxes, len(given.optimizers), told_by_loop, tensors.frozen_digest)
    return tensors, replace(told.said("attach"), about=about.to_text())


def _begin_alike(replica: TensorReplica) -> None:
    """Rank 0's parameters and buffers are what all begin with, whatever the others have: nobody may have made
    them equal."""
    buffers = [] if replica.buffers is None else [replica.buffers]
    for fragment in [*range(replica.outer.method.num_fragments), *buffers]:
        replica.model.show(fragment, replica.outer.outer_parameters(fragment))


class SiteOuter(Outer):
    """What the loop of one rank sees. All ranks take the same steps, and call `until_finished` and
    `outer_parameters` alike; the numbers are the site's."""

    def __init__(
        self, given: _Given, swarm: Swarm, driver: WorkerDriver, told: Attending, *, rank: int
    ) -> None:
        super().__init__(
            given.model, given.optimizers, swarm, given.tokens_per_step, given.on_event, driver=driver
        )
        self.rank = rank
        """In the site; rank 0 has the outer state, and speaks to the swarm."""
        self._told = told

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, rank {self.rank} of a site>"

    @property
    def data_seed(self) -> int:
        """For the order of this rank's data: that of no other rank or worker."""
        seed = self.swarm.data_seed
        if self.rank == 0:
            return seed
        return int.from_bytes(hashlib.sha256(f"{seed} rank {self.rank}".encode()).digest()[:4], "big")

    def log(self, *, loss: float) -> None:
        """Tell the swarm's status how training goes: the mean over the ranks, by tokens, goes there."""
        self._told.loss = float(loss)

    def stop(self) -> None:
        """Train no further: all ranks end behind the same step, see `Outer.stop`."""
        self._told.asked = True

    def until_finished(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, until the run has all its rounds, `stop` was called on a rank, or a rank has none
        left: all ranks train on equally many."""
        drawn, self._draws = iter(batches), True
        try:
            while True:
                if not self._driver.stopping and not self.finished:
                    self._between_steps()
                if self.finished or self._driver.stopping:
                    if self._leaving is not None:
                        raise self._leaving
                    return
                batch = next(drawn, _NONE)
                if self._site.meet(self._told.said("the next batch", out=batch is _NONE)).out:
                    self._say_who_is_out(batch is _NONE)
                    return
                if self._driver.stopping:
                    continue
                yield batch
        finally:
            self._draws = False

    def _say_who_is_out(self, here: bool) -> None:
        if not here:
            _LOG.warning("another rank of this site has no batch left: none of them trains on")

    def _between_steps(self) -> None:
        if self._driver.keeping is not None:
            self._driver.keeping.between_steps()

    @contextmanager
    def outer_parameters(self) -> Iterator[nn.Module]:
        """The model with the outer parameters, on all ranks at once, which all call this; local ones come
        back after."""
        reshard(self.model)
        live = self.replica.model.exchanged()
        held = [local_part(each).clone() for each in live]
        self._site.show_all()
        try:
            yield self.model
        finally:
            reshard(self.model)
            with torch.no_grad():
                for tensor, local in zip(live, held, strict=True):
                    local_part(tensor).copy_(local)

    def save(self, path: Path, *, full: bool = False) -> None:
        """Write the model with the outer parameters as safetensors, see `Outer.save`. Rank 0 writes it, alone
        or while others call this too, where it does nothing."""
        if self.rank == 0:
            write_site(self.model, self.replica, path, round_=self.round, full=full)

    def state_dict(self) -> dict[str, Tensor]:
        """See `Outer.state_dict`; nothing but on rank 0."""
        return super().state_dict() if self.rank == 0 else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See `Outer.load_state_dict`; rank 0 takes it up."""
        if self.rank == 0:
            super().load_state_dict(state)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, Exception) and not isinstance(error, DilocoError) and self.rank == 0:
            # A rank that dies shows first in the loop's own collectives.
            assert isinstance(self._driver, Speaker), "rank 0 speaks"
            _LOG.warning("%s", self._driver.story())

    def _stepped(self, tokens: int) -> None:
        try:
            super()._stepped(tokens)
        except OptimizerUndoes as error:  # before the others were met, who wait
            try:
                self._site.meet(self._told.said("optimizer.step", failed=str(error)))
            except DilocoError as told:
                raise error from told

    @property
    def _site(self) -> Speaker | Follower:
        return cast(Speaker | Follower, self._driver)


_NONE: Any = object()
