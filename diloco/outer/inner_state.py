"""What is beside the parameters and can stay not finite when they are set back: optimizer state, buffers.

One NaN gradient leaves AdamW's moments NaN, and every later step is NaN then. Owns finding and resetting what
a torch optimizer holds, and the running statistics of normalization layers. Nothing of it is exchanged; other
buffers are only named. Costs nothing until something was found to be not finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from diloco.outer.plain_names import PlainNames, named_buffers, named_parameters

_NAMES_SHOWN = 4
Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None
"""What steps a model: one, several that step one after the other, or nothing that is known."""


def listed_optimizers(given: Optimizers) -> list[torch.optim.Optimizer]:
    """Each of them once."""
    if given is None:
        return []
    if isinstance(given, torch.optim.Optimizer):
        return [given]
    return list({id(each): each for each in given}.values())


class InnerState:
    """A worker's own state beside the parameters of ``model``, which ``optimizers`` step."""

    def __init__(self, model: nn.Module, optimizers: Optimizers) -> None:
        self._model = model
        self._optimizers = listed_optimizers(optimizers)

    @property
    def lr(self) -> float:
        """The present inner learning rate, that of the last optimizer's first group."""
        assert self._optimizers, "who follows it asks for an optimizer"
        return float(self._optimizers[-1].param_groups[0]["lr"])

    def have_taken(self, steps: int) -> None:
        """The moments of all parameters are those of at least so many steps."""
        for state in (state for each in self._optimizers for state in each.state.values()):
            if isinstance(count := state.get("step"), Tensor) and float(count) < steps:
                count.fill_(steps)

    def mend(self) -> list[str]:
        """Begin anew with what is not finite. Sentences: what began anew, and what could not be mended."""
        return [*self._mend_optimizer(), *self._mend_buffers()]

    def _mend_optimizer(self) -> list[str]:
        said: list[str] = []
        trained = {p: name for name, p in named_parameters(self._model) if p.requires_grad}
        known = {id(p) for each in self._optimizers for group in each.param_groups for p in group["params"]}
        states = [pair for each in self._optimizers for pair in each.state.items()]
        names = {id(p): name for p, name in trained.items()}
        reset = [(names.get(id(p), "one without a name"), _reset(state)) for p, state in states]
        if num_tensors := sum(num for _, num in reset):
            said.append(
                f"{num_tensors} tensors of the inner optimizer's state were not finite and began anew,"
                f" of parameters {_listed(name for name, num in reset if num)}"
            )
        unknown = [name for p, name in trained.items() if id(p) not in known]
        if unknown:
            said.append(
                "attach was given no optimizer that steps them, so that its state could not be looked at:"
                f" parameters {_listed(unknown)}"
            )
        return said

    def _mend_buffers(self) -> list[str]:
        said, plain = [], PlainNames(self._model)
        if layers := [plain(name) for name, each in self._model.named_modules() if _reset_statistics(each)]:
            said.append(f"running statistics were not finite and began anew, of layers {_listed(layers)}")
        if left := [name for name, each in named_buffers(self._model) if not _is_finite(each)]:
            said.append(
                f"buffers are not finite and stay so, as only the model knows how they begin: {_listed(left)}"
            )
        return said


def _reset(state: dict[str, object]) -> int:
    """Zero one parameter's state if some of it is not finite; how many tensors were not. All of it, as a huge
    first moment over a second one that begins anew would throw the parameter far away. A count of steps
    begins anew too: bias corrections for moments that are young are made by it."""
    tensors = [each for each in state.values() if isinstance(each, Tensor) and each.is_floating_point()]
    bad = [each for each in tensors if not _is_finite(each)]
    for each in tensors if bad else ():
        each.zero_()
    if bad and isinstance(steps := state.get("step"), Tensor):
        steps.zero_()
    elif bad and "step" in state:
        state["step"] = 0
    return len(bad)


def _reset_statistics(module: nn.Module) -> bool:
    """Reset the running statistics of a normalization layer that are not finite; whether it had such."""
    reset = getattr(module, "reset_running_stats", None)
    if reset is None or all(map(_is_finite, module.buffers(recurse=False))):
        return False
    reset()
    return True


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _listed(names: Iterable[str]) -> str:
    """The first by name, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - _NAMES_SHOWN} more" if len(every) > _NAMES_SHOWN else ""
    return ", ".join(every[:_NAMES_SHOWN]) + more
