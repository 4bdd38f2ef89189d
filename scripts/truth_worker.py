"""One worker of truth_simulate.py: a real process whose every byte crosses its own emulated access link.

It trains nothing: an inner step is a sleep, so that two cores are enough for several workers. Everything else
is what `diloco join` has. What it dials is dialled through its link; what it listens on is advertised at the
link's far end.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from emulate_link import BackgroundLink, free_port, running_link
from link_options import LinkSpec
from torch import nn

import diloco
from peers.node import Node
from peers.protocol.events import RoundCommitted
from transport.effects import Connect, Effect
from transport.sockets import aes_hardware

LOCAL = "127.0.0.1"


def dial_through(link: BackgroundLink) -> None:
    """From here on every address that this process dials is reached over ``link``."""
    drain, near = Node.drain, dict[str, str]()

    def through(address: str) -> str:
        if address not in near:
            host, port = address.removeprefix("tcp://").split(":")
            bound = link.map((LOCAL, 0), (host, int(port)))
            near[address] = f"tcp://{bound[0]}:{bound[1]}"
        return near[address]

    def drained(node: Node) -> list[Effect]:
        return [
            replace(each, addresses=tuple(map(through, each.addresses)))
            if isinstance(each, Connect)
            else each
            for each in drain(node)
        ]

    Node.drain = drained  # type: ignore[method-assign]


def work(options: argparse.Namespace, link: BackgroundLink) -> None:
    """Join, and step until the run is finished. One line of JSON for each commit."""
    # Bulk is dialled at the machine where control was reached, which no chain of two links stands for here.
    aes_hardware.says_aes = lambda cpuinfo: False
    port = free_port()
    far = link.map((LOCAL, 0), (LOCAL, port), back=True)
    dial_through(link)
    model = nn.Module()
    model.values = nn.Parameter(torch.zeros(options.parameters))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    listen, advertise = f"tcp://{LOCAL}:{port}", f"tcp://{LOCAL}:{far[1]}"
    ticket = options.ticket.read_text().strip()
    with (
        diloco.join(ticket, listen=listen, advertise=advertise, name=options.name) as swarm,
        options.log.open("w") as log,
    ):

        def write(what: str, **fields: Any) -> None:
            print(json.dumps({"what": what, "at": time.monotonic(), **fields}), file=log, flush=True)

        def on_event(event: object) -> None:
            if isinstance(event, RoundCommitted):
                write("commit", index=event.record.index, steps=outer.step, waited_s=outer.waited_s)

        write("begin")
        outer = diloco.attach(model, optimizer, swarm, tokens_per_step=1000, on_event=on_event)
        write("active")
        while not outer.finished:
            time.sleep(options.step)
            optimizer.step()
        write("end", steps=outer.step, waited_s=outer.waited_s)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ticket", type=Path)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--name")
    parser.add_argument("--parameters", type=int)
    parser.add_argument("--step", type=float)
    parser.add_argument("--rate", type=float, help="bits per second, each way")
    parser.add_argument("--rtt", type=float, help="seconds that this link adds to a round trip")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with running_link(LinkSpec(options.rate, options.rtt, 1_250_000)) as link:
        work(options, link)


if __name__ == "__main__":
    main()
