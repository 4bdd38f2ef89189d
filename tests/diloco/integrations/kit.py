"""Shared by the tests of integrations: small models and data, and two workers of one run in two threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

import diloco

T = TypeVar("T")
VOCABULARY, LENGTH = 32, 8
LOOPBACK = "tcp://127.0.0.1:0"


def settings(rounds: int = 3, every: int = 4, min_peers: int = 2, **more: Any) -> diloco.RunSettings:
    method = {"preset": "diloco", "sync_every": every, "codec": "fp32", **more}
    run = {"rounds": rounds, "min_peers": min_peers}
    return diloco.RunSettings.model_validate({"run": run, "method": method})


def sentences(count: int = 64) -> list[dict[str, Tensor]]:
    """Numbers that count on, from places of their own: something to learn."""
    starts = torch.arange(count) * 5
    rows = (starts[:, None] + torch.arange(LENGTH)) % VOCABULARY
    return [{"input_ids": row, "labels": row} for row in rows]


def two_workers(
    home: Path, run: diloco.RunSettings, worker: Callable[[diloco.Swarm, Path], T]
) -> tuple[T, T]:
    """What ``worker`` returns in the host's process and in a joiner's, each with a folder of its own."""
    for name in ("a", "b"):
        (home / name).mkdir()
    with diloco.host(run, listen=LOOPBACK, state=home / "host") as host, ThreadPoolExecutor(2) as pool:

        def joined() -> T:
            with diloco.join(host.ticket, name="b", listen=LOOPBACK) as swarm:
                return worker(swarm, home / "b")

        first, second = pool.submit(worker, host, home / "a"), pool.submit(joined)
        return first.result(60), second.result(60)
