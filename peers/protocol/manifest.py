"""What all members of a run must agree on before they exchange, and how a difference is named.

Keeps X6: whoever differs learns at entering what differs, in one sentence; nobody else notices.
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.protocol.messages import PROTOCOL, Elements, Enter
from transport.frames import Key, Text, kind


@kind(92)
@dataclass(frozen=True, slots=True)
class Manifest:
    """The model and the wire format of a run; digests of names and shapes, and a readable line."""

    settings: Key
    tensors: Key
    shapes: Key
    codec: Text
    elements: Elements
    model: Text

    @property
    def num_fragments(self) -> int:
        return len(self.elements)


def manifest_in(message: Enter) -> Manifest:
    """What an entering member says about itself."""
    return Manifest(
        message.settings, message.tensors, message.shapes, message.codec, message.elements, message.model
    )


def difference(ours: Manifest, theirs: Manifest, protocol: int) -> tuple[str, str] | None:
    """A code and a sentence for the first thing that differs; None when all agree."""
    if protocol != PROTOCOL:
        spoken = f"the run speaks protocol {PROTOCOL}, this member {protocol}"
        return "protocol", f"{spoken}: install the same version"
    if ours.settings != theirs.settings:
        return "settings", "the run's settings differ from this member's: join again to receive them"
    models = f"the run trains {ours.model}; this member has {theirs.model}"
    if ours.tensors != theirs.tensors:
        return "tensors", f"the model's tensor names differ: {models}"
    if ours.shapes != theirs.shapes:
        return "shapes", f"the model's shapes or dtypes differ: {models}"
    if ours.codec != theirs.codec:
        return "codec", f"the run exchanges {ours.codec}, this member {theirs.codec}"
    if ours.elements != theirs.elements:
        return "fragments", f"the run has {ours.num_fragments} fragments of other sizes than this member"
    return None
