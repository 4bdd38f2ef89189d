"""A process's place in a swarm: host, join, solo, and the thread seam. No torch."""

from __future__ import annotations

from diloco.swarm.swarm import Swarm

__all__ = ["Swarm"]
