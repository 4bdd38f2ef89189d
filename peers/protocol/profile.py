"""What a member says about itself when it enters, and how groups of gossip are put together.

Data only: the training side fills it in, `peers.member` acts on it, `peers.member.matching` finds groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from peers.protocol.fields import ALL_FRAGMENTS
from peers.protocol.layout_rows import row_prints
from peers.protocol.manifest import Manifest
from peers.protocol.messages import PROTOCOL, Enter
from transport.errors import BadFrame


@dataclass(frozen=True, slots=True)
class Matching:
    """How members are put together."""

    kind: Literal["pair", "grid"]
    seed: int = 0
    group_size: int = 2
    """Members along one axis of the grid."""
    min_peers: int = 1
    """Fewer active members than this exchange nothing."""
    element_bytes: float = 4.0
    """Of an element in a contribution or in a mean, whichever is more: chunks follow from it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Its name, where it listens, and what it trains."""

    name: str
    addresses: tuple[str, ...]
    manifest: Manifest
    stage: int = 0
    """The stage of the model that it trains, whose course it follows."""
    matching: Matching | None = None
    """Gossip: how groups are found. None for rounds of the coordinator's."""
    rebases: bool = False
    """Rounds do not wait for everyone: what was not in one is offered anew on top of it, instead of being
    late."""
    adapts: bool = False
    """How long a contribution is depends on the state that it builds on."""
    layout: bytes = b""
    """The text of the model's layout."""
    takes: str = ""
    gives: str = ""
    """Of a stage: the boundaries to its neighbours, as `Enter` says them."""

    def check(self, message: object) -> None:
        """Raises `BadFrame` for what is about another stage than this member's (PP9), or about a fragment
        that the model does not have."""
        course = getattr(message, "course", self.stage)
        if course != self.stage:
            raise BadFrame(f"{type(message).__name__} of stage {course} to a worker of stage {self.stage}")
        if getattr(message, "fragment", 0) != ALL_FRAGMENTS:
            self.manifest.check_fragment(message)

    def enter(self, head: bytes, holds_state: bool) -> Enter:
        """The word with which this member enters, holding the state of ``head`` or none."""
        m = self.manifest
        return Enter(
            PROTOCOL,
            self.name,
            self.addresses,
            self.stage,
            head,
            holds_state,
            m.settings,
            m.tensors,
            m.shapes,
            m.codec,
            m.elements,
            m.model,
            row_prints(self.layout),
            self.takes,
            self.gives,
        )
