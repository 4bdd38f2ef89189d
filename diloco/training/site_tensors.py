"""The tensors of a model that lies on several ranks: read as whole vectors, and written, by all of them.

Rank 0 has the whole vectors, and asks the others for their parts or hands them theirs; these carry out what
they are told (`site_words.Order`). Owns that way for parameters, and for frozen ones. Decides nothing. Where
a tensor is the same on all ranks it is read on rank 0 alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from diloco.compression.vectors import bytes_of
from diloco.errors import LayoutError
from diloco.outer.layout import Layout
from diloco.outer.live_buffers import LiveBuffers, as_stored
from diloco.outer.model_tensors import FrozenDigests, ModelTensors, Places, subtract
from diloco.outer.shards import is_sharded, local_part
from diloco.training.site_boxes import Box, FragmentPlan, Piece, box_of, bundles, length
from diloco.training.site_link import SiteLink
from diloco.training.site_words import Order
from transport.digests import digest_of, hasher


class SiteTensors(ModelTensors):
    """One rank's side of them. Made as `ModelTensors` is; `plan` follows, before anything is read or written,
    on all ranks."""

    def __init__(
        self,
        layout: Layout,
        tensors: dict[str, Tensor],
        frozen: list[Parameter],
        buffers: LiveBuffers | None = None,
    ) -> None:
        super().__init__(layout, tensors, frozen, buffers)
        self.modules = nn.Module()
        """The model, whose maker sets it."""
        self._live_frozen = frozen
        self._local: list[Places] = [_local(places) for places in self._places]

    def boxes(self) -> list[list[Box]]:
        """By fragment, what is here of each tensor; the frozen ones come last."""
        places = map(self.places, range(len(self.layout.fragments)))
        every: list[list[Tensor]] = [[each for _, each in those] for those in places]
        return [[_box(tensor) for tensor in tensors] for tensors in every] + [
            list(map(_box, self._live_frozen))
        ]

    @property
    def frozen_digest(self) -> str:
        """Of the frozen parameters of which all is here."""
        whole = hasher()
        for each in self._live_frozen:
            if not is_sharded(each):
                whole.update(bytes_of(each))
        return whole.hexdigest()

    def make_frozen_alike(self) -> None:
        """Rank 0: the others have other ones than this one, which are everybody's from now on."""
        self._order("frozen", 0)
        self._hand_out_frozen()

    def plan(self, link: SiteLink, boxes: Sequence[Sequence[Sequence[Box]]]) -> None:
        """The ranks of ``link`` have these ``boxes``, by rank, of the same tensors. Raises `LayoutError` if
        they do not make whole ones. `gather_frozen` follows, on all ranks."""
        self._link = link
        named = [*self.layout.fragments, self.layout.frozen]
        self._plans = [
            FragmentPlan([s.name for s in specs], [s.shape for s in specs], [each[i] for each in boxes])
            for i, specs in enumerate(named)
        ]
        self._carrier = link.carrier([tensor for places in self._places for _, tensor in places])

    def gather_frozen(self) -> None:
        """Rank 0 has all of each frozen parameter then, for joiners may ask for it at any time."""
        if any(map(is_sharded, self._live_frozen)):
            self._frozen = self._whole_frozen()
            self.frozen_digests = FrozenDigests(self.layout, self._frozen)

    # -- rank 0 (ModelTensors) ----------------------------------------------------------------

    def gather(self, fragment: int, out: Tensor) -> Tensor:
        """The live values of a fragment into ``out`` [n] fp32."""
        self._order("gather", fragment)
        return self._put_together(fragment, out)

    def subtract_from(self, anchor: Tensor, fragment: int, out: Tensor) -> float:
        """``anchor`` [n] - the live values of a fragment, into ``out`` [n] fp32; its squared norm."""
        self.gather(fragment, out)
        return sum(subtract(anchor[s], out[s], out[s]) for s, _ in self.places(fragment))

    def scatter(self, fragment: int, values: Tensor) -> None:
        """Write ``values`` [n] into the live tensors of all ranks: training goes on from there."""
        self._order("land", fragment)
        self._land(fragment, self._hand_out(fragment, values))

    def show(self, fragment: int, values: Tensor) -> None:
        """The same for a while, between two inner steps."""
        self._order("show", fragment)
        self._write(fragment, self._hand_out(fragment, values))

    def load_frozen(self, fragment: int, data: memoryview) -> None:
        """Write bytes that `frozen_bytes` gave into the frozen parameters of all ranks."""
        super().load_frozen(fragment, data)
        if self._frozen_in(fragment):
            self._order("frozen", fragment)
            self._hand_out_frozen()

    def digest_of(self, name: str) -> str:
        """Of the bytes of one parameter as they are now."""
        if name in (frozen := self.frozen_by_name):
            return digest_of(bytes_of(frozen[name])).hex()
        specs = self.layout.fragments
        fragment = next(i for i, each in enumerate(specs) if name in [spec.name for spec in each])
        values = self.gather(fragment, torch.empty(self.layout.num_elements(fragment)))
        span, tensor = self.whole(fragment)[name]
        return digest_of(bytes_of(values[span].to(tensor.dtype))).hex()

    def _order(self, do: str, number: int) -> None:
        self._link.tell(Order(do, number).to_bytes())

    # -- the other ranks ----------------------------------------------------------------------

    def carry_out(self, order: Order) -> None:
        """What rank 0 has this one do."""
        match order.do:
            case "gather":
                self._give(order.number)
            case "land":
                self._land(order.number, self._take(order.number))
            case "show":
                self._write(order.number, self._take(order.number))
            case "frozen":
                self._hand_out_frozen()
            case _:
                raise AssertionError(f"nobody says {order.do} to a rank's tensors")

    # -- both ---------------------------------------------------------------------------------

    def whole(self, fragment: int) -> Mapping[str, tuple[slice, Tensor]]:
        """By name, where each live tensor lies in a fragment's vector."""
        found = zip(self.layout.fragments[fragment], self.places(fragment), strict=True)
        return {spec.name: place for spec, place in found}

    @property
    def frozen_by_name(self) -> dict[str, Tensor]:
        """Rank 0: all of each."""
        return dict(zip((spec.name for spec in self.layout.frozen), self._frozen, strict=True))

    def _put_together(self, fragment: int, out: Tensor) -> Tensor:
        reshard(self.modules)
        plan, places = self._plans[fragment], self.places(fragment)
        for piece in plan.gives[0]:
            _in(out, places, piece).copy_(self._part(places[piece.tensor][1]))
        for rank in self._link.others:
            for bundle in bundles(plan.gives[rank]):
                buffer = torch.empty(length(bundle), device=self._carrier)
                self._link.receive(buffer, rank)
                for piece, values in _parted(buffer.to(out.device), bundle):
                    _in(out, places, piece).copy_(values)
        return out

    def _part(self, tensor: Tensor) -> Tensor:
        """What is here of a live tensor, to the most bits: of a master that it was rounded from."""
        return local_part(self._source(tensor))

    def _give(self, fragment: int) -> None:
        reshard(self.modules)
        places = self.places(fragment)
        for bundle in bundles(self._plans[fragment].gives[self._link.rank]):
            buffer = torch.empty(length(bundle), device=self._carrier)
            for piece, values in _parted(buffer, bundle):
                values.copy_(self._part(places[piece.tensor][1]))
            self._link.send(buffer, 0)

    def _hand_out(self, fragment: int, values: Tensor) -> Tensor:
        """Rank 0's own part of ``values`` [n], flat; the others have theirs."""
        plan, places = self._plans[fragment], self.places(fragment)
        if plan.is_whole:
            sent = values.to(self._carrier) if self._link.size > 1 else values
            if self._link.size > 1:
                self._link.spread(sent)
            return sent
        for rank in self._link.others:
            for bundle in bundles(plan.held[rank]):
                parts = [_in(values, places, piece).reshape(-1) for piece in bundle]
                self._link.send(torch.cat(parts).to(self._carrier), rank)
        own = [_in(values, places, piece).reshape(-1) for piece in plan.held[0]]
        return torch.cat(own) if own else values[:0]

    def _take(self, fragment: int) -> Tensor:
        """This rank's part, flat, as rank 0 hands it out."""
        plan, rank = self._plans[fragment], self._link.rank
        values = torch.empty(length(plan.held[rank]), device=self._carrier)
        if plan.is_whole:
            self._link.spread(values)
            return values
        at = 0
        for bundle in bundles(plan.held[rank]):
            self._link.receive(values[at : (at := at + length(bundle))], 0)
        return values

    def _land(self, fragment: int, values: Tensor) -> None:
        if self.watcher is not None:
            self.watcher.before_write(self._local_places(fragment))
        self._write(fragment, values)
        if self.watcher is not None:
            self.watcher.written(self._local_places(fragment), values)

    def _local_places(self, fragment: int) -> Places:
        return self._local[fragment] if fragment < len(self._local) else _local(self.places(fragment))

    def _write(self, fragment: int, values: Tensor) -> None:
        reshard(self.modules)
        with torch.no_grad():
            for span, tensor in self._local_places(fragment):
                part = local_part(tensor)
                part.copy_(as_stored(values[span].view(part.shape), part))

    def _hand_out_frozen(self) -> None:
        """Byte for byte, one after the other, from what rank 0 has."""
        reshard(self.modules)
        for i, live in enumerate(self._live_frozen):
            whole = torch.empty(live.shape, dtype=live.dtype)
            if self._link.rank == 0:
                whole.copy_(self._frozen[i].detach())
            if self._link.size > 1:
                self._link.spread(_raw(whole))
            with torch.no_grad():
                local_part(live).copy_(whole[_box(live).slices])

    def _whole_frozen(self) -> list[Parameter]:
        """Rank 0: all of each; elsewhere nothing that is needed."""
        plan, found = self._plans[-1], []
        reshard(self.modules)
        for i, live in enumerate(self._live_frozen):
            whole = torch.empty(live.shape if self._link.rank == 0 else 0, dtype=live.dtype)
            for rank, gives in enumerate(plan.gives):
                for piece in (each for each in gives if each.tensor == i):
                    self._bring(live, whole, piece, rank)
            found.append(Parameter(whole, requires_grad=False))
        return found

    def _bring(self, live: Tensor, whole: Tensor, piece: Piece, rank: int) -> None:
        if self._link.rank == rank:
            part = local_part(live).cpu().contiguous()
            if rank == 0:
                whole[piece.box.slices] = part
            else:
                self._link.send(_raw(part), 0)
        elif self._link.rank == 0:
            part = torch.empty(piece.box.shape, dtype=live.dtype)
            self._link.receive(_raw(part), rank)
            whole[piece.box.slices] = part


