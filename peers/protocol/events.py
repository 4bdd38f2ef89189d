"""What a member or coordinator, or the training loop itself, tells the application above: the same in
simulation and for real.

Human text is made at the edge; these are facts with fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from peers.protocol.record import Record
from transport.collectives.fetch import BlobBuffer
from transport.collectives.reducer import Reducer
from transport.effects import Payload


class Fate(StrEnum):
    """What became of a contribution; every one ends in exactly one of these (S4)."""

    APPLIED = "applied"
    REJECTED = "rejected"
    LATE = "late"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class StageAssigned:
    """This machine is to train that stage of the model: build that part. Told before there is a member."""

    stage: int


@dataclass(frozen=True, slots=True)
class BecomeSeed:
    """Your initial state is the run's."""


@dataclass(frozen=True, slots=True)
class StateFetched:
    """Load this state; ``data`` holds the fragment's bytes, checked against the agreed digest."""

    fragment: int
    version: bytes
    data: bytearray | BlobBuffer


@dataclass(frozen=True, slots=True)
class NameWanted:
    """Hash the state with that check, beside training, and say its digest (`commands.ConfirmNamed`). Told to
    the program around a member, at once, and not to its training."""

    fragment: int
    check: bytes


@dataclass(frozen=True, slots=True)
class Restored:
    """The swarm goes on from the state that you hold."""

    record: Record


@dataclass(frozen=True, slots=True)
class RoundCommitted:
    """Apply this: ``mean`` has decoded it. Answer with `ConfirmApplied`."""

    record: Record
    mean: Reducer
    number: int | None
    """Your contribution in it, if any."""
    tokens: int
    """Tokens behind that contribution."""
    weight: float
    """Its weight in the record; 0 without one."""
    seconds: float
    """From opening to commit as this member saw it; 0 for one who only followed."""
    behind: int
    """Commits that are known to follow it."""


@dataclass(frozen=True, slots=True)
class VersionExpected:
    """An offer was not taken, and none will be before a commit of its fragment has been handed over, which
    waits for its mean or for another commit."""

    fragment: int


@dataclass(frozen=True, slots=True)
class Swapped:
    """A gossip group has averaged: ``mean`` has decoded it, of this member and ``partners``."""

    fragment: int
    step: int
    tokens: int
    mean: Reducer
    partners: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SwapFailed:
    """There is no mean this time. ``alone``: take the outer step without the others; otherwise train on,
    since too few members are there."""

    fragment: int
    step: int
    tokens: int
    partners: tuple[bytes, ...]
    reason: str
    alone: bool


@dataclass(frozen=True, slots=True)
class ContributionEnded:
    """A contribution met its fate."""

    fragment: int
    number: int
    tokens: int
    fate: Fate
    reason: str
    """In words; if it is applied, the hash of the record that counts it."""
    without_result: bool = False
    """It is applied, and its record is not handed over: the state that is fetched next has it in it."""


@dataclass(frozen=True, slots=True)
class ProgressLost:
    """What this worker trained is not finite: it was given up before it was offered (its tokens' fate is
    `non_finite`), and training went on from the outer parameters. No member tells this, the worker itself."""

    fragment: int
    """Whose contribution was to be made."""
    fragments: tuple[int, ...]
    """All that were given up, since each had values that are not finite."""
    tokens: int
    """Over those fragments: each counts the tokens that moved it."""
    reason: str
    in_a_row: int
    """Contributions of this fragment that were not finite, without one that was in between."""
    mended: tuple[str, ...]
    """Sentences: what else was not finite and began anew, and what could not be looked at."""


@dataclass(frozen=True, slots=True)
class RoundOpened:
    """Members exchange now."""

    serial: int
    attempt: int
    fragment: int
    members: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RoundAborted:
    """Nothing changed. With ``again`` the contribution stays offered; otherwise its fate follows."""

    fragment: int
    serial: int
    reason: str
    again: bool


@dataclass(frozen=True, slots=True)
class BecameActive:
    """This member holds the shared state: what it trains from here counts."""

    head: bytes
    index: int
    """Of the head, counted in commits."""
    over: bool = False
    """The run has all its rounds, and will say so: nothing that is trained from here is wanted."""


