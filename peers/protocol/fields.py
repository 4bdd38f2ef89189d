"""One type per field of what peers say and what is journaled, with its bounds.

A value that one message may hold is one that every message and journal entry may hold that carries it on, so
nothing that was taken from one peer is refused by another, or when it is read again. Bounds of text count
bytes; `cut` makes a text fit that quotes another one. Knows no message.
"""

from __future__ import annotations

from typing import Annotated

from transport.addresses import ADDRESS_BYTES, valid_address
from transport.collectives.fields import Attempt, Serial
from transport.frames import Between, Count, Fits, Key, Number, Small

__all__ = ["Attempt", "Key", "Serial"]

MAX_MEMBERS = 64
"""Members of one round."""
MAX_FRAGMENTS = 256
ALL_FRAGMENTS = (1 << 31) - 1
"""The fragment of a restoring record: it is about the whole model."""
NAME_BYTES = 64
REASON_BYTES = 256
DETAIL_BYTES = 1024
MAX_WEIGHT = 1 << 53
"""Every integer up to it is a float too, so that a weight is the same number wherever it stands."""
LEAST_WEIGHT = 1e-200

# -- who and where ------------------------------------------------------------------------------

Name = Annotated[str, Between(0, NAME_BYTES)]
Who = Annotated[str, Between(1, NAME_BYTES + 32)]
"""A name, with or without the part that no other worker has."""
Address = Annotated[str, Between(1, ADDRESS_BYTES), Fits(valid_address, "tcp://host:7000")]
Addresses = Annotated[tuple[Address, ...], Between(0, 3)]
Keys = Annotated[tuple[Key, ...], Between(0, MAX_MEMBERS)]
RunId = Annotated[bytes, Between(16, 16)]
Signature = Annotated[bytes, Between(64, 64)]
Protocol = Small
Incarnation = Count
"""Of two processes with one identity the later one has the larger number."""

# -- texts --------------------------------------------------------------------------------------

Code = Annotated[str, Between(0, 32)]
"""For programs."""
Reason = Annotated[str, Between(0, REASON_BYTES)]
"""Half a sentence for people."""
Detail = Annotated[str, Between(0, DETAIL_BYTES)]
"""A sentence or two for people, which may quote two descriptions."""
Description = Annotated[str, Between(0, 256)]
"""Of a model or a codec."""

# -- what is trained ----------------------------------------------------------------------------

Digest = Key
Check = Annotated[bytes, Between(16, 16)]
"""Of a state: fast, and equal where the bits are; it vouches for nothing (`messages.Applied`)."""
Head = Key
"""The hash of a record, or the name of a first state: of both the state that follows."""
MAX_ROW_GROUPS = 96
"""Of which `layout_rows` are made."""
RowPrints = Annotated[bytes, Between(0, 1 + 2 * MAX_ROW_GROUPS)]
Row = Annotated[int, Between(-1, 1 << 30)]
"""Of a layout's text; -1 where none is meant."""
Fragment = Annotated[int, Between(0, MAX_FRAGMENTS - 1)]
FragmentBits = Annotated[bytes, Between(0, MAX_FRAGMENTS // 8)]
"""A set of fragments."""
FragmentCount = Annotated[int, Between(0, MAX_FRAGMENTS)]
RecordFragment = Annotated[int, Between(0, ALL_FRAGMENTS)]
"""A fragment, or `ALL_FRAGMENTS`."""
Elements = Annotated[tuple[Count, ...], Between(1, MAX_FRAGMENTS)]
"""Of each fragment."""
ChunkElements = Count
MAX_STAGES = 64
"""Parts that a model may be cut into."""
Stage = Annotated[int, Between(0, MAX_STAGES - 1)]
StageWish = Annotated[int, Between(-1, MAX_STAGES - 1)]
"""A stage, or -1 for any."""
CourseNumber = Stage
"""Each stage is a course of its own, and has its number."""

# -- rounds and records -------------------------------------------------------------------------

Life = Annotated[bytes, Between(16, 16)]
"""Of a process of the host: no two have the same, also where one begins with an old copy of the journal."""
Epoch = Count
MAX_TERM = 1 << 29
Term = Annotated[int, Between(0, MAX_TERM)]
"""A life of the coordinator: serials and epochs are the term and 32 bits more."""
RecordIndex = Count
Rounds = Count
OfferNumber = Small
"""A member's contributions are numbered."""
OfferNumbers = Annotated[tuple[OfferNumber, ...], Between(0, MAX_MEMBERS)]
"""By founder of a round."""
FounderIndex = Annotated[int, Between(0, MAX_MEMBERS - 1)]

# -- numbers that a member claims ---------------------------------------------------------------

Tokens = Annotated[int, Between(0, MAX_WEIGHT)]
Weight = Annotated[int, Between(0, MAX_WEIGHT)]
"""As a member offers it; 0 for a contribution behind which there is nothing."""
RoundWeight = Annotated[float, Between(LEAST_WEIGHT, float(MAX_WEIGHT))]
"""As a round counts it."""
Weights = Annotated[tuple[RoundWeight, ...], Between(0, MAX_MEMBERS)]
Norm = Annotated[float, Between(0.0, 1e60)]
"""Euclidean norm of a contribution. No vector of finite fp32 values that fits into memory has a larger one;
its square is finite, and so are sums of such."""
MAX_SQUARE = 1e150
Square = Annotated[float, Between(0.0, MAX_SQUARE)]
"""A squared norm, or a bound of one."""
Squares = Annotated[tuple[Square, ...], Between(0, MAX_MEMBERS)]
"""By founder of a round."""
Speed = Annotated[float, Between(0.0, 1e18)]
"""Tokens per second."""
Loss = Number
Steps = Count
Bytes = Count

# -- settings -----------------------------------------------------------------------------------

SettingValues = Annotated[bytes, Between(1, 1024)]
"""By key, those of a run's settings that may change, as the program above packs them."""

# -- tickets ------------------------------------------------------------------------------------

MAX_UNIX_SECONDS = (1 << 32) - 1
UnixSeconds = Annotated[int, Between(0, MAX_UNIX_SECONDS)]
"""As a ticket has them."""
Uses = Small
"""Identities that a ticket may let in, ever; 0 if nothing was said."""

# -- packed messages ----------------------------------------------------------------------------

PACKED_BYTES = 3800
"""Of a message inside another one, so that both and the acknowledgement beside them fit a header."""
Packed = Annotated[bytes, Between(1, PACKED_BYTES)]
PackedRestoring = Annotated[bytes, Between(1, 248)]
"""Of a restoring record, which names no members."""
MaybePacked = Annotated[bytes, Between(0, PACKED_BYTES)]


def cut(text: str, most: int = REASON_BYTES) -> str:
    """As much of a text as fits into ``most`` bytes of UTF-8, with a sign where something is missing. What
    cannot travel (half a surrogate pair, of a file's name say) becomes a question mark."""
    data = text.encode("utf-8", "replace")
    if len(data) > most:
        data = data[: most - 3].decode("utf-8", "ignore").encode() + b"\xe2\x80\xa6"
    return data.decode()