def reshard(model: nn.Module) -> None:
    """Modules that `fully_shard` left with their parameters in one piece, as forward without backward does,
    have shards again: these are what is read and written."""
    for module in model.modules():
        if any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__):
            module.reshard()  # type: ignore[operator]


def _raw(tensor: Tensor) -> Tensor:
    """Its bytes [n], in place."""
    return torch.frombuffer(bytes_of(tensor), dtype=torch.uint8) if tensor.numel() else torch.empty(0)


def _box(tensor: Tensor) -> Box:
    if not is_sharded(tensor):
        return Box.whole(tensor.shape)
    mesh, place = tensor.device_mesh, tensor.device_mesh.get_coordinate()  # type: ignore[attr-defined]
    dims: list[int | None] = []
    for each in tensor.placements:  # type: ignore[attr-defined]
        if type(each).__name__ not in ("Shard", "Replicate"):
            raise LayoutError(f"a parameter is placed as {each}: a site knows whole tensors and their shards")
        dims.append(getattr(each, "dim", None))
    found = box_of(tensor.shape, mesh.mesh.shape, place or (), dims)
    if found.shape != tuple(local_part(tensor).shape):
        raise LayoutError(f"a parameter placed as {tensor.placements} has other shards than expected")  # type: ignore[attr-defined]
    return found


def _local(places: Places) -> Places:
    """Where the parts that are here lie in a vector of all such parts."""
    found, at = [], 0
    for _, tensor in places:
        size = local_part(tensor).numel()
        found.append((slice(at, at := at + size), tensor))
    return found


def _in(vector: Tensor, places: Places, piece: Piece) -> Tensor:
    """A piece of a fragment's vector, in place, in its shape."""
    span, tensor = places[piece.tensor]
    part: Tensor = vector[span].view(tensor.shape)[piece.box.slices]
    return part


def _parted(buffer: Tensor, pieces: Iterable[Piece]) -> Iterable[tuple[Piece, Tensor]]:
    at = 0
    for piece in pieces:
        size = piece.box.num_elements
        yield piece, buffer[at : (at := at + size)].view(piece.box.shape)
