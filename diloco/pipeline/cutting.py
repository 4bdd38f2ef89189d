"""`cut`: one stage's layers of a model that is given as a list of them.

Owns the building of a stage's own layers, under the names that they have in the whole model, and the refusal
of weights that two stages would share. Builds no other layer's values: what it asks of them are sizes. Knows
nothing of training.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.nn.parameter import Parameter

from diloco.errors import PipelineError
from diloco.pipeline.cuts import Part

Layer = nn.Module | Callable[[], nn.Module]
"""A module, or what builds it."""


def cut(layers: Sequence[Layer], part: Part) -> nn.Sequential:
    """The layers of ``part``'s stage as one module, whose parameters have the names of the whole model's
    (``7.attention.qkv.weight``): `nn.Sequential` of all layers would give the same ones.

    ``layers`` is the whole model in order, each layer a module or, so that nobody has to hold the whole, a
    function without arguments that builds it. Layers take and return one tensor; the first gets what the run
    is fed with. If ``part`` names no cuts, layers that are given as functions are built once on torch's meta
    device, where they take no memory, to count their parameters.

    Raises `PipelineError` for what is no list of layers, fewer layers than stages, a layer that cannot be
    counted, and weights that two stages would share, as far as the layers at hand show it (`refuse_tied`
    looks at whole stages)."""
    named = _listed(layers)
    all_layers = part.all_layers(_sizes_if_needed(named, part))
    built = {index: _build(index, named[index]) for index in all_layers[part.stage]}
    at_hand = {i: each for i, each in enumerate(named) if isinstance(each, nn.Module)} | built
    refuse_tied(
        (stage, [(f"{i}.", at_hand[i]) for i in layers_of if i in at_hand])
        for stage, layers_of in enumerate(all_layers)
    )
    return nn.Sequential(OrderedDict((str(index), module) for index, module in built.items()))


def clip_share(layers: Sequence[Layer], part: Part) -> float:
    """What the bound on the whole model's gradient norm is multiplied by at ``part``'s stage, more than 0 and
    at most 1: the square root of its share of all parameters. Each stage clips by itself, for a norm over all
    of them would cost a round trip over all boundaries in every step; where gradients are alike, the bounds
    together are the whole's. Raises `PipelineError` as `cut` does, and for a stage without parameters."""
    sizes = layer_sizes(_listed(layers))
    own = sum(sizes[index] for index in part.layers(sizes))
    if not own:
        raise PipelineError(f"stage {part.stage} has no parameters whose gradients could be clipped")
    return math.sqrt(own / sum(sizes))


def layer_sizes(layers: Sequence[Layer]) -> list[int]:
    """Parameters of each layer. Layers that are functions are built on torch's meta device, without memory.
    Raises `PipelineError` for one that cannot be built there."""
    return [sum(p.numel() for p in _on_meta(index, layer).parameters()) for index, layer in enumerate(layers)]


def refuse_tied(stages: Iterable[tuple[int, Iterable[tuple[str, nn.Module]]]]) -> None:
    """Raise `PipelineError`, by name, if modules of two stages share a weight. Each stage's are given with
    what stands before their parameters' names."""
    seen: dict[object, tuple[int, str]] = {}
    for stage, modules in stages:
        for prefix, module in modules:
            for name, parameter in module.named_parameters():
                where, first = seen.setdefault(_memory(parameter), (stage, prefix + name))
                if where != stage:
                    raise PipelineError(
                        f"{first} of stage {where} and {prefix}{name} of stage {stage} are the same weights:"
                        " give each of the two layers its own, or choose cuts that leave both in one stage"
                    )


def _memory(parameter: Parameter) -> object:
    """What two parameters have in common if one changes with the other."""
    return parameter.untyped_storage().data_ptr() or id(parameter)


def _listed(layers: Sequence[Layer]) -> Sequence[Layer]:
    if isinstance(layers, nn.Module) or not isinstance(layers, Sequence):
        raise PipelineError(
            f"a {type(layers).__name__} cannot be cut: give its layers as a list, in order, each of which"
            " takes and returns one tensor"
        )
    for index, layer in enumerate(layers):
        if not callable(layer):
            raise PipelineError(
                f"layer {index} is of type {type(layer).__name__}: give a module, or what builds it"
            )
    return layers


def _sizes_if_needed(layers: Sequence[Layer], part: Part) -> list[int]:
    return [0] * len(layers) if part.cuts or part.stages == 1 else layer_sizes(layers)


def _build(index: int, layer: Layer) -> nn.Module:
    built = layer if isinstance(layer, nn.Module) else layer()
    if not isinstance(built, nn.Module):
        raise PipelineError(f"what builds layer {index} gave {type(built).__name__} and no module")
    return built


def _on_meta(index: int, layer: Layer) -> nn.Module:
    if isinstance(layer, nn.Module):
        return layer
    try:
        with torch.device("meta"):
            return _build(index, layer)
    except PipelineError:
        raise
    except Exception as error:
        raise PipelineError(
            f"layer {index} cannot be built without memory (torch's meta device) to count its parameters:"
            f" name the cuts ({type(error).__name__}: {error})"
        ) from error
