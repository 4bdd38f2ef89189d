"""What all members of a run must agree on before they exchange, and how a difference is named.

Keeps X6: whoever differs learns at entering what differs, in one sentence; nobody else notices.
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.protocol.fields import Description, Digest, Elements
from peers.protocol.messages import PROTOCOL, Enter
from transport.digests import digest_of, tree_digest
from transport.errors import BadFrame
from transport.frames import kind, unpack


@kind(92)
@dataclass(frozen=True, slots=True)
class Manifest:
    """The model and the wire format of a run; digests of names and shapes, and a readable line. ``shapes``
    names the text of the layout, which says more than names do (`layout_name`)."""

    settings: Digest
    tensors: Digest
    shapes: Digest
    codec: Description
    elements: Elements
    model: Description

    @property
    def num_fragments(self) -> int:
        return len(self.elements)

    def check_fragment(self, message: object) -> None:
        """Raises `BadFrame` for a message about a fragment that the model does not have."""
        fragment = getattr(message, "fragment", 0)
        if fragment >= self.num_fragments:
            raise BadFrame(f"{type(message).__name__} of fragment {fragment} of {self.num_fragments}")


def layout_pieces(text: bytes, piece_bytes: int) -> list[bytes]:
    """The text of a layout as members hand it out."""
    return [text[start : start + piece_bytes] for start in range(0, max(1, len(text)), piece_bytes)]


def layout_name(text: bytes, piece_bytes: int) -> bytes:
    """The name of a layout's text, by which it can be fetched."""
    return tree_digest(list(map(digest_of, layout_pieces(text, piece_bytes))))


def unpack_manifest(packed: bytes) -> Manifest:
    """The manifest that an entry of the journal carries. Raises `BadFrame`."""
    found = unpack(packed)
    if not isinstance(found, Manifest):
        raise BadFrame(f"{type(found).__name__} instead of a manifest")
    return found


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
