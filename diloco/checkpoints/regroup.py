"""What a new run takes over of an earlier state: by the names of tensors, never by position (DU5).

A plan says it, and is what a person is shown; `take_over` does it. The outer optimizer's vectors come along
where the new run has the same one; projections begin anew.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from diloco.checkpoints.fragment_files import places, vectors_of
from diloco.checkpoints.origin import Origin, outer_kind
from diloco.compression.vectors import bytes_of
from diloco.errors import CheckpointError
from diloco.methods.spec import Method
from diloco.outer.replica import TensorReplica

_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of an earlier state in a new run."""

    origin: str
    kept: tuple[str, ...]
    """Parameters that both have."""
    num_values: int
    """Of those."""
    dropped: tuple[str, ...]
    """In the origin only."""
    new: tuple[str, ...]
    """In the new run only: they are as its model has them."""
    vectors: tuple[str, ...]
    """What is taken over of each, theta first."""
    anew: tuple[str, ...]
    """What the new run's outer optimizer keeps and begins at zero."""
    lost: tuple[str, ...]
    """What the origin has beside theta, and the new run does not take."""
    outer: tuple[str, str]
    """The two outer optimizers."""
    num_fragments: int
    count: int
    """Outer steps that the new run counts as taken; none with gossip, where the run ends by that count."""

    def lines(self) -> list[str]:
        """For people."""
        counted = f"{self.count} outer steps" if self.count else "outer steps are counted from 0"
        said = [
            f"from {self.origin}",
            f"kept: {len(self.kept)} tensors of {self.num_values:,} values, grouped by name into "
            f"{self.num_fragments} fragment{'s' * (self.num_fragments != 1)}; {counted}",
        ]
        if len(self.vectors) > 1:
            said.append(f"kept: {', '.join(self.vectors[1:])} of the outer optimizer {self.outer[1]}")
        if self.lost:
            said.append(f"dropped: {', '.join(self.lost)} of the outer optimizer {self.outer[0]}")
        if self.anew:
            first = "begins at zero, so its first steps are of another size"
            said.append(f"anew: {', '.join(self.anew)} of the outer optimizer {self.outer[1]} {first}")
        if self.dropped:
            said.append(f"dropped: {_names(self.dropped)}, which the new model does not have")
        if self.new:
            said.append(f"anew: {_names(self.new)}, which are not there: as the new model has them")
        return said


def plan(origin: Origin, replica: TensorReplica, method: Method) -> Plan:
    """What ``replica``, of a run with ``method``, takes over. Raises `CheckpointError` where a tensor has
    another shape, or nothing fits."""
    specs = [spec for specs in (*replica.layout.fragments, replica.layout.frozen) for spec in specs]
    for spec in specs:
        there = origin.shapes.get(spec.name, spec.shape)
        if there != spec.shape:
            raise CheckpointError(
                f"{spec.name} has shape {_shape(there)} in {origin.name}, and {_shape(spec.shape)} in this "
                "run"
            )
    kept = [spec for spec in specs if spec.name in origin.shapes]
    if not kept:
        raise CheckpointError(f"{origin.name} and this run's model have no tensor of the same name")
    for name in origin.named.keys() & {spec.name for spec in kept}:
        if origin.named[name] != replica.model.digest_of(name):
            raise CheckpointError(
                f"{name} was frozen in {origin.name}, which does not hold its values, and this run's model "
                "has other ones: begin with the same base model, or with what diloco export --full writes"
            )
    names = {spec.name for spec in specs}
    ours = vectors_of(replica, 0)
    vectors = tuple(v for v in ours if v in origin.vectors and (v == "theta" or _goes_on(v, origin, method)))
    return Plan(
        origin=origin.name,
        kept=tuple(spec.name for spec in kept),
        num_values=sum(spec.num_elements for spec in kept),
        dropped=tuple(sorted(origin.shapes.keys() - names)),
        new=tuple(spec.name for spec in specs if spec.name not in origin.shapes),
        vectors=vectors,
        anew=tuple(v for v in ours if v not in vectors),
        lost=tuple(v for v in origin.vectors if v not in vectors),
        outer=(origin.outer, outer_kind(method.outer, gossips=method.gossips)),
        num_fragments=method.num_fragments,
        count=0 if method.gossips else origin.count,
    )


def _goes_on(vector: str, origin: Origin, method: Method) -> bool:
    if vector == "shared":
        return origin.feedback == method.error_feedback
    return origin.outer == outer_kind(method.outer, gossips=method.gossips)


def take_over(origin: Origin, replica: TensorReplica, found: Plan) -> None:
    """Put what the plan keeps into ``replica``, whose run has not begun. Raises `CheckpointError` for files
    that are damaged, and for values that are not finite or no fractions; nothing has changed then, but for
    fragments before the one where that is."""
    counts = {
        spec.name for each in replica.layout.fragments for spec in each if not spec.dtype.is_floating_point
    }
    for fragment in range(replica.num_fragments):
        incoming, at = replica.state_buffer(fragment), 0
        for piece in replica.pin(fragment).pieces():
            incoming.write(at, piece)
            at += len(piece)
        at = 0
        for place in places(replica, fragment):
            vector, _, name = place.name.partition("/")
            if place.name == "count" and found.count and fragment != replica.buffers:
                incoming.write(at, found.count.to_bytes(place.size_bytes, "little"))
            elif (value := _value(origin, found, vector, name)) is not None:
                value = value.to(place.dtype) if name in counts else value
                incoming.write(at, bytes_of(_usable(value, place.dtype, origin, name)))
            at += place.size_bytes
        replica.load(fragment, incoming)


def _value(origin: Origin, found: Plan, vector: str, name: str) -> Tensor | None:
    if name not in found.kept:
        return None
    if vector == "frozen":
        return origin.read("theta", name)
    return origin.read(vector, name) if vector in found.vectors else None


def _usable(value: Tensor, dtype: torch.dtype, origin: Origin, name: str) -> Tensor:
    """As the run has it. Raises `CheckpointError` for what would be another value there."""
    if dtype.is_floating_point and not value.is_floating_point():
        raise CheckpointError(f"{name} is of {value.dtype} in {origin.name}, and of {dtype} in this run")
    found = value.to(dtype).contiguous()
    if dtype.is_floating_point and not bool(torch.isfinite(found).all()):
        raise CheckpointError(f"{name} has values in {origin.name} that are not finite in this run's {dtype}")
    return found


def _names(names: Collection[str]) -> str:
    shown = sorted(names)[:_NAMES_SHOWN]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _shape(shape: torch.Size | tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
