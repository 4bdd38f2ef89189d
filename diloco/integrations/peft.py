"""Adapters of peft in a swarm: what is trained is exchanged, and the base stays where it is.

Owns saving adapters as peft reads them. `attach` itself needs nothing of this: frozen parameters are no part
of what is exchanged, and travel only to who has other ones.
"""

from __future__ import annotations

import logging
from pathlib import Path

from diloco.errors import UserError
from diloco.extras import require
from diloco.outer.plain_names import unwrapped
from diloco.training.outer import Outer

require("hf", "diloco.integrations.peft")
from peft import PeftModel  # noqa: E402

__all__ = ["save_adapters"]

_LOG = logging.getLogger("diloco")


def save_adapters(outer: Outer, folder: Path | str) -> None:
    """Write the adapters with the outer parameters into ``folder``, as `PeftModel.from_pretrained` reads
    them. Raises `UserError` for a model that is none of peft's."""
    model = unwrapped(outer.model)
    if not isinstance(model, PeftModel):
        raise UserError(f"{type(model).__name__} is no model of peft: outer.save(path) writes it")
    if outer.replica.model.has_other_frozen:
        _LOG.warning(
            "the base that these adapters were trained on came from the swarm and is another one than was"
            " loaded here: %s has adapters that do not fit %s",
            folder,
            getattr(model.peft_config[model.active_adapter], "base_model_name_or_path", "that"),
        )
    with outer.outer_parameters():
        model.save_pretrained(str(folder))
