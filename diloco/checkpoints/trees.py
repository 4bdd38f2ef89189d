"""State dicts as JSON and tensors, and back: nothing that would run code when it is read (X8).

Tensors go beside the text under names of their own; dicts with any plain keys, lists, tuples, numbers, texts,
bytes, None and arrays of numbers are in it. Anything else is refused by its place in the tree.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diloco.checkpoints.tensor_file import can_be_kept
from diloco.errors import CheckpointError, StateError

_KIND = "$"
"""The key of what is none of JSON's own: an object without it is a dict of texts."""


def pack(tree: object, place: str, tensors: dict[str, Tensor]) -> Any:
    """``tree`` as JSON; its tensors are put into ``tensors`` under the place where they were found. Raises
    `StateError` for what cannot be kept."""
    if tree is None or type(tree) in (bool, int, float, str):
        return tree
    match tree:
        case Tensor():
            return _pack_tensor(tree.detach(), place, tensors)
        case np.ndarray() | np.generic():
            return _pack_array(np.asarray(tree), place, tensors)
        case bytes() | bytearray():
            return {_KIND: "bytes", "base64": base64.b64encode(tree).decode()}
        case Mapping():
            return _pack_mapping(tree, place, tensors)
        case list():
            return [pack(each, f"{place}.{i}", tensors) for i, each in enumerate(tree)]
        case tuple():
            return {
                _KIND: "tuple",
                "items": [pack(each, f"{place}.{i}", tensors) for i, each in enumerate(tree)],
            }
        case bool() | int():
            return int(tree)
        case float():
            return float(tree)
        case str():
            return str(tree)
    raise StateError(
        f"{place} is {type(tree).__module__}.{type(tree).__qualname__}, which cannot be kept: a state dict "
        "may hold tensors, arrays, numbers, texts, bytes, None, and dicts, lists and tuples of them"
    )


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given. Raises `CheckpointError` for what it never gives."""
    match packed:
        case list():
            return [unpack(each, tensors) for each in packed]
        case {"$": "tensor", "name": str(name)} if name in tensors:
            return tensors[name]
        case {"$": "array", "name": str(name), "dtype": str(dtype), "shape": list(shape)} if name in tensors:
            return _array(tensors[name], dtype, shape)
        case {"$": "bytes", "base64": str(text)}:
            return base64.b64decode(text)
        case {"$": "tuple", "items": list(items)}:
            return tuple(unpack(each, tensors) for each in items)
        case {"$": "dict", "items": list(items)}:
            return {unpack(key, tensors): unpack(value, tensors) for key, value in items}
        case dict() if _KIND not in packed:
            return {key: unpack(value, tensors) for key, value in packed.items()}
        case None | bool() | int() | float() | str():
            return packed
    raise CheckpointError("a state dict in the checkpoint is damaged")


def _pack_tensor(tensor: Tensor, place: str, tensors: dict[str, Tensor]) -> Any:
    if not can_be_kept(tensor.dtype) or tensor.layout != torch.strided or tensor.is_quantized:
        raise StateError(f"{place} is a tensor of {tensor.dtype} ({tensor.layout}), which cannot be kept")
    return {_KIND: "tensor", "name": _put(tensor, place, tensors)}


def _put(tensor: Tensor, place: str, tensors: dict[str, Tensor]) -> str:
    """The name under which a tensor is kept: two places may read alike."""
    name, number = place, 0
    while name in tensors:
        number += 1
        name = f"{place}#{number}"
    tensors[name] = tensor
    return name


def _pack_array(array: np.ndarray[Any, Any], place: str, tensors: dict[str, Tensor]) -> Any:
    if array.dtype.kind not in "biuf":
        raise StateError(f"{place} is an array of {array.dtype}, which cannot be kept")
    raw = torch.frombuffer(bytearray(array.tobytes()) or bytearray(1), dtype=torch.uint8)
    name = _put(raw, place, tensors)
    return {_KIND: "array", "name": name, "dtype": array.dtype.str, "shape": list(array.shape)}


def _array(raw: Tensor, dtype: str, shape: list[int]) -> Any:
    try:
        kind = np.dtype(dtype)
        if kind.kind not in "biuf":
            raise ValueError("no numbers")
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(raw.numpy().tobytes(), dtype=kind, count=count).reshape(shape).copy()
    except (TypeError, ValueError):
        raise CheckpointError("an array in the checkpoint is damaged") from None


def _pack_mapping(tree: Mapping[Any, Any], place: str, tensors: dict[str, Tensor]) -> Any:
    packed = {key: pack(value, f"{place}.{key}", tensors) for key, value in tree.items()}
    if all(type(key) is str for key in packed) and _KIND not in packed:
        return packed
    return {
        _KIND: "dict",
        "items": [[pack(key, f"{place}: a key", tensors), value] for key, value in packed.items()],
    }
