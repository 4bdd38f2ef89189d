"""What a seed comes to does not depend on how Python hashes, which every process draws anew: a failure that
was seen elsewhere can be replayed here.

Nothing may leave in the order of a set. Each world is run in two processes that hash otherwise.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

WORLDS = {
    "rounds": "run.run_seed(3).trace_hash",
    "exchanges": "run.run_seed(3, exchanges=2).trace_hash",
    "disks": "run.run_seed(465, disks=True).trace_hash",
    "a liar": "roles.report_of('liar', 3, rounds=8).to_json()",
    "an equivocator": "roles.report_of('equivocator', 4, rounds=8).to_json()",
    "gossip": "gossiping(gossip_world.GossipWorld(11, 5))",
}
_PROGRAM = """
from tests.sim import gossip_world, roles, run
from tests.sim.gossip_world import key_of

def gossiping(world):
    world.net.run(10.0)
    world.net.crash(key_of(2))
    world.net.run(16.0)
    return world.net.trace_hash()
"""


def came_to(world: str, hash_seed: int) -> str:
    """What it came to, in a process of its own."""
    program = f"{_PROGRAM}\nprint({WORLDS[world]})"
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, timeout=300, check=True
    )
    return hashlib.sha256(done.stdout).hexdigest()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", WORLDS)
def test_a_seed_comes_to_the_same_however_python_hashes(world: str) -> None:
    assert came_to(world, 0) == came_to(world, 1)
