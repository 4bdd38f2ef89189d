"""The random generators that a training loop draws from without naming one: Python's, NumPy's, torch's.

Taken up at the end of `attach`, so that what comes after draws what it would have drawn.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


class GlobalGenerators:
    """Their states, as one object with a state dict."""

    def state_dict(self) -> dict[str, Any]:
        """The states as they are now; of accelerators only if one is in use."""
        state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draw as if nothing had happened since `state_dict`. A machine with fewer accelerators takes as many
        states as it has."""
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"])
        if torch.cuda.is_available():
            for device, each in enumerate(state.get("cuda", ())[: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(each, device)
