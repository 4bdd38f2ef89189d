"""What a simulated run came to: plain facts, the same for equal scenarios and seeds.

Owns the shape of a report and its JSON. Everything is in virtual time, in seconds since the scenario began;
nothing of the machine that simulated is in it, so that a seed gives the same bytes anywhere. How it is shown
is in `tables` and `html`; how it is gathered in `recorder`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal

Activity = Literal["join", "compute", "wait", "frozen", "down", "forward", "backward", "bubble"]
"""What a peer does: it fetches the shared state, trains, waits for the network, is stopped, or is not
there. A replica of a stage goes forward and backward apart, but at the last stage, where that is training;
and it waits for microbatches."""
BUSY: tuple[Activity, ...] = ("compute", "forward", "backward")
"""What counts as being utilized."""
Purpose = Literal["control", "exchange", "early", "state", "stream"]
"""Parts that leave before their round opens are counted apart: if it never does, they were for nothing."""


@dataclass(frozen=True, slots=True)
class Span:
    """A peer does one thing for a while."""

    activity: Activity
    start_s: float
    end_s: float


@dataclass(slots=True)
class Exchange:
    """A peer's part in one round, from the opening to the result; it may train meanwhile."""

    fragment: int
    start_s: float
    end_s: float
    outcome: str
    """committed, aborted, swapped, alone (a swap without a partner) or unfinished."""


@dataclass(slots=True)
class PeerReport:
    """One peer over the whole run."""

    name: str
    region: str
    steps: int = 0
    """Inner steps."""
    tokens: int = 0
    tokens_applied: int = 0
    """Of those, in contributions that are in the shared model (gossip: in its own replica)."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By `Activity`; they add up to the time from its first start to the end of the run or its leaving."""
    utilization: float = 0.0
    """Share of the time since it first started that it computes."""
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes by `Purpose`."""
    received: dict[str, int] = field(default_factory=dict)
    sent_again: int = 0
    """Of those sent, bytes that were sent before and lost on the way."""
    spans: list[Span] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)


@dataclass(slots=True)
class StageReport:
    """All replicas of one stage, over the whole run."""

    stage: int
    num_parameters: int
    peers: list[str] = field(default_factory=list)
    """That ever trained it."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By `Activity`, of all its replicas together."""
    utilization: float = 0.0
    steps: int = 0
    """Inner steps of its replicas."""
    short_steps: int = 0
    """Of those, steps of fewer microbatches than the quota."""
    counted: int = 0
    """Microbatches that its inner steps took."""
    partial: int = 0
    """Given up below it, while it and those above may have counted them."""
    rounds: int = 0
    """That were committed."""
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes by `Purpose`."""


@dataclass(slots=True)
class Microbatches:
    """What became of those that were fed, by how, and of what was given up by cause."""

    fed: int = 0
    settled: int = 0
    partial: int = 0
    lost: int = 0
    by_cause: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    """Of one."""
    stream_bytes: int = 0
    """That one takes on all boundaries, both ways, by its size alone."""
    behind_bulk_s: float = 0.0
    """The longest that a boundary waited at its sender's line for other bulk, beside the twentieth of
    the line that this always has."""
    steps: list[tuple[str, float, float]] = field(default_factory=list)
    """Peer, begin and end of some inner steps of feeders, which the page draws close."""


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One committed round; with gossip, one outer step of everyone."""

    index: int
    fragment: int
    participants: int
    attempts: int
    """More than 1 if members were lost on the way."""
    started_s: float
    """When the first of its members offered its contribution."""
    gather_s: float
    """From there until the round opened: the slowest member's training, and the way to the coordinator."""
    exchange_s: float
    """From the opening to the commit."""
    land_s: float
    """From the commit until the last member was handed the result."""
    stage: int = 0
    """Whose round it was, of a model that is cut."""

    @property
    def end_s(self) -> float:
        return self.started_s + self.gather_s + self.exchange_s + self.land_s


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a moment: an injected event, or what the coordinator noted."""

    at_s: float
    peer: str
    text: str
    injected: bool


@dataclass(frozen=True, slots=True)
class Recovery:
    """What one injected fault cost; None where it did not come to that."""

    at_s: float
    what: str
    peer: str
    detect_s: float | None
    """Until the coordinator took the peer off its roster."""
    recommit_s: float | None
    """Until the next commit (gossip: swap)."""
    rejoin_s: float | None
    """From its restart, thaw or join until it holds the shared state."""


@dataclass(frozen=True, slots=True)
class RoleReport:
    """What a peer with a role did."""

    peer: str
    role: str
    deeds: dict[str, int]
    """How often, by what it did."""
    put_out: str = ""
    """What the host found it guilty of, and put it out for; nothing if it never did."""


@dataclass(slots=True)
class SimulationReport:
    """One simulated run."""

    scenario: str
    about: str
    seed: int
    mode: str
    method: str
    num_parameters: int
    ended: str
    """Why: the run is finished, or the scenario's end came."""
    seconds: float = 0.0
    """Of virtual time, until it ended."""
    utilization: float = 0.0
    """Mean over peers, weighted by the time that they were there."""
    tokens_per_s: float = 0.0
    """Tokens trained per second of the run."""
    ideal_tokens_per_s: float = 0.0
    """Without a network, faults and waiting: every peer computes from its start to the end."""
    tokens: int = 0
    tokens_applied: int = 0
    peers: list[PeerReport] = field(default_factory=list)
    rounds: list[RoundReport] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    losses: list[tuple[float, int, float]] = field(default_factory=list)
    """Trained: seconds, tokens of all peers, mean training loss since the last entry."""
    stages: list[StageReport] = field(default_factory=list)
    """Of a model that is cut."""
    microbatches: Microbatches | None = None
    """Likewise."""
    roles: list[RoleReport] = field(default_factory=list)
    """Of peers that mean harm."""
    honest_rate: float = 0.0
    """With roles: contributions of an honest peer that records count, per second."""
    honest_rate_alone: float = 0.0
    """The same in a run without those that have a role."""
    num_forged: int = 0
    """With roles and vectors: records with a mean that is not the sum of what its members sent."""
    num_set_aside: int = 0
    """With roles: how often an honest peer was left out of a round."""
    violations: list[str] = field(default_factory=list)
    """Invariants that did not hold."""
    num_events: int = 0
    """That the simulated network carried out."""
    trace_hash: str = ""
    """Names everything that happened."""

    def to_json(self) -> str:
        """Sorted and rounded to the nanosecond: equal runs give equal bytes. What is about stages is there if
        the model is cut."""
        plain = asdict(self)
        if not self.stages:
            del plain["stages"], plain["microbatches"]
            for each in plain["rounds"]:
                del each["stage"]
        return json.dumps(_rounded(plain), sort_keys=True, indent=1) + "\n"


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 9)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    return value
