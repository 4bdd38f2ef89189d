"""Safetensors files whose header we write ourselves, so that a state streams to disk as it lies in memory.

Owns the header and its bounds, and nothing of what the tensors mean. A file is the header's length (8 bytes,
little-endian), the header (JSON: each tensor's dtype, shape and place), and the tensors' bytes one after the
other in the order of the header. What other programs wrote is read too, as long as it is that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diloco.compression.vectors import bytes_of
from diloco.errors import CheckpointError
from transport.disk import Disk

MAX_HEADER_BYTES = 100_000_000
"""As much as the safetensors library takes."""
_METADATA = "__metadata__"
_TAGS = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.complex64: "C64",
}
_DTYPES = {tag: dtype for dtype, tag in _TAGS.items()}


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor of a file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> TensorPlace:
        """The place of ``tensor``."""
        return cls(name, tensor.dtype, tuple(tensor.shape))

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Header:
    """What a file's header says."""

    places: dict[str, tuple[TensorPlace, int]]
    """By name: a tensor, and where it begins in the file."""
    metadata: dict[str, str]
    body: int
    """Where the tensors' bytes begin."""


def can_be_kept(dtype: torch.dtype) -> bool:
    """Whether the format has this dtype."""
    return dtype in _TAGS


def header_bytes(places: Iterable[TensorPlace], metadata: Mapping[str, str] | None = None) -> bytes:
    """What stands before the bytes of the tensors, which follow in this order without gaps."""
    fields: dict[str, Any] = {_METADATA: {"format": "pt", **(metadata or {})}}
    offset = 0
    for place in places:
        end = offset + place.size_bytes
        fields[place.name] = {
            "dtype": _TAGS[place.dtype],
            "shape": list(place.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_header(disk: Disk, path: str) -> Header:
    """The header of a file. Raises `CheckpointError` for what is none, `OSError` if it cannot be read."""
    size = disk.size(path)
    length = int.from_bytes(disk.read(path, 0, 8), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise CheckpointError(f"{path} is no safetensors file, or is cut short")
    try:
        fields = json.loads(disk.read(path, 8, length))
        metadata = fields.pop(_METADATA, {})
        places = {name: _place(name, field, 8 + length) for name, field in fields.items()}
        texts = {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} is no safetensors file: its header is damaged") from None
    for place, start in places.values():
        if start + place.size_bytes > size:
            raise CheckpointError(f"{path} is cut short: {place.name} is not whole")
    return Header(places, texts, 8 + length)


def read_tensor(disk: Disk, path: str, header: Header, name: str) -> Tensor:
    """One tensor of a file, on the CPU. Raises `CheckpointError` if it is not there."""
    if name not in header.places:
        raise CheckpointError(f"{path} has no tensor {name}")
    place, start = header.places[name]
    tensor = torch.empty(place.shape, dtype=place.dtype)
    bytes_of(tensor)[:] = disk.read(path, start, place.size_bytes)
    return tensor


def _place(name: str, field: Any, body: int) -> tuple[TensorPlace, int]:
    shape = tuple(field["shape"])
    if not all(type(each) is int and each >= 0 for each in shape):
        raise ValueError("a shape of something else than sizes")
    place = TensorPlace(name, _DTYPES[field["dtype"]], shape)
    start, end = field["data_offsets"]
    if type(start) is not int or start < 0 or end - start != place.size_bytes:
        raise ValueError("a tensor of another size than its shape")
    return place, body + start
