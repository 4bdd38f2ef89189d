"""What a member hands out to others: results of the last rounds, states of fragments, the model's layout.

Whoever does not hold a whole state hands out none, but for the shares of states on its disk. A piece that
finds no credit waits, and each peer may have only so many waiting. What has not been asked for in a while is
kept no longer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from peers.member.outlet import MemberOutlet
from peers.member.results import KeptResults
from peers.member.versions import Versions
from peers.protocol.application import Application, StateBlob
from peers.protocol.manifest import layout_pieces
from peers.protocol.shares import Stored
from transport.collectives.fetch import Lack, Piece, Want, index_page
from transport.digests import digest_of, tree_digest
from transport.effects import Payload
from transport.errors import BadFrame
from transport.limits import Limits


@dataclass(slots=True)
class _Served:
    fragment: int
    blob: StateBlob
    used_at: float
    promised: bool
    """The coordinator has said that somebody is about to fetch it."""


class Donor:
    """States and results of this member, for those who ask."""

    def __init__(
        self,
        app: Application,
        outlet: MemberOutlet,
        limits: Limits,
        timeout_s: float,
        num_fragments: int,
        versions: Versions,
        results: KeptResults,
        stored: Stored | None = None,
    ) -> None:
        """``stored`` are shares of states on this machine's disk."""
        self._stored = stored
        self._app = app
        self._outlet = outlet
        self._limits = limits
        self._timeout_s = timeout_s
        self._num_fragments = num_fragments
        self._versions = versions
        self._results = results
        self._layout: tuple[list[bytes], list[bytes]] = [], []
        """Digests and pieces of the text of the model's layout."""
        self._served: dict[bytes, _Served] = {}
        self.waiting: list[tuple[bytes, Want]] = []
        """What is to be handed out once there is credit."""

    def hold_layout(self, text: bytes) -> None:
        """Hand out the text of the model's layout too."""
        pieces = layout_pieces(text, self._limits.payload_bytes)
        self._layout = [digest_of(each) for each in pieces], pieces

    def serve(self, now: float, fragment: int, blob: bytes) -> None:
        """Keep a state for someone who is about to fetch it, as the coordinator says."""
        self._keep(now, fragment, blob, promised=True)
        if blob in self._served:
            self._served[blob].promised = True

    def _keep(self, now: float, fragment: int, blob: bytes, *, promised: bool) -> None:
        """Each version kept may cost a copy of the state, and there is a new one with every commit."""
        if blob not in self._served and fragment < self._num_fragments:
            snapshot = self._app.state_blob(fragment, blob) if self._versions.holds_state else None
            if snapshot is None and self._stored is not None:
                snapshot = self._stored.find(fragment, blob)
            if snapshot is not None:
                self._served[blob] = _Served(fragment, snapshot, now, promised)
                of_fragment = [each for each in self._served.items() if each[1].fragment == fragment]
                if len(of_fragment) > self._limits.served_states:
                    del self._served[
                        min(of_fragment, key=lambda each: (each[1].promised, each[1].used_at))[0]
                    ]

    def hand_out(self, now: float, peer: bytes, want: Want) -> None:
        """Answer one request, now or once there is credit. Raises `BadFrame` for more than may be asked."""
        if self._answer(now, peer, want):
            return
        if sum(1 for held, _ in self.waiting if held == peer) >= 4 * self._limits.pieces_in_flight:
            raise BadFrame("more pieces wanted than may be asked at a time")
        self.waiting.append((peer, want))

    def hand_out_waiting(self, now: float) -> None:
        """There may be credit again."""
        self.waiting = [each for each in self.waiting if not self._answer(now, *each)]

    def drop_waiting(self, peer: bytes) -> None:
        """A peer's link began anew, or is gone: it asks again for what it still wants."""
        self.waiting = [each for each in self.waiting if each[0] != peer]

    def tick(self, now: float) -> None:
        """Give up states that nobody has asked for in a while."""
        kept = {b: s for b, s in self._served.items() if now - s.used_at <= 2 * self._timeout_s}
        self._served = kept

    def _answer(self, now: float, peer: bytes, want: Want) -> bool:
        """Hand out one piece; False if it must wait for credit."""
        found = self.find(now, want.blob)
        if found is None:
            self._outlet.send(now, peer, Lack(want.blob))
            return True
        digests, piece_of = found
        if want.index:
            payload: Payload = index_page(digests, want.piece, self._limits)
        elif want.piece < len(digests):
            payload = piece_of(want.piece)
        else:
            self._outlet.send(now, peer, Lack(want.blob))
            return True
        if not len(payload) and digests[want.piece] != digest_of(b""):  # the disk does not give it any more
            self._outlet.send(now, peer, Lack(want.blob))
            return True
        if self._outlet.room(peer) < len(payload):
            return False
        answer = Piece(want.blob, want.piece, want.index)
        self._outlet.send_bulk(now, peer, answer, payload, "state")
        return True

    def find(self, now: float, blob: bytes) -> tuple[list[bytes], Callable[[int], Payload]] | None:
        """The digests of a blob's pieces, and its pieces, if it is the layout, or a result or a state that we
        hold."""
        if blob == tree_digest(self._layout[0]):
            return self._layout[0], self._layout[1].__getitem__
        result = self._results.find(blob)
        if result is not None:
            return result.digests, result.chunks.__getitem__
        for fragment in range(self._num_fragments):
            self._keep(now, fragment, blob, promised=False)
        served = self._served.get(blob)
        if served is None:
            return None
        served.used_at = now
        return served.blob.digests, served.blob.piece
