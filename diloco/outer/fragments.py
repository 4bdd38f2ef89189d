"""Fragments: which tensors of a model are exchanged together.

Owns the ways of cutting a list of tensors into fragments, found from names and sizes alone. Holds no tensors
and needs no torch; `layout` applies it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from itertools import accumulate, pairwise

from diloco.errors import LayoutError

Named = Sequence[tuple[str, int]]
"""Tensors in the order of registration: name, number of elements."""

_NUMBERED = re.compile(r"(?:^|\.)(\d+)\.")


def partition(
    tensors: Named, num_fragments: int, pattern: str = "balanced", modules: Sequence[str] = ()
) -> list[list[int]]:
    """Indices of ``tensors`` by fragment, rising, none empty.

    balanced: runs as near to equal size as whole tensors allow. sequential: runs of layers. strided: layers
    p, p + P, ... in fragment p, of Streaming DiLoCo (arXiv 2501.18512). packed: the largest tensor first into
    the fragment that is smallest, of Decoupled DiLoCo (arXiv 2604.21428). modules: one entry per fragment, of
    module names separated by commas; the last fragment also takes what no entry names.

    Layers are the numbered children with most elements (``blocks.3.``, ``model.layers.12.``); what comes
    before the first (embeddings) goes with the first fragment, what comes after with the last. A model
    without such children is cut as balanced. Raises `LayoutError`."""
    if not 1 <= num_fragments <= len(tensors):
        raise LayoutError(
            f"{num_fragments} fragments of {len(tensors)} trainable tensors are not possible:"
            f" choose num_fragments from 1 to {len(tensors)}"
        )
    match pattern:
        case "balanced":
            return _runs([size for _, size in tensors], num_fragments)
        case "packed":
            return _packed([size for _, size in tensors], num_fragments)
        case "modules":
            return _by_modules(tensors, modules, num_fragments)
        case "sequential" | "strided":
            return _by_layers(tensors, num_fragments, strided=pattern == "strided")
    raise LayoutError(f"fragment_pattern {pattern!r} is unknown")


def _runs(sizes: Sequence[int], num_runs: int) -> list[list[int]]:
    """Runs as near to equal as whole items allow."""
    before = list(accumulate(sizes, initial=0))
    cuts = [0]
    for k in range(1, num_runs):
        allowed = range(cuts[-1] + 1, len(sizes) - (num_runs - k) + 1)
        wanted = before[-1] * k / num_runs
        cuts.append(min(allowed, key=lambda i: abs(before[i] - wanted)))
    return [list(range(a, b)) for a, b in pairwise([*cuts, len(sizes)])]


def _packed(sizes: Sequence[int], num_fragments: int) -> list[list[int]]:
    fragments: list[list[int]] = [[] for _ in range(num_fragments)]
    filled = [0] * num_fragments
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        # An empty fragment goes first, though tensors without elements weigh nothing.
        least = min(range(num_fragments), key=lambda f: (bool(fragments[f]), filled[f], f))
        fragments[least].append(index)
        filled[least] += sizes[index]
    return [sorted(fragment) for fragment in fragments]


def _by_layers(tensors: Named, num_fragments: int, *, strided: bool) -> list[list[int]]:
    layer_of = _layers(tensors)
    layers = sorted({layer for layer in layer_of if layer is not None})
    if not layers:
        return _runs([size for _, size in tensors], num_fragments)
    if len(layers) < num_fragments:
        raise LayoutError(
            f"{num_fragments} fragments of {len(layers)} layers are not possible: choose num_fragments from"
            f" 1 to"
            f' {len(layers)}, or fragment_pattern = "balanced", which cuts between tensors'
        )
    sizes = [
        sum(size for (_, size), at in zip(tensors, layer_of, strict=True) if at == layer) for layer in layers
    ]
    runs = _runs(sizes, num_fragments)
    of_layer = {
        layer: position % num_fragments
        if strided
        else next(f for f, run in enumerate(runs) if position in run)
        for position, layer in enumerate(layers)
    }
    fragments: list[list[int]] = [[] for _ in range(num_fragments)]
    first_layer = next(i for i, layer in enumerate(layer_of) if layer is not None)
    for index, layer in enumerate(layer_of):
        outside = 0 if index < first_layer else num_fragments - 1
        fragments[outside if layer is None else of_layer[layer]].append(index)
    return fragments


def _layers(tensors: Named) -> list[int | None]:
    """For each tensor the number of the layer that it is in, or None."""
    weights: dict[str, int] = {}
    for name, size in tensors:
        for found in _NUMBERED.finditer(name):
            stem = name[: found.start(1)]
            weights[stem] = weights.get(stem, 0) + size
    if not weights:
        return [None] * len(tensors)
    # Of nested lists that hold the same, the outer one.
    stem = max(weights, key=lambda each: (weights[each], -len(each)))
    pattern = re.compile(re.escape(stem) + r"(\d+)\.")
    found_in = [pattern.match(name) for name, _ in tensors]
    return [int(found[1]) if found else None for found in found_in]


def _by_modules(tensors: Named, modules: Sequence[str], num_fragments: int) -> list[list[int]]:
    if len(modules) != num_fragments:
        raise LayoutError(f"fragment_modules has {len(modules)} entries for {num_fragments} fragments")
    chosen: dict[int, int] = {}
    for fragment, entry in enumerate(modules):
        for prefix in (each.strip() for each in entry.split(",")):
            named = [
                i for i, (name, _) in enumerate(tensors) if name == prefix or name.startswith(prefix + ".")
            ]
            if not named:
                raise LayoutError(
                    f"fragment_modules names {prefix!r}, which no tensor is in{_hint(prefix, tensors)}"
                )
            for index in named:
                if chosen.setdefault(index, fragment) != fragment:
                    raise LayoutError(f"fragment_modules puts {tensors[index][0]} into two fragments")
    fragments: list[list[int]] = [[] for _ in range(num_fragments)]
    for index in range(len(tensors)):
        fragments[chosen.get(index, num_fragments - 1)].append(index)
    return fragments


def _hint(prefix: str, tensors: Named) -> str:
    names = {
        ".".join(name.split(".")[:depth]) for name, _ in tensors for depth in range(1, name.count(".") + 2)
    }
    near = difflib.get_close_matches(prefix, sorted(names), n=1)
    return f": did you mean {near[0]}?" if near else ""
