"""How what is sent, told, decided or written reads in a story: short names, and one sentence for each kind.

Long hashes never appear: commits go by their number, other digests by a letter. A kind that has no sentence
here is told by its bare name, so that nothing new goes by unseen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from peers.coordinator import journal
from peers.protocol import events, evidence, messages, naming, placing, spots, stage_work, stream, traces
from peers.protocol.record import Record
from transport import effects
from transport.collectives import chunks, fetch
from transport.frames import unpack
from transport.link import messages as link

MODULES = {
    messages: "messages",
    evidence: "messages",
    spots: "messages",
    naming: "messages",
    placing: "stages",
    stream: "microbatches",
    stage_work: "work",
    chunks: "chunks",
    fetch: "state",
    link: "links",
    effects: "links",
    journal: "journal",
    traces: "decisions",
    events: "events",
}
APART = {
    messages.CaughtUp: "heads",
    traces.ActiveTrace: "heads",
    events.BecameActive: "heads",
    events.ContributionEnded: "fates",
    link.Stale: "messages",
    **dict.fromkeys((stream.StandsSince, stream.ReplicaIs, stream.ReplicaGone, stream.RosterIs), "replicas"),
    **dict.fromkeys((stream.Meet, stream.Holding, stream.Slots), "slots"),
    **dict.fromkeys((stage_work.StreamOpened, stage_work.GivenUp, stage_work.MicrobatchEnded), "ends"),
}
TOPICS = tuple(dict.fromkeys([*MODULES.values(), *APART.values()]))
"""What a script may ask to be told of."""
SIGNS_OF_LIFE = {
    *(link.Ack, link.Ask, messages.Report, messages.Pace, traces.ReportTrace, events.PaceSet),
    messages.NewestRecord,
}
REPEATS = {
    *(traces.CertifiedTrace, traces.EnteredTrace, traces.OpenedTrace, traces.CommittedTrace),
    *(events.RoundOpened, events.RoundAborted, events.PeersJoined, events.PeerLeft),
}
"""What only repeats a message that is in the story already."""
KINDS = {
    name: of
    for module in MODULES
    for name, of in vars(module).items()
    if isinstance(of, type) and of.__module__ == module.__name__
}


@dataclass
class Names:
    """Short names for keys, hashes and serials, the same throughout a story."""

    peers: dict[bytes, str]
    beginning: str
    """What the state is called that the run begins with."""
    _commits: dict[bytes, str] = field(default_factory=dict)
    _standing: dict[int, str] = field(default_factory=dict)
    _letters: dict[tuple[str, bytes], str] = field(default_factory=dict)

    def peer(self, key: bytes) -> str:
        return self.peers.get(key, "a stranger")

    def all(self, keys: Iterable[bytes]) -> str:
        return " ".join(sorted(map(self.peer, keys)))

    def commit(self, version: bytes) -> str:
        return self._commits.get(version, self.beginning)

    def learn(self, entry: Any) -> None:
        """A commit that is written gives a state its name."""
        if isinstance(entry, journal.CommitWritten):
            self._commits[entry.commit().hash()] = f"commit {entry.commit().index}"
        elif isinstance(entry, journal.Stands) and entry.since:
            again = sum(name.rstrip("'") == self.peer(entry.key) for name in self._standing.values())
            self._standing[entry.since] = self.peer(entry.key) + "'" * again

    def microbatch(self, feeder: int, number: int) -> str:
        """By its feeder's membership."""
        return f"microbatch {number} of {self._standing[feeder]}"

    def route(self, members: Iterable[int]) -> str:
        """A way through the stages."""
        return " ".join(self._standing[each] for each in members)

    def round(self, serial: int) -> str:
        """A round of a coordinator's term, or with gossip a swap, which no coordinator numbers."""
        term, number = divmod(serial, 1 << 32)
        return f"round {number}" + (f" of term {term}" if term > 1 else "") if term else f"swap {serial}"

    def letter(self, of: str, digest: bytes) -> str:
        """Letters in the order in which digests of a kind appear."""
        count = sum(kind == of for kind, _ in self._letters)
        return self._letters.setdefault((of, digest), f"{of}-{chr(ord('A') + count % 26)}")

    def blob(self, digest: bytes) -> str:
        """What is fetched by its digest: a mean that was told of, or else a state."""
        return self.letter("mean" if ("mean", digest) in self._letters else "state", digest)

    def plain(self, reason: str) -> str:
        """A reason in a core's words; the worlds call peers w0 or g0 where stories say a."""
        reason = re.sub(r"\b[0-9a-f]{64}\b", lambda found: self.commit(bytes.fromhex(found[0])), reason)
        return re.sub(r"\b[wg](\d+)\b", lambda found: chr(ord("a") + int(found[1])), reason)


