"""A scenario with a model in stages that runs in a fraction of a second; for tests of what it shows."""

from __future__ import annotations

from typing import Any


def small(stages: int = 3, num_peers: int = 6, **more: Any) -> dict[str, Any]:
    """Plain dicts of it. A boundary takes 0.08 s of a line of 100 Mbit/s, a microbatch 1 s of a replica."""
    scenario: dict[str, Any] = {
        "name": "small",
        "end": "1h",
        "run": {"rounds": 2, "min_peers": 1, "failure_timeout_s": 20.0, "grace_s": 60.0},
        "method": {"preset": "diloco", "sync_every": 2, "codec": "int8"},
        "model": {"parameters": 600_000, "layers": 6, "width": 976, "context": 1000},
        "pipeline": {"stages": stages, "microbatch": 1, "quota": 4, "activations": "int8"},
        "peers": [
            {
                "name": "peer",
                "count": num_peers,
                "step": "1s",
                "up": "100Mbps",
                "latency": "25ms",
                "jitter": 0.0,
            }
        ],
    }
    for key, value in more.items():
        scenario[key] = {**scenario[key], **value} if isinstance(value, dict) else value
    return scenario
