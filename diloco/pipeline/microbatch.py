"""How a microbatch is named, and the seed of the random numbers that it draws at a stage.

Both are the same wherever the microbatch goes: a forward that is run again, or at another replica of the
stage, drops out the same values (PP6). Needs no torch.
"""

from __future__ import annotations

import hashlib

from peers.protocol.stage_work import MicrobatchId

__all__ = ["MicrobatchId", "random_seed"]


def random_seed(run_seed: int, microbatch: MicrobatchId, stage: int) -> int:
    """The seed, from 0 to 2**63 - 1, from which a microbatch draws at a stage: the first 8 bytes of SHA-256
    of the four numbers, as decimal digits, and the feeder's key, in hex, one a line; the highest bit is
    cleared."""
    feeder, incarnation, number = microbatch
    text = f"{run_seed}\n{feeder.hex()}\n{incarnation}\n{number}\n{stage}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & (2**63 - 1)