def topic_of(thing: object) -> str:
    """Which part of a story tells of this; nothing for what no story is about."""
    kind = type(thing)
    if kind in SIGNS_OF_LIFE | REPEATS or (kind.__module__ == stream.__name__ and getattr(thing, "piece", 0)):
        return ""  # of a tensor the first piece is told
    return APART.get(kind) or next(
        topic for module, topic in MODULES.items() if kind.__module__ == module.__name__
    )


def sentence_of(n: Names, thing: object) -> str:
    """What a story says of this."""
    sentence = SENTENCES.get(type(thing))
    return type(thing).__name__ if sentence is None else sentence(n, thing)


def _open(n: Names, m: messages.Open) -> str:
    members = [key for i, key in enumerate(m.founders) if i not in m.lost]
    again = f", attempt {m.attempt + 1}" if m.attempt else ""
    again += ", proved" if m.proved else ""
    return f"Open: {n.round(m.serial)}{again}, with {n.all(members)}, on top of {n.commit(m.base)}"


def _record(n: Names, record: Record) -> str:
    shares = sorted((n.peer(k), f"{w:g}") for k, w in zip(record.members, record.weights, strict=True))
    weights = ", ".join(" ".join(each) for each in shares)
    return f"commit {record.index} is {n.letter('mean', record.result)}, weights {weights}"


def _hello(n: Names, m: link.Hello) -> str:
    mine, yours = (f"{s.incarnation % 100}.{s.generation}" for s in (m.session, m.known))
    known = f"yours is {yours}" if m.known != link.NOBODY else "yours I do not know"
    return f"Hello: this is my session {mine}, {known}"


def _piece(n: Names, m: fetch.Want | fetch.Piece) -> str:
    what = "the digests" if m.index else f"piece {m.piece}"
    return f"{type(m).__name__}: {what} of {n.blob(m.blob)}"


def _applies(n: Names, e: events.RoundCommitted) -> str:
    ours = "nothing" if e.number is None else f"{e.tokens} tokens"
    return f"apply {n.commit(e.record.hash())}, with {ours} of yours in it"


def _failed(n: Names, e: events.SwapFailed) -> str:
    then = "take your outer step alone" if e.alone else "train on"
    return f"swap {e.step + 1} fails ({n.plain(e.reason)}), {then}"


HAS = ("I lack, and take of nobody who is gone,", "I have counted", "I compute", "I have given up")


def _told(n: Names, e: stage_work.GivenUp | stage_work.MicrobatchEnded) -> str:
    return n.microbatch(e.microbatch.incarnation, e.microbatch.number)


