"""The direct exchange: every chunk has one owner, who reduces it once and sends it to everyone.

Each member sends each owner its encoded part of the owner's chunks; the owner reduces the parts in
the order of the member list, encodes the mean once and sends it to every member. All decode the
same bytes, the owner too, so members end bit-identical. Chunks move independently, so encoding,
sending, reducing and sending back overlap.

When a member is lost, the coordinator announces a new *attempt* with the survivors. Parts stay
valid (they do not depend on who else takes part), means do not: owners reduce again from the parts
that they kept, chunks of the lost owner move to survivors, and the divisor is the sum of the
survivors' weights (S3, S6). Nothing outside this object changes before the round commits (S5).

The exchange moves bytes only; `transport.collectives.reducer` says what an arithmetic must offer.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from transport.collectives.chunks import MeanChunk, PartChunk, ProvedMean, ProvedPart
from transport.collectives.norms import NO_LIMITS, MeasuredNorms
from transport.collectives.plan import Plan
from transport.collectives.prover import Proof, Prover
from transport.collectives.reducer import Part, Reducer
from transport.digests import digest_of, tree_digest
from transport.effects import Payload, size_bytes
from transport.errors import BadFrame, Poisoned


class Poison(NamedTuple):
    """A chunk that must not be added up or kept."""

    peer: bytes
    """Its author."""
    reason: str
    chunk: int
    mean: bool
    alone: bool
    """Its bytes alone show it, whatever the others are."""
    long: tuple[int, ...] = ()
    """The chunks that together are longer than they may be, if that is what is wrong."""


KEPT_BYTES = 64 << 20
"""Of encoded parts that are vouched for and not sent yet; beyond that they are encoded again."""
SendBulk = Callable[[bytes, object, Payload], None]
Room = Callable[[bytes], int]


class DirectReduce:
    """One round of one vector as one member sees it."""

    def __init__(
        self,
        serial: int,
        me: bytes,
        reducer: Reducer,
        chunk_elements: int,
        now: float,
        prover: Prover | None = None,
    ) -> None:
        self.serial = serial
        self.reducer = reducer
        self.num_chunks = -(-reducer.num_elements // chunk_elements)
        self.attempt = -1
        self.poisoned: Poison | None = None
        self.prover: Prover | None = None
        """In attempts that are proved."""
        self._prover = prover
        self._encoded: dict[int, Payload] = {}
        self._encoded_bytes = 0
        self.chunk_elements = chunk_elements
        self.norms = MeasuredNorms(0, NO_LIMITS)
        """Of what this member decoded in the present attempt."""
        self._me = me
        self._plan: Plan | None = None
        self._others: frozenset[bytes] = frozenset()
        self._owners: list[bytes] = []
        self._part_sizes: list[int] = []
        self._mean_sizes: list[int] = []
        self._parts: list[dict[bytes, Payload]] = [{} for _ in range(self.num_chunks)]
        self._part_sent: set[tuple[int, bytes]] = set()
        self._left_early: set[tuple[int, bytes]] = set()
        self._came_early: set[tuple[int, bytes]] = set()
        """Chunks, and their authors, of whom nothing shows yet that they take part."""
        self._heard: dict[bytes, float] = {}
        self._num_heard: Counter[bytes] = Counter()
        self.started_at = now
        """When the present attempt began."""
        self._forget_means()

    def _forget_means(self) -> None:
        self._means: list[Payload | None] = [None] * self.num_chunks
        self._digests: list[bytes] = [b""] * self.num_chunks
        self._to_keep: deque[tuple[bytes, int, Payload]] = deque()
        self._missing = self.num_chunks

    # -- state --------------------------------------------------------------------------------

    @property
    def members(self) -> tuple[bytes, ...]:
        """Who takes part in the present attempt."""
        return self._plan.members if self._plan else ()

    @property
    def idle(self) -> bool:
        """`pump` has nothing to do before something comes."""
        if self._plan is None or self._to_reduce or self._to_send or self._to_keep:
            return self._plan is None
        return self.prover is None or self.prover.prepared

    @property
    def only_keeps(self) -> bool:
        """All that others wait for has left: what is still to be done is for nobody but this member."""
        return bool(self._to_keep) and not self._to_send and len(self._reduced) == self._num_mine

    @property
    def done(self) -> bool:
        """Every mean is here, decoded and hashed."""
        return self._missing == 0 and self._plan is not None

    @property
    def all_sent(self) -> bool:
        """Nothing is left that others wait for."""
        return self.done and not self._to_send

    def digest(self) -> bytes:
        """The name of the result: equal for all who decoded the same bytes."""
        return tree_digest(self._digests)

    def digests(self) -> list[bytes]:
        """That of each chunk of the result."""
        assert self.done
        return list(self._digests)

    def means(self) -> list[Payload]:
        """The encoded result by chunk, for those who lack it."""
        assert self.done
        return [mean for mean in self._means if mean is not None]

    def owing_parts(self) -> set[bytes]:
        """Members whose parts of our own chunks are missing."""
        mine = [chunk for chunk, owner in enumerate(self._owners) if owner == self._me]
        return {m for chunk in mine for m in self._others if m not in self._parts[chunk]}

    def waiting_for(self) -> set[bytes]:
        """Members who owe us something now: parts, or the means of their chunks."""
        owners = (self._owners[c] for c in range(self.num_chunks) if self._means[c] is None)
        return self.owing_parts() | {owner for owner in owners if owner != self._me}

    def last_heard(self, peer: bytes) -> float:
        """When ``peer`` last moved this exchange on; its beginning if never in this attempt."""
        return self._heard.get(peer, self.started_at)

    def num_heard(self, peer: bytes) -> int:
        """Chunks of ``peer`` that moved this attempt on."""
        return self._num_heard[peer]

    @property
    def chunk_bytes(self) -> int:
        """Size of the largest chunk that travels."""
        return max([*self._part_sizes, *self._mean_sizes], default=0)

    # -- inputs -------------------------------------------------------------------------------

    def mark_sent(self, parts: set[tuple[int, bytes]]) -> None:
        """Before the first attempt: these chunks have left for these owners already. They count in no other
        attempt."""
        self._part_sent, self._left_early = set(parts), parts

    def begin(self, now: float, plan: Plan) -> None:
        """Begin the first attempt, or go on with fewer members. Parts are kept, means are not."""
        assert self._me in plan.members
        self._plan, self.attempt = plan, plan.attempt
        self.norms = MeasuredNorms(len(plan.founders), plan.limits)
        self._others = frozenset(plan.members) - {self._me}
        self._owners = [plan.owner(chunk, self.num_chunks) for chunk in range(self.num_chunks)]
        self.reducer.begin(self.chunk_elements, len(plan.members))
        self._begin_proofs(plan)
        self._part_sizes = [self.reducer.size_bytes(chunk) for chunk in range(self.num_chunks)]
        self._mean_sizes = [self.reducer.mean_size_bytes(chunk) for chunk in range(self.num_chunks)]
        self.poisoned = None
        self.started_at = now
        self._heard = {}
        self._num_heard.clear()
        gone = {peer for parts in self._parts for peer in parts} - set(plan.members)
        for parts in self._parts:
            for peer in gone:
                parts.pop(peer, None)
        for chunk, parts in enumerate(self._parts):
            if self._owners[chunk] != self._me:
                parts.clear()
        self._forget_means()
        if plan.attempt:  # not all means of the first one are needed now: who takes part has to show it
            for chunk, author in self._came_early:
                self._parts[chunk].pop(author, None)
            self._part_sent -= self._left_early
            self._came_early, self._left_early = set(), set()
        # A chunk that moves away and back is sent anew: who did not own it has dropped it.
        self._part_sent = {(c, peer) for c, peer in self._part_sent if self._owners[c] == peer}
        self._part_queues = self._queue_parts(plan)
        """By owner, the chunks that it is still to get, the next one last."""
        self._reduced: list[int] = []
        """Chunks of ours whose means are for everyone, in this order."""
        # Means go out in that order of peers too: nobody is every owner's last.
        self._means_sent = dict.fromkeys(self._part_queues, 0)
        """By peer, how many of those it got."""
        self._to_send = {peer: None for peer, queue in self._part_queues.items() if queue}
        """Peers for whom something is queued."""
        mine = [chunk for chunk, owner in enumerate(self._owners) if owner == self._me]
        self._num_mine = len(mine)
        self._to_reduce = deque(chunk for chunk in mine if self._has_all_parts(chunk))

    def part(self, now: float, peer: bytes, message: PartChunk, payload: Payload) -> bool:
        """A part for a chunk of ours; True if it was used. Raises `BadFrame`."""
        self._expect(message.chunk, payload, self._part_sizes)
        if self._owners[message.chunk] != self._me:
            if message.attempt == self.attempt:
                raise BadFrame("a part for a chunk of someone else")
            return False
        parts = self._parts[message.chunk]
        if peer not in self._others or peer in parts:
            self._came_early.discard((message.chunk, peer))
            return False
        proof = self._proof_beside(message)
        if self.prover and not proof and message.attempt != self.attempt:
            return False  # of an attempt that was not proved
        if self.prover and not (proof and self.prover.take_part(peer, message.chunk, proof, payload)):
            return self._refuse(peer, message.chunk, mean=False)
        parts[peer] = payload
        self._note(now, peer)
        if self._has_all_parts(message.chunk):
            self._to_reduce.append(message.chunk)
        return True

    def early_part(self, now: float, peer: bytes, chunk: int, payload: Payload) -> None:
        """A part for the first attempt that left before that was opened. Raises `BadFrame`."""
        is_held = (chunk, peer) in self._came_early
        if self.part(now, peer, PartChunk(self.serial, 0, chunk), payload) or is_held:
            self._came_early.add((chunk, peer))

    def mean(self, now: float, peer: bytes, message: MeanChunk, payload: Payload) -> bool:
        """A mean from its owner; True if it was used. Raises `BadFrame`."""
        if message.attempt != self.attempt:
            return False  # of another attempt: means of other parts have other sizes
        self._expect(message.chunk, payload, self._mean_sizes)
        if self._means[message.chunk] is not None:
            return False
        if self._owners[message.chunk] != peer:
            raise BadFrame("a mean from someone who does not own the chunk")
        proof = self._proof_beside(message)
        if self.prover and not (proof and self.prover.take_mean(peer, message.chunk, proof, payload)):
            return self._refuse(peer, message.chunk, mean=True)
        self._note(now, peer)
        self._take(peer, message.chunk, payload)
        return True

    def send_again(self, peer: bytes) -> None:
        """What is under way to ``peer`` may be lost. What it turns out to have, it drops."""
        if self._plan is None or peer not in self._others:
            return
        # Whose mean is here had our part.
        self._part_sent = {(c, to) for c, to in self._part_sent if to != peer or self._means[c] is not None}
        self._part_queues = self._queue_parts(self._plan)
        self._means_sent[peer] = 0
        self._to_send[peer] = None

    def pump(self, room: Room, send: SendBulk) -> bool:
        """One small step of what can be done now; True if there may be another. What others wait for goes
        first: reduce a chunk, send one to each peer, and only then decode and hash a result. Parts go
        before means, so that nobody waits for us longer than needed."""
        if self._plan is None or self.poisoned:
            return False
        moved = self.prover is not None and self.prover.prepare(self._encode)
        moved |= self._reduce_next()
        for peer in list(self._to_send):
            moved |= self._send_part(peer, room, send) or self._send_mean(peer, room, send)
            if not self._part_queues[peer] and self._means_sent[peer] == len(self._reduced):
                del self._to_send[peer]
        moved |= self.prover is not None and not self.prover.prepared
        return moved or self._keep_next()

    # -- inside -------------------------------------------------------------------------------

    def _note(self, now: float, peer: bytes) -> None:
        self._heard[peer] = now
        self._num_heard[peer] += 1

    def _queue_parts(self, plan: Plan) -> dict[bytes, list[int]]:
        # Everyone begins with the member after itself, so that no owner is everybody's first.
        start = plan.members.index(self._me)
        order = plan.members[start + 1 :] + plan.members[:start]
        queues: dict[bytes, list[int]] = {peer: [] for peer in order}
        for chunk in reversed(range(self.num_chunks)):
            owner = self._owners[chunk]
            if owner != self._me and (chunk, owner) not in self._part_sent:
                queues[owner].append(chunk)
        return queues

    def _expect(self, chunk: int, payload: Payload, sizes: list[int]) -> None:
        if self._plan is None or chunk >= self.num_chunks:
            raise BadFrame("a chunk outside the vector")
        if len(payload) != sizes[chunk]:
            raise BadFrame(f"a chunk of {len(payload)} bytes instead of {sizes[chunk]}")

    def _send_part(self, peer: bytes, room: Room, send: SendBulk) -> bool:
        chunks = self._part_queues[peer]
        if not chunks or room(peer) < self._part_sizes[chunks[-1]]:
            return False
        message = PartChunk(self.serial, self.attempt, chunks[-1])
        if self.prover:
            proof = self.prover.part(message.chunk)
            if proof is None:
                return False
            message = ProvedPart(self.serial, self.attempt, message.chunk, *proof)
        chunk = chunks.pop()
        self._part_sent.add((chunk, peer))
        payload = self._encoded.pop(chunk, None)
        self._encoded_bytes -= size_bytes(payload)
        send(peer, message, self.reducer.encode(chunk) if payload is None else payload)
        return True

    def _send_mean(self, peer: bytes, room: Room, send: SendBulk) -> bool:
        sent = self._means_sent[peer]
        if sent == len(self._reduced) or room(peer) < self._mean_sizes[self._reduced[sent]]:
            return False
        chunk = self._reduced[sent]
        message = MeanChunk(self.serial, self.attempt, chunk)
        if self.prover:
            proof = self.prover.mean(chunk)
            if proof is None:
                return False
            message = ProvedMean(self.serial, self.attempt, chunk, *proof)
        self._means_sent[peer] = sent + 1
        mean = self._means[chunk]
        assert mean is not None
        send(peer, message, mean)
        return True

    def _has_all_parts(self, chunk: int) -> bool:
        return len(self._parts[chunk]) == len(self._others)

    def _reduce_next(self) -> bool:
        if not self._to_reduce:
            return False
        self._reduce(self._to_reduce.popleft())
        return True

    def _reduce(self, chunk: int) -> None:
        plan = self._plan
        assert plan is not None
        got = self._parts[chunk]
        # Where it has to be shown of what a mean is made, this member adds what it vouches for too.
        own = self.reducer.encode(chunk) if self.prover else None
        parts = [Part(i, share, got.get(member, own)) for i, member, share in plan.shares]
        try:
            mean = self.reducer.reduce(chunk, parts)
        except Poisoned as error:
            blamed = plan.founders[error.member]
            self.poisoned = Poison(blamed, error.reason, chunk, mean=False, alone=error.alone)
            return
        squares = zip(plan.shares, self.reducer.part_squares, strict=True)
        of_others = [(i, square) for (i, member, _), square in squares if member != self._me]
        too_long = self.norms.add_parts(chunk, of_others)
        if too_long is not None:  # its share of the mean would be more than it should
            reason, long = "its contribution is longer than it says", self.norms.long_parts(too_long)
            self.poisoned = Poison(plan.founders[too_long], reason, chunk, False, False, long)
            return
        self._take(self._me, chunk, mean)
        self._reduced.append(chunk)
        self._to_send = dict.fromkeys(self._part_queues)
        if self.prover:
            self.prover.reduced(chunk, mean)

    def _take(self, owner: bytes, chunk: int, mean: Payload) -> None:
        self._means[chunk] = mean
        self._to_keep.append((owner, chunk, mean))

    def _keep_next(self) -> bool:
        if not self._to_keep:
            return False
        owner, chunk, mean = self._to_keep.popleft()
        try:
            square = self.reducer.accept(chunk, mean)
        except Poisoned as error:
            self.poisoned = Poison(owner, error.reason, chunk, mean=True, alone=error.alone)
            return False
        if not self.norms.add_mean(owner, chunk, square) and owner != self._me:
            reason, long = "its means are longer than any contribution", self.norms.long_means(owner)
            self.poisoned = Poison(owner, reason, chunk, True, False, long)
            return False
        known = self.prover.mean_digests.get(chunk) if self.prover else None
        self._digests[chunk] = known or digest_of(mean)
        self._means[chunk] = self.reducer.kept(chunk, mean)
        self._missing -= 1
        return bool(self._to_keep)

    # -- proofs -------------------------------------------------------------------------------

    def refused(self) -> list[tuple[int, Payload]]:
        """The chunk that must not be used, or those that together are too long, as they came from another."""
        found, held = self.poisoned, []
        if found is not None and found.peer != self._me:
            for chunk in found.long or (found.chunk,):
                payload = self._means[chunk] if found.mean else self._parts[chunk].get(found.peer)
                if payload is not None:
                    held.append((chunk, payload))
        return held

    def added(self, chunk: int, section: slice) -> Payload:
        """What this member adds of its own to a section of a mean that it makes, in fp32."""
        return self.reducer.own(chunk, self.prover is not None, section)

    def made_of(self, chunk: int) -> list[tuple[bytes, Proof, Payload]]:
        """Of what a mean of this member is made in a proved attempt: author, proof and part of each member;
        nothing if it cannot be shown."""
        if self.prover is None or self._owners[chunk] != self._me:
            return []
        found = []
        for member in self.members:
            if member == self._me:
                found.append((member, self.prover.own_part(chunk, self._encode), self.reducer.encode(chunk)))
            elif (proof := self.prover.proof_of(member, chunk, mean=False)) is not None:
                found.append((member, proof, self._parts[chunk][member]))
        return found

    def _encode(self, chunk: int) -> Payload:
        """A part that is about to be vouched for, and then to be sent: kept so long, as far as that goes."""
        payload = self.reducer.encode(chunk)
        if self._owners[chunk] != self._me and self._encoded_bytes < KEPT_BYTES:
            self._encoded[chunk] = payload
            self._encoded_bytes += size_bytes(payload)
        return payload

    def _begin_proofs(self, plan: Plan) -> None:
        self._encoded, self._encoded_bytes = {}, 0
        before, self.prover = self.prover, self._prover if plan.proved else None
        if self.prover is None:
            return
        if before is None:  # what came before was vouched for by nobody, and others drop what we sent
            self._part_sent = set()
            for parts in self._parts:
                parts.clear()
        self.prover.begin(plan.attempt, plan.founders, plan.lost, self._owners)

    def _proof_beside(self, message: PartChunk | MeanChunk) -> Proof | None:
        """Raises `BadFrame` if there is one where none is due."""
        if not isinstance(message, ProvedPart | ProvedMean):
            return None
        if self.prover is None and message.attempt == self.attempt:
            raise BadFrame("a proof where none is due")
        return message.path, message.signature

    def _refuse(self, peer: bytes, chunk: int, *, mean: bool) -> bool:
        """It is not what its sender vouched for: that is said at once, for the right one may never come."""
        found = self.prover.equivocation if self.prover else None
        two = found is not None and found.author == peer
        reason = "it vouched for two different things" if two else "it sent what it did not vouch for"
        self.poisoned = Poison(peer, reason, chunk, mean, alone=False)
        return False