@dataclass(frozen=True, slots=True)
class FellBehind:
    """This member must fetch the shared state again."""

    reason: str


@dataclass(frozen=True, slots=True)
class GotUnusable:
    """What this member fetched cannot be used: the coordinator is told, and the member goes on."""

    fragment: int
    reason: str


@dataclass(frozen=True, slots=True)
class Computed:
    """What a host found that computed a step."""

    former_check: bytes
    """Of the state that it began from."""
    check: bytes
    state: bytes
    """Check and digest of the state that came out."""


@dataclass(frozen=True, slots=True)
class RecomputeWanted:
    """Members hold different states of a version, and the host is to know which is right: compute once more,
    in a thread beside the network's, what the result makes of the state before it, and tell
    `Node.recomputed`. All bytes are what their agreed names say. Told on the host alone, and not to its
    training."""

    version: bytes
    fragment: int
    layout: bytes
    """The text of the model's layout."""
    former: bytearray
    """The fragment's state before; its memory may be used."""
    result: list[Payload]
    """By chunk."""
    chunk_elements: int
    num_parts: int
    """Members whose mean it is."""


@dataclass(frozen=True, slots=True)
class KeptResultDamaged:
    """A result on this member's own disk is not what it is named for: it is fetched from others."""

    result: bytes


@dataclass(frozen=True, slots=True)
class CheckpointWritten:
    """The shared state behind this head is on this worker's disk for good. No member tells this and the two
    that follow, the worker itself."""

    index: int
    head: bytes
    size_bytes: int
    seconds: float
    """From when the state was taken; most of it is rest."""
    unit: str = "commit"
    """What the index counts: with gossip outer steps, and the state is this worker's own replica."""


@dataclass(frozen=True, slots=True)
class CheckpointFailed:
    """No checkpoint was written, and training goes on without it."""

    index: int
    reason: str
    unit: str = "commit"


@dataclass(frozen=True, slots=True)
class CheckpointRestored:
    """This worker goes on from a checkpoint; records that follow come from its disk and from others."""

    index: int
    head: bytes
    path: str
    step: int | None = None
    """The inner step at which its own state is; None if that begins anew."""
    unit: str = "commit"


@dataclass(frozen=True, slots=True)
class CoordinatorLost:
    """Silence from the coordinator: train on."""

    silent_s: float


@dataclass(frozen=True, slots=True)
class CoordinatorDiskFull:
    """The coordinator cannot write its journal, and decides nothing until it can: train on."""


@dataclass(frozen=True, slots=True)
class HostIsBehind:
    """The coordinator's journal ends before the record that this member holds, which keeps its state."""

    index: int
    """Of the coordinator's newest record."""
    ours: int


@dataclass(frozen=True, slots=True)
class CoordinatorBack:
    """The coordinator is heard again."""


@dataclass(frozen=True, slots=True)
class PeersJoined:
    """By key, their names."""

    members: tuple[tuple[bytes, str], ...]


@dataclass(frozen=True, slots=True)
class PeerLeft:
    key: bytes
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class EntryRefused:
    """The coordinator refuses this member for good; ``code`` names what differs."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class IdentitySuperseded:
    """A newer process runs with our identity: this one must stop (S13)."""


@dataclass(frozen=True, slots=True)
class PaceSet:
    """How fast the fastest member computes, in tokens per second."""

    fastest: float


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """Some of the run's settings are not as they were when it began."""

    values: bytes
    """By key, all that may change, as the host packed them."""


@dataclass(frozen=True, slots=True)
class SaveWanted:
    """The run's owner wants a checkpoint of that commit, or of the next one that this member has."""

    index: int


@dataclass(frozen=True, slots=True)
class ShareWanted:
    """A checkpoint is to be written of the commit of that index, which comes next, and of it this member's
    share: so many ``copies`` of each fragment are kept. All fragments of the state of commit ``covered`` are
    on disks; newer shares but this one are of no use. 0 if nothing is known to be."""

    index: int
    copies: int
    covered: int


@dataclass(frozen=True, slots=True)
class OfferWanted:
    """The others have offered this fragment and wait: offer what there is."""

    fragment: int


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run has all its rounds."""

    rounds: int
