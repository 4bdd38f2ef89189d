"""How the ranks of one site reach each other: words by gloo, values by the group that the loop has.

Owns the process group of a site, with its bounded waits, and turns its faults into `SiteBroken` with the rank
that is to blame. Rank 0 of the group hears all others, and they hear it. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from diloco.compression.vectors import bytes_of
from diloco.errors import SiteBroken, UserError

_FRAME = 1024
"""Bytes of a message; the rest of a longer one follows by itself."""
_HEAD = 8
_AT_ONCE = 1 << 24
"""Elements of a vector that goes to all in one message."""


def require_group(group: dist.ProcessGroup) -> None:
    """It is one of torch.distributed's, and this process is in it. Raises `UserError`."""
    if not (dist.is_available() and dist.is_initialized()):
        raise UserError("group= is for ranks of torch.distributed: call init_process_group first")
    if not isinstance(group, dist.ProcessGroup):
        raise UserError(
            f"group={group!r} is no process group that this rank is in: give torch.distributed.group.WORLD,"
            " or what new_group gave, on the ranks of one site and on no other"
        )


def carries(backends: str, device: str) -> bool:
    """Whether a group with such ``backends`` ("cpu:gloo,cuda:nccl") sends from one such device to another:
    gloo does so from the CPU only, for which a site has a group of its own."""
    known = dict(each.split(":", 1) for each in backends.split(",") if ":" in each)
    return device != "cpu" and known.get(device, "gloo") != "gloo"


class SiteLink:
    """The ranks of ``group``. No wait for one of them takes longer than ``timeout_s``. Making it is
    collective."""

    def __init__(self, group: dist.ProcessGroup, timeout_s: float) -> None:
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._global = dist.get_process_group_ranks(group)
        self._group = group
        self._timeout_s = timeout_s
        self._lost: set[int] = set()
        """Ranks that did not answer once, for which nobody waits again."""
        with self._blaming("the ranks of this site did not find each other"):
            self._control = dist.new_group(
                self._global,
                backend="gloo",
                timeout=timedelta(seconds=timeout_s),
                use_local_synchronization=True,
            )

    @property
    def others(self) -> range:
        """The ranks that rank 0 speaks for beside itself."""
        return range(1, self.size)

    # -- words --------------------------------------------------------------------------------

    def collect(self) -> list[bytes]:
        """Rank 0: what each of the others says. Raises `SiteBroken` for the first that does not."""
        frames = [torch.empty(_FRAME, dtype=torch.uint8) for _ in self.others]
        waiting = []
        for rank, frame in zip(self.others, frames, strict=True):
            with self._blaming_rank(rank):
                waiting.append(dist.irecv(frame, src=self._global[rank], group=self._control))
        for rank, wait in zip(self.others, waiting, strict=True):
            with self._blaming_rank(rank):
                assert wait is not None, "this rank is in the group"
                wait.wait()
        return [self._rest(frame, rank) for rank, frame in zip(self.others, frames, strict=True)]

    def tell(self, words: bytes) -> None:
        """Rank 0: say something to all others. Raises `SiteBroken`, once all that can be reached have it."""
        lost: SiteBroken | None = None
        for rank in (each for each in self.others if each not in self._lost):
            try:
                self._send(words, rank)
            except SiteBroken as error:
                lost = lost or error
        if lost is not None:
            raise lost

    def say(self, words: bytes) -> None:
        """Another rank: say something to rank 0."""
        self._send(words, 0)

    def hear(self) -> bytes:
        """Another rank: what rank 0 says next."""
        frame = torch.empty(_FRAME, dtype=torch.uint8)
        with self._blaming_rank(0):
            dist.recv(frame, src=self._global[0], group=self._control)
        return self._rest(frame, 0)

    def _send(self, words: bytes, rank: int) -> None:
        whole = torch.frombuffer(bytearray(len(words).to_bytes(_HEAD, "little") + words), dtype=torch.uint8)
        frame = torch.zeros(_FRAME, dtype=torch.uint8)
        frame[: len(whole)] = whole[:_FRAME]
        with self._blaming_rank(rank):
            dist.send(frame, dst=self._global[rank], group=self._control)
            if len(whole) > _FRAME:
                dist.send(whole[_FRAME:].contiguous(), dst=self._global[rank], group=self._control)

    def _rest(self, frame: Tensor, rank: int) -> bytes:
        found = bytes(bytes_of(frame))
        size = int.from_bytes(found[:_HEAD], "little") + _HEAD
        if size <= _FRAME:
            return found[_HEAD:size]
        rest = torch.empty(size - _FRAME, dtype=torch.uint8)
        with self._blaming_rank(rank):
            dist.recv(rest, src=self._global[rank], group=self._control)
        return found[_HEAD:] + bytes(bytes_of(rest))

    # -- values -------------------------------------------------------------------------------

    def carrier(self, tensors: Sequence[Tensor]) -> torch.device:
        """Where values are to be on their way: beside ``tensors``, if the loop's group carries them from
        there, else on the CPU."""
        first = next((each.device for each in tensors), torch.device("cpu"))
        return torch.device("cpu") if self._of(first) is self._control else first

    def send(self, values: Tensor, rank: int) -> None:
        """``values`` [n] to one rank, which takes them by `receive`."""
        with self._blaming_rank(rank):
            dist.send(values, dst=self._global[rank], group=self._of(values.device))

    def receive(self, out: Tensor, rank: int) -> None:
        """What that rank sends, into ``out`` [n]."""
        with self._blaming_rank(rank):
            dist.recv(out, src=self._global[rank], group=self._of(out.device))

    def spread(self, values: Tensor) -> None:
        """``values`` [n] of rank 0 to all others, which have them in theirs then."""
        with self._blaming("a rank of this site did not take what landed"):
            for at in range(0, len(values), _AT_ONCE):
                part = values[at : at + _AT_ONCE]
                dist.broadcast(part, src=self._global[0], group=self._of(values.device))

    def _of(self, device: torch.device) -> dist.ProcessGroup:
        return self._group if carries(dist.get_backend_config(self._group), device.type) else self._control

    # -- faults -------------------------------------------------------------------------------

    def _blaming_rank(self, rank: int) -> AbstractContextManager[None]:
        return self._blaming(f"rank {rank} of this site does not answer", rank)

    @contextmanager
    def _blaming(self, what: str, rank: int | None = None) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # all that torch.distributed raises
            if rank is not None:
                self._lost.add(rank)
            raise SiteBroken(f"{what} ({_reason(error, self._timeout_s)})") from error


def _reason(error: RuntimeError, timeout_s: float) -> str:
    """In a few words, of gloo's many."""
    text = str(error)
    if "imed out" in text or "timeout" in text.lower():
        return f"for {timeout_s:.0f} s"
    if "onnection" in text:
        return "its process is gone"
    return " ".join(text.split())[:200]
