"""Names of a model's tensors without those of wrappers: compiled, replicated and plain models agree.

`torch.compile` and `DistributedDataParallel` hold a module in an attribute, which becomes a part of the names
of all that is below. Owns which classes are such wrappers; a user's own attribute that is called the same
stays.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.parameter import Parameter

_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}
"""By the name of a class of torch: the attribute that holds what it wraps."""


class PlainNames:
    """The names of one model as it is now."""

    def __init__(self, model: nn.Module) -> None:
        self._dropped = {
            f"{path}.{attribute}" if path else attribute
            for path, module in model.named_modules(remove_duplicate=False)
            if (attribute := _wrapped_in(module)) is not None
        }

    def __call__(self, name: str) -> str:
        """A name of torch's without the wrappers in it."""
        if not self._dropped:
            return name
        parts = name.split(".")
        paths = (".".join(parts[: end + 1]) for end in range(len(parts)))
        return ".".join(part for part, path in zip(parts, paths, strict=True) if path not in self._dropped)


def named_parameters(model: nn.Module, *, remove_duplicate: bool = True) -> Iterator[tuple[str, Parameter]]:
    """As torch's, by plain names."""
    plain = PlainNames(model)
    for name, parameter in model.named_parameters(remove_duplicate=remove_duplicate):
        yield plain(name), parameter


def named_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """As torch's, by plain names."""
    plain = PlainNames(model)
    for name, buffer in model.named_buffers():
        yield plain(name), buffer


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the model's state dict, by plain names."""
    plain = PlainNames(model)
    return {plain(name): each for name, each in model.state_dict().items() if isinstance(each, Tensor)}


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside of all wrappers."""
    attribute = _wrapped_in(model)
    return model if attribute is None else unwrapped(getattr(model, attribute))


def _wrapped_in(module: nn.Module) -> str | None:
    for kind in type(module).__mro__:
        if kind.__module__.partition(".")[0] == "torch" and kind.__name__ in _WRAPPERS:
            return _WRAPPERS[kind.__name__]
    return None