SENTENCES: dict[type, Callable[[Names, Any], str]] = {
    messages.Enter: lambda n, m: (
        "Enter: here I am, " + (f"I hold {n.commit(m.head)}" if m.holds_state else "I hold no state")
    ),
    messages.Ready: lambda n, m: f"Ready: I offer {m.tokens} tokens, trained on top of {n.commit(m.base)}",
    messages.Withdraw: lambda n, m: "Withdraw: I take that offer back",
    messages.Done: lambda n, m: f"Done: I hold the whole mean, and it is {n.letter('mean', m.digest)}",
    messages.Stuck: lambda n, m: f"Stuck: I get nothing from {n.all(m.peers)}",
    messages.Decline: lambda n, m: f"Decline: {n.plain(m.reason)}",
    naming.StateNamed: lambda n, m: (
        f"StateNamed: what I hold after {n.commit(m.version)} is {n.letter('state', m.state)}"
    ),
    naming.NameEvery: lambda n, m: (
        f"NameEvery: {'name every state that you hold' if m.on else 'name no more states'}"
    ),
    naming.NameState: lambda n, m: f"NameState: name what you hold after {n.commit(m.version)}",
    naming.Saving: lambda n, m: f"Saving: I write what I hold after {n.commit(m.head)} to my disk",
    messages.Applied: lambda n, m: (
        f"Applied: after {n.commit(m.version)} I hold what has {n.letter('check', m.check)}"
    ),
    messages.Applying: lambda n, m: f"Applying: I have the result of {n.commit(m.head)}, and apply it",
    messages.CaughtUp: lambda n, m: f"CaughtUp: my head is {n.commit(m.head)}",
    messages.Entered: lambda n, m: "Entered: you are in",
    messages.MemberIs: lambda n, m: f"MemberIs: {n.peer(m.key)} is in",
    messages.MemberGone: lambda n, m: f"MemberGone: {n.peer(m.key)} is out",
    messages.CatchUp: lambda n, m: (
        f"CatchUp: fetch the state of {n.commit(m.version)} from {n.all(m.donors)}"
    ),
    spots.Spot: lambda n, m: f"Spot: {n.all([m.checker])} computes a mean again, send it your part",
    spots.SpotPart: lambda n, m: f"SpotPart: my part of chunk {m.chunk}, {n.round(m.serial)}",
    spots.Spotted: lambda n, m: f"Spotted: that mean is {'right' if m.agrees else 'not right'}",
    messages.Serve: lambda n, m: "Serve: keep your state, somebody comes for it",
    messages.Open: _open,
    evidence.Roots: lambda n, m: f"Roots: by whose word I have the means of {n.round(m.serial)}",
    messages.Abort: lambda n, m: f"Abort: {n.round(m.serial)} is void" + (", offer again" if m.again else ""),
    messages.Committed: lambda n, m: f"Committed: {_record(n, unpack(m.record))}",
    messages.Counted: lambda n, m: f"Counted: {n.commit(m.record)} counts your part in {n.round(m.serial)}",
    messages.NoSwap: lambda n, m: f"NoSwap: I am not in swap {m.serial} with you",
    chunks.EarlyPart: lambda n, m: f"EarlyPart: my part of chunk {m.chunk}, of a round to come",
    chunks.PartChunk: lambda n, m: f"PartChunk: my part of chunk {m.chunk}, {n.round(m.serial)}",
    chunks.MeanChunk: lambda n, m: f"MeanChunk: the mean of chunk {m.chunk}, {n.round(m.serial)}",
    fetch.Want: _piece,
    fetch.Piece: _piece,
    stream.Forward: lambda n, m: f"Forward: {n.microbatch(m.route[0], m.number)}, by {n.route(m.route)}",
    stream.Targets: lambda n, m: f"Targets: of {n.microbatch(m.me, m.number)}",
    stream.Backward: lambda n, m: f"Backward: the gradient of {n.microbatch(m.feeder, m.number)}",
    stream.GradientHeard: lambda n, m: f"GradientHeard: I have that of {n.microbatch(m.feeder, m.number)}",
    stream.Ended: lambda n, m: f"Ended: expect nothing of {n.microbatch(m.feeder, m.number)}",
    stream.Ask: lambda n, m: f"Ask: do you have {n.microbatch(m.feeder, m.number)}?",
    stream.Has: lambda n, m: f"Has: {HAS[m.has]} {n.microbatch(m.feeder, m.number)}",
    stream.AskTargets: lambda n, m: f"AskTargets: I lack those of {n.microbatch(m.you, m.number)}",
    stream.ReplicaIs: lambda n, m: f"ReplicaIs: {n.peer(m.key)} trains stage {m.stage}",
    stream.ReplicaGone: lambda n, m: f"ReplicaGone: {n.peer(m.key)} is out",
    stage_work.GivenUp: lambda n, e: f"drop {_told(n, e)}",
    stage_work.MicrobatchEnded: lambda n, e: (
        f"{_told(n, e)} is {e.how.name.lower()}"
        + (f", given up below stage {e.stage}" if e.how is stage_work.How.PARTIAL else "")
    ),
    journal.Stands: lambda n, e: (
        f"writes: {n.peer(e.key)} {'stands from now on' if e.since else 'stands no more'}"
    ),
    link.Hello: _hello,
    link.Stale: lambda n, m: "Stale: a newer process has your identity, stop",
    effects.Connect: lambda n, e: f"dials {n.peer(e.peer)}",
    effects.Close: lambda n, e: f"drops its link to {n.peer(e.peer)} ({n.plain(e.reason)})",
    journal.TermBegan: lambda n, e: f"writes: term {e.term} begins",
    journal.PeerInvited: lambda n, e: f"writes: {n.peer(e.key)} may enter",
    journal.PeerCertified: lambda n, e: f"writes: {n.peer(e.key)} may enter",
    journal.PeerSigns: lambda n, e: f"writes: {n.peer(e.key)} signs with a key of its own",
    journal.IncarnationSeen: lambda n, e: f"writes: a newer process of {n.peer(e.key)} is here",
    journal.CommitWritten: lambda n, e: f"writes: {_record(n, e.commit())}",
    traces.RemovedTrace: lambda n, t: f"takes {n.peer(t.peer)} off the roster: {n.plain(t.reason)}",
    traces.ActiveTrace: lambda n, t: f"counts on {n.peer(t.peer)} from now on",
    traces.ParityTrace: lambda n, t: f"finds that {n.peer(t.peer)} holds another state than the rest",
    traces.RepairedTrace: lambda n, t: f"goes on with {n.round(t.serial)} without {n.all(t.lost)}",
    traces.SetAsideTrace: lambda n, t: (
        f"leaves {n.peer(t.peer)} out of {n.round(t.serial)}: {n.plain(t.reason)}"
    ),
    traces.PartedTrace: lambda n, t: f"lets {n.all(t.peers)} own no chunks: they do not reach each other",
    traces.DissentTrace: lambda n, t: (
        f"finds that the means differ: {n.all(t.peers) or 'nobody'} against most"
    ),
    traces.AbortedTrace: lambda n, t: f"gives {n.round(t.serial)} up: {n.plain(t.reason)}",
    events.NameWanted: lambda n, e: "hash a state beside training",
    events.StateFetched: lambda n, e: f"load the state of {n.commit(e.version)}",
    events.RoundCommitted: _applies,
    events.VersionExpected: lambda n, e: "that offer is not taken, a newer commit is on its way",
    events.Swapped: lambda n, e: f"apply the mean of swap {e.step + 1}, made with {n.all(e.partners)}",
    events.SwapFailed: _failed,
    events.ContributionEnded: lambda n, e: (
        f"{e.tokens} tokens of yours are {e.fate}" + (f" ({n.plain(e.reason)})" if e.reason else "")
    ),
    events.BecameActive: lambda n, e: f"you hold {n.commit(e.head)}, what you train counts",
    events.FellBehind: lambda n, e: "you must fetch the state",
    events.CoordinatorLost: lambda n, e: "the coordinator is silent, train on",
    events.CoordinatorDiskFull: lambda n, e: "the coordinator cannot write, train on",
    events.CoordinatorBack: lambda n, e: "the coordinator is back",
    events.IdentitySuperseded: lambda n, e: "a newer process has your identity, stop",
}
