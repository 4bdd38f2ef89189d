"""What it costs that a round is proved: members sign what they send, and check what they get.

*line* is in virtual time: rounds of --peers equal peers on links of --rate, as the simulator has them, where
computing takes no time. It counts what is sent more, and that no mean leaves before its owner has them all.
*computing* is on this machine: all members of one exchange in one process, no links at all, so that digests,
signatures and encoding twice weigh as much as they ever can; medians of --repeats, both kinds by turns.

    python scripts/bench_proofs.py
    python scripts/bench_proofs.py --rate 1e9 --codec fp32
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from diloco.compression.codecs import codec
from diloco.methods.wire_formats import WIRE_FORMATS
from diloco.outer.tensor_reducer import TensorReducer
from diloco.simulation.runner import simulate
from peers.admission.identity import Identity, verify
from peers.coordinator.suspicion import Suspicion
from peers.node import Node
from peers.protocol.signing import INDEX_TAG
from peers.protocol.traces import CommittedTrace
from transport.collectives.chunks import PartChunk
from transport.collectives.direct_reduce import DirectReduce
from transport.collectives.plan import Plan, chunk_elements_for
from transport.collectives.proofs import Terms
from transport.collectives.prover import Prover
from transport.effects import Trace
from transport.limits import LIMITS


class Suspicious(Suspicion):
    """It has every round proved."""

    def proves(self, members: Iterable[bytes], index: int) -> bool:
        return True


def round_seconds(args: argparse.Namespace, proved: bool) -> float:
    """Of a round in virtual time, from its opening to its commit."""
    seconds: list[float] = []

    class Timed(Node):
        def start(self, now: float) -> None:
            if self.coordinator and proved:
                for course in self.coordinator.state.courses.values():
                    course.suspicion = Suspicious()
            super().start(now)

        def trace(self, trace: Trace) -> None:
            if isinstance(trace, CommittedTrace):
                seconds.append(trace.seconds)
            super().trace(trace)

    link = {"up": args.rate, "down": args.rate, "latency": "10ms"}
    scenario: dict[str, Any] = {
        "name": "proofs",
        "run": {"rounds": 4},
        "method": {"preset": "diloco", "sync_every": 20, "codec": args.codec},
        "model": {"parameters": args.parameters},
        "peers": [{"name": "peer", "count": args.peers, "step": "1s", **link}],
    }
    simulate(scenario, make_node=Timed)
    return statistics.median(seconds)


class Notary:
    """Real keys, as members have them."""

    def __init__(self, identity: Identity, keys: dict[bytes, bytes]) -> None:
        self._identity = identity
        self._keys = keys

    def sign(self, statement: bytes) -> bytes:
        return self._identity.sign(INDEX_TAG, statement)

    def verify(self, author: bytes, statement: bytes, signature: bytes) -> bool:
        return verify(self._keys[author], INDEX_TAG, statement, signature)


def computing_seconds(args: argparse.Namespace, vectors: Sequence[torch.Tensor], proved: bool) -> float:
    """Of one exchange of all members in this process."""
    identities = [Identity.ephemeral() for _ in vectors]
    keys = tuple(sorted(each.keys.public for each in identities))
    public = {each.keys.public: each.public for each in identities}
    by_key = {each.keys.public: each for each in identities}
    size = len(vectors[0])
    chunk = chunk_elements_for(size, len(keys), LIMITS, WIRE_FORMATS[args.codec].bytes_per_element)
    terms = Terms(bytes(32), 1, bytes(32), 0, size)
    members = {
        key: DirectReduce(
            1,
            key,
            TensorReducer(codec(args.codec), size, vector),
            chunk,
            0.0,
            Prover(key, Notary(by_key[key], public), terms),
        )
        for key, vector in zip(keys, vectors, strict=True)
    }
    wire: deque[tuple[bytes, bytes, Any, Any]] = deque()
    began = time.process_time()
    for member in members.values():
        member.begin(0.0, Plan(0, keys, (1.0,) * len(keys), proved=proved))
    moved = True
    while moved:
        moved = False
        for me, member in members.items():
            moved |= member.pump(lambda peer: 1 << 40, lambda *sent, me=me: wire.append((me, *sent)))
        while wire:
            sender, to, message, payload = wire.popleft()
            take = members[to].part if isinstance(message, PartChunk) else members[to].mean
            take(0.0, sender, message, payload)
            moved = True
    assert all(member.done for member in members.values())
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--rate", default="100Mbps", help="of each link, both ways")
    parser.add_argument("--parameters", type=int, default=50_000_000)
    parser.add_argument("--codec", default="int8")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    plain, proved = (round_seconds(args, each) for each in (False, True))
    print(f"line       {plain:8.3f} s, proved {proved:8.3f} s: {100 * (proved / plain - 1):+.2f} %")
    vectors = [torch.randn(args.parameters // 4) for _ in range(args.peers)]
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(args.repeats):
        for kind in (False, True):
            seconds[kind].append(computing_seconds(args, vectors, kind))
    bare, signed = (statistics.median(seconds[kind]) for kind in (False, True))
    print(f"computing  {bare:8.3f} s, proved {signed:8.3f} s: {100 * (signed / bare - 1):+.1f} %")
    # One member's share of the work, beside the line that it waits for anyway.
    extra = 4 * (signed - bare) / args.peers
    print(
        f"together   {100 * ((proved - plain + extra) / (plain + 4 * bare / args.peers)):+.2f} % of a round"
    )


if __name__ == "__main__":
    main()
