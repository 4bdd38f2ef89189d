"""Whether a loop's model and optimizers fit together, before anything is hooked or sent, and at each step
whether the model trains the same parameters still. Refuses by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diloco.errors import LayoutError, UserError
from diloco.outer.plain_names import named_parameters
from diloco.outer.shards import is_sharded

_NAMES_SHOWN = 4


def require_one_process(model: nn.Module) -> None:
    """This process trains the whole model by itself. Raises `UserError`."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise UserError(
            f"{distributed.get_world_size()} ranks of torch.distributed train here, and each would join as a"
            " worker of its own with the same progress: to make them one worker give attach"
            " group=torch.distributed.group.WORLD on all of them, and the swarm on rank 0"
        )
    for name, parameter in named_parameters(model):
        if is_sharded(parameter):
            raise LayoutError(
                f"parameter {name} is a DTensor, of which this process may have but a part: give attach the"
                " group= of the ranks that have the rest"
            )


def require_stepped(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Each trainable parameter is stepped by one of ``optimizers``, if any is known: another one would be
    exchanged for ever as it is. Raises `LayoutError`."""
    if not optimizers:
        return
    owned = [p for each in optimizers for group in each.param_groups for p in group["params"]]
    known = {id(each) for each in owned} | {_place(e) for e in owned if e.numel() and not is_sharded(e)}
    trainable = [(name, each) for name, each in named_parameters(model) if each.requires_grad]
    missing = [name for name, each in trainable if id(each) not in known and _place(each) not in known]
    if not missing:
        return
    kinds = " and ".join(type(each).__name__ for each in optimizers)
    more = f" and {len(missing) - _NAMES_SHOWN} more" if len(missing) > _NAMES_SHOWN else ""
    if len(missing) == len(trainable):
        raise LayoutError(
            f"{kinds} steps no parameter of this model, not even {missing[0]}: make it of model.parameters()"
        )
    raise LayoutError(
        f"trainable, but in no optimizer ({kinds}): {', '.join(missing[:_NAMES_SHOWN])}{more}; give attach a"
        " list of all optimizers, in the order in which they step, or set requires_grad = False"
    )


class TrainedParameters:
    """The parameters of ``model`` as they are when it is attached: those that the swarm exchanges are these
    objects, whatever the model holds later."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._every = list(model.parameters())
        self._trained = {id(each) for each in self._every if each.requires_grad}

    def require_same(self) -> None:
        """Nothing else is trained by now, and nothing of it was replaced; to freeze some is allowed. Raises
        `LayoutError`: it would be each worker's own for ever."""
        now = list(self._model.parameters())
        gone = {id(each) for each in self._every} - {id(each) for each in now}
        added = {id(p) for p in now if p.requires_grad} - self._trained
        if not gone and not added:
            return
        how = "decide what is trained before attach, alike on all workers (freeze later what is not to move)"
        name, parameter = next(
            (each for each in named_parameters(self._model) if id(each[1]) in added), ("", None)
        )
        if parameter is None:
            raise LayoutError(f"the model has lost {len(gone)} of the parameters that were attached: {how}")
        was = "was frozen" if any(parameter is each for each in self._every) else "was not in the model"
        raise LayoutError(
            f"{name} is trained now and {was} when the model was attached, so other workers would never"
            f" have it: {how}"
        )


def _place(parameter: Tensor) -> tuple[str, int]:
    return str(parameter.device), parameter.data_ptr()
