"""Types of the fields that name an exchange: whoever opens one says them with the same bounds.

All are counts alike, for then a frame that comes for each chunk is checked at one go.
"""

from __future__ import annotations

from transport.frames import Count

Serial = Count
"""Of an exchange: no other one of a run has it."""
Attempt = Count
"""At one exchange, with fewer members each time."""
ChunkIndex = Count
