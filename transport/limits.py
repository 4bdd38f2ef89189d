"""Every bound of the wire and of memory, in one place.

A queue, loop, frame or table that has a bound names a field of this class. It decides nothing: what
happens at a bound is said where the bound is kept (block, drop with a fate, or close the peer).
Keeps R1, R4 and X2.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds shared by all layers; the defaults suit internet links between up to 64 members."""

    header_bytes: int = 4 * KIB
    """Largest msgpack header of one frame."""
    payload_bytes: int = 1 * MIB
    """Largest raw payload of one frame; also the size of a piece of bulk state."""
    message_items: int = 256
    """Largest array or map inside a header."""
    window_bytes: int = 32 * MIB
    """Bulk bytes that one peer may have in flight to us, granted as credit."""
    stream_window_bytes: int = 8 * MIB
    """The same of what a peer streams, beside that: who streams takes it at once, so it is for the line."""
    buffer_bytes: int = 256 * MIB
    """Bulk bytes in flight from all peers together: the credit of each shrinks as peers join. Who was granted
    more before keeps that, so that all together reach three times as much at the worst."""
    spare_bytes: int = 256 * MIB
    """Bytes beyond their windows that may be in flight to us over all links, and as many from us, where lines
    are long and fast: a link has at most half of what the others leave."""
    control_queue: int = 1024
    """Control messages kept for a peer that is away; one more resets the session."""
    control_per_second: int = 400
    """Control messages a peer may send per second, averaged over ten seconds; more closes it."""
    members: int = 64
    """Members admitted to one run."""
    gossip_members: int = 1024
    """Members admitted to a run that gossips, where nobody talks to all."""
    identities: int = 16 * 1024
    """Identities that one run ever admits, and of which anything is remembered."""
    spare_links: int = 64
    """Links of identities that are admitted and not in the run; beyond that the one that was silent for
    longest is dropped."""
    roster_changes: int = 1024
    """Changes of the roster that wait to be told together."""
    fragments: int = 256
    """Fragments of one model, or of one stage."""
    stages: int = 64
    """Parts that one model is cut into."""
    chunk_bytes: int = 1 * MIB
    """Most bytes in one chunk of an exchange, encoded: the fewer chunks, the less they cost beside bytes."""
    chunk_elements: int = 2 * MIB
    """Most elements in one chunk, however few bytes they take: whoever adds them up has 4 bytes for each."""
    chunks_per_owner: int = 16
    """Chunks that each member of an exchange owns, if they are not too small for that: the pipeline fills."""
    early_bytes: int = 4 * MIB
    """Bytes of parts that a member sends another before their round opens, and that are held so long: what a
    line of 1 Gbit/s carries in the time that this takes."""
    history_records: int = 512
    """Commit records that the coordinator keeps in memory for members that were away. Disks keep the results
    since their last checkpoint, of half as many records at most."""
    follow_records: int = 64
    """A member that lacks the results of more records than these fetches the whole state, if there is one."""
    served_states: int = 8
    """Versions of a fragment's state that a donor keeps for those who fetch them."""
    least_upload: int = 125_000
    """Bytes per second that the slowest member's link sends, over all its peers: 1 Mbit/s. A member that is
    slower in an exchange is left out of rounds."""
    pieces_in_flight: int = 8
    """Pieces asked of one donor at a time."""
    lanes: int = 1
    """Bulk connections per pair; several fill a long fat pipe."""
    bulk_strangers: int = 64
    """Connections to the bulk port that have not shown yet that they may be there; one more is dropped."""
    bulk_strangers_per_address: int = 8
    """The same from one address."""
    bulk_opening_s: float = 2.0
    """For so long one may take to show it."""
    lane_offer_s: float = 10.0
    """For so long a bulk lane that was offered may be opened."""
    settings_bytes: int = 64 * KIB
    """Largest run settings sent to a joiner."""
    half_open_per_address: int = 256
    """Connections of one address over which nothing came yet; one more breaks the oldest of them."""
    half_open: int = 1024
    """The same over all addresses."""
    comings_per_second: int = 200
    """Connections that one address may open per second: beyond that a part of them is let in. All others
    together may open four times as many."""
    unread_bytes: int = 16 * MIB
    """Bytes of one connection that libzmq may hold while we have not read all that came; more closes it.
    Eight messages of full size wait there at most, and a ninth is under way."""
    unfinished_bytes: int = 2 * MIB
    """The same once all messages were read that are whole: one of full size takes half of this."""
    fresh_bytes: int = 32 * MIB
    """The same over all connections from which nothing has been read yet, together."""
    lookups: int = 16
    """Names that are looked up at a time."""
    names_known: int = 256
    """Names of which it is remembered what they meant last."""
    barred: int = 1024
    """Peers that are kept out for a while and remembered for it; beyond that, who was barred first is
    forgotten."""
    lines_per_peer: int = 5
    """Lines per minute that a log gets about one peer."""
    peers_told_of: int = 1024
    """Peers whose lines are counted."""
    knocks_per_minute: int = 120
    """Join attempts answered per minute over all addresses."""
    answered_s: float = 10.0
    """For so long a connection that an invite opened stands after its answer."""
    invites: int = 64
    """Tickets of one run that are live."""
    identities_per_hour: int = 256
    """New identities that a ticket lets in per hour, if it was given no number of them."""
    incarnation_rest_s: float = 60.0
    """Between two journal entries about new processes of one identity."""
    absence_s: float = 24 * 3600.0
    """Absence after which an identity gives its place back."""

    @property
    def largest_window(self) -> int:
        """Most bytes that are ever in flight to one peer."""
        return self.window_bytes + self.spare_bytes // 2

    def window(self, num_peers: int) -> int:
        """Credit in bytes for each of ``num_peers`` links; never less than four payloads."""
        return self._share(self.window_bytes, num_peers)

    def stream_window(self, num_peers: int) -> int:
        """The same for what they stream."""
        return self._share(self.stream_window_bytes, num_peers)

    def _share(self, most: int, num_peers: int) -> int:
        return max(4 * self.payload_bytes, min(most, self.buffer_bytes // max(1, num_peers)))


LIMITS = Limits()
