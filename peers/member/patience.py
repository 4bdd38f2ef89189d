"""How long a member waits in an exchange for one that owes it something, before it reports it.

A silent link is a cut one, and gets the failure timeout. Of a link that lives, the other end must move the
exchange on: within the failure timeout, or longer where one chunk for everybody takes most of that on the
slowest upload that a run is made for, and on the whole no slower than such an upload. So an honest slow link
is waited for as long as it moves, and neither one that sends nothing nor one that sends a chunk now and then
holds up a round. Pure arithmetic. Keeps L2.
"""

from __future__ import annotations

from dataclasses import dataclass

from transport.limits import Limits


@dataclass(frozen=True, slots=True)
class Owing:
    """What an exchange knows of one member that owes it something."""

    elapsed_s: float
    """Since this attempt began."""
    idle_s: float
    """Since the member moved it on last, or since it began."""
    num_chunks: int
    """Chunks of the member that came in this attempt."""
    owes_parts: bool
    """Else it owes means only, and may wait for the parts of another."""
    may_be_late: bool = False
    """It need not have begun: nobody told it to, as in gossip."""


@dataclass(frozen=True, slots=True)
class Patience:
    """The bounds of one member."""

    timeout_s: float
    """The failure timeout."""
    longest_s: float
    """No member whose link lives may be idle for longer, however large chunks are."""
    limits: Limits

    def is_over(self, owing: Owing, chunk_bytes: int, num_members: int, *, cut: bool) -> bool:
        """Whether the member is to be reported. ``chunk_bytes`` is the size of the largest chunk."""
        factor = 1 if owing.owes_parts else 2
        if cut:
            return owing.idle_s > factor * self.timeout_s
        if owing.may_be_late and not owing.num_chunks:
            return owing.idle_s > factor * max(self.timeout_s, self.longest_s)
        chunk_s = chunk_bytes * max(1, num_members - 1) / self.limits.least_upload
        # Beside the time of a chunk half a failure timeout is left, and never more than a whole one.
        first_s = max(self.timeout_s, min(2 * chunk_s, self.timeout_s + chunk_s))
        idle_s = max(self.timeout_s, min(self.longest_s, first_s))
        whole_s = first_s + chunk_s * owing.num_chunks
        return owing.idle_s > factor * idle_s or owing.elapsed_s > factor * whole_s
