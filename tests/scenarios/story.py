"""The story that production nodes tell: what each sends, is told, decides and writes, in order.

`TellingNode` is the production node, overheard at the seam to its driver: frames that come in, effects that
go out. The log keeps everything; the story is what was in its topics when it happened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from peers.node import Node
from tests.scenarios.words import Names, sentence_of, topic_of
from transport.collectives.chunks import MeanChunk
from transport.effects import CONTROL_LANE, Deliver, Effect, Payload, Phantom, Send, Store
from transport.frames import from_items, unpack, unpack_items
from transport.link.messages import Ack, Hello, Stale


@dataclass
class Entry:
    """Somebody did something, to ``other`` perhaps. Whether what it sent ``arrived`` turns out later."""

    at_s: float
    who: str
    act: str
    thing: Any
    other: str
    told: bool
    again: bool = False
    arrived: bool = False

    def is_a(self, act: str, kind: str) -> bool:
        return self.act == act and type(self.thing).__name__ == kind

    def text(self, names: Names) -> str:
        """How a story puts it."""
        if self.act == "does":
            return f"-- {self.thing} --"
        prefix = "is told: " if self.act == "hears" else ""
        again = " (again)" if self.again else ""
        lost = " (lost)" if self.act == "sends" and not self.arrived else ""
        return prefix + sentence_of(names, self.thing) + again + lost


@dataclass
class Log:
    """Everything that happened. Times of a story count from the moment at which it began to be told."""

    names: Names
    clock: Callable[[], float] = lambda: 0.0
    entries: list[Entry] = field(default_factory=list)
    topics: tuple[str, ...] = ()
    began_s: float = 0.0
    _sent: dict[tuple[str, str, bytes], Entry] = field(default_factory=dict)

    def tell(self, topics: tuple[str, ...]) -> None:
        """Tell of these topics from now on."""
        self.began_s = self.began_s if self.topics else self.clock()
        self.topics = topics

    def add(self, who: str, act: str, thing: Any, other: str = "") -> Entry:
        """Somebody did something just now."""
        told = bool(self.topics) if act == "does" else act != "gets" and topic_of(thing) in self.topics
        self.entries.append(Entry(self.clock(), who, act, thing, other, told))
        return self.entries[-1]

    def effects(self, node: TellingNode, effects: list[Effect]) -> None:
        """What a node hands to its driver."""
        for effect in effects:
            if isinstance(effect, Send):
                self._sends(node, effect)
            elif isinstance(effect, Store):
                self.names.learn(unpack(effect.entry))
                self.add(node.name, "writes", unpack(effect.entry))
            elif isinstance(effect, Deliver):
                self.add(node.name, "hears", effect.event)
            else:
                self.add(node.name, "notes", effect)

    def _sends(self, node: TellingNode, frame: Send) -> None:
        thing = from_items(unpack_items(frame.header)[-1])
        if isinstance(thing, (Hello, Stale)) and frame.lane != CONTROL_LANE:
            return  # these are said on each lane of a link
        to = self.names.peer(frame.peer)
        entry = self._sent[self.names.peer(node.key), to, frame.header] = self.add(
            node.name, "sends", thing, to
        )
        entry.again = frame.again

    def arrives(self, node: TellingNode, peer: bytes, header: bytes) -> None:
        """A frame comes to a node, which takes it unless it is meant for a session that is over."""
        said = from_items(unpack_items(header)[0])
        if isinstance(said, Ack) and (
            peer not in node.links.by_peer or node.links.by_peer[peer].session != said.known
        ):
            return
        entry = self._sent.get((self.names.peer(peer), self.names.peer(node.key), header))
        if entry is not None and not entry.arrived:
            entry.arrived, entry.other = True, node.name
            self.add(node.name, "gets", entry.thing, entry.who)


class TellingNode(Node):
    """A production node that is overheard. Its ``name`` tells processes of one identity apart."""

    log: Log
    name: str
    falsifies = False
    """The next chunk of a mean that comes is another one in its memory."""

    def drain(self) -> list[Effect]:
        effects = super().drain()
        self.log.effects(self, effects)
        return effects

    def receive(self, now: float, peer: bytes, lane: int, header: bytes, payload: Payload | None) -> None:
        self.log.arrives(self, peer, header)
        if self.falsifies and isinstance(from_items(unpack_items(header)[-1]), MeanChunk):
            self.falsifies = False
            assert payload is not None
            assert not isinstance(payload, Phantom)
            payload = bytes([payload[0] ^ 1, *payload[1:]])
        super().receive(now, peer, lane, header, payload)


def story_of(log: Log) -> str:
    """The lines of the story. What one says to several at the same moment is one line."""
    told = [
        (entry.at_s - log.began_s, entry.who, entry.text(log.names), entry.other)
        for entry in log.entries
        if entry.told
    ]
    rows = [
        (*said, sorted({row[3] for row in rows} - {""}))
        for said, rows in groupby(told, key=lambda row: row[:3])
    ]
    left = [f"{who} -> {' '.join(to)}" if to else who for _, who, _, to in rows]
    width = max(map(len, left), default=0)
    return "".join(
        f"{at_s:6.1f}  {f'{name:<{width}}  ' if name else ''}{text}\n"
        for (at_s, _, text, _), name in zip(rows, left, strict=True)
    )
