"""Memory of vectors: used again when nothing refers to it, and never before."""

from __future__ import annotations

import mmap
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diloco.compression.memory import SMALL, VectorMemory
from diloco.compression.vectors import bytes_of

N = 2 * SMALL
PATIENCE = 8


def test_a_vector_that_is_gone_leaves_its_memory_to_the_next() -> None:
    memory = VectorMemory(PATIENCE)
    first = memory.empty(N)
    place = first.data_ptr()
    del first
    assert memory.empty(N).data_ptr() == place
    assert memory.size_bytes == 4 * N


@pytest.mark.parametrize("n", [5, N])
def test_zeros_are_zeros_whatever_lay_in_memory_that_is_free(n: int) -> None:
    memory = VectorMemory(PATIENCE)
    memory.empty(n).fill_(1.0)
    assert torch.equal(memory.zeros(n), torch.zeros(n))
    assert memory.zeros(n).data_ptr() % 64 == memory.empty(n).data_ptr() % 64 == 0


STATM = Path("/proc/self/statm")


@pytest.mark.skipif(not STATM.exists(), reason="only Linux tells how much memory is resident")
def test_zeros_take_no_memory_until_they_are_written() -> None:
    def resident() -> int:
        return int(STATM.read_text().split()[1]) * mmap.PAGESIZE

    memory, before = VectorMemory(PATIENCE), resident()
    zeros = memory.zeros(16 << 20)
    assert resident() - before < 16 << 20
    zeros[: 8 << 20] = 1.0
    assert resident() - before > 24 << 20


REFERENCES: dict[str, Any] = {
    "a slice": lambda x: x[7:9],
    "a view of bytes": lambda x: bytes_of(x)[12:16],
    "an array": lambda x: x.numpy(),
    "a view of an array's part": lambda x: np.frombuffer(bytes_of(x[3:]), np.uint8)[5:6],
    "a detached reshaped view": lambda x: x.detach().view(2, -1)[1],
    "a parameter": torch.nn.Parameter,
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_whatever_refers_to_a_part_of_it_keeps_all_of_it(kind: str) -> None:
    memory = VectorMemory(PATIENCE)
    place = (first := memory.empty(N)).data_ptr()
    held = REFERENCES[kind](first)
    del first
    second = memory.empty(N)
    assert second.data_ptr() != place
    del held
    assert memory.empty(N).data_ptr() == place


def test_a_shorter_vector_takes_memory_of_which_it_leaves_a_third_at_most() -> None:
    memory = VectorMemory(PATIENCE)
    place = memory.empty(3 * N).data_ptr()
    assert memory.empty(2 * N - 1).data_ptr() != place
    shorter = memory.empty(2 * N)
    assert (shorter.data_ptr(), len(shorter)) == (place, 2 * N)
    del shorter
    assert memory.empty(3 * N).data_ptr() == place, "no less of it came back"


def test_the_smallest_that_is_long_enough_is_taken() -> None:
    memory = VectorMemory(PATIENCE)
    held = [memory.empty(n) for n in (N + 9, N + 1, N + 5)]
    place = held[1].data_ptr()
    held.clear()
    assert memory.empty(N).data_ptr() == place


def test_of_equal_ones_that_are_free_the_last_one_is_taken() -> None:
    memory = VectorMemory(PATIENCE)
    held = [memory.empty(N) for _ in range(3)]
    place = held[2].data_ptr()
    held.clear()
    assert memory.empty(N).data_ptr() == place


def test_memory_that_nobody_took_for_a_while_is_given_up_and_what_is_in_use_never() -> None:
    memory = VectorMemory(PATIENCE)
    used, spare = memory.empty(N).fill_(7.0), memory.empty(N)
    del spare
    for _ in range(PATIENCE - 1):
        memory.empty(3 * N)
        assert memory.size_bytes == 4 * 5 * N
    memory.empty(3 * N)
    assert memory.size_bytes == 4 * 4 * N
    assert int((used == 7.0).sum()) == N


def test_of_lengths_that_change_only_the_last_wait() -> None:
    memory = VectorMemory(PATIENCE)
    for k in range(1, 40):
        memory.empty(2 * k * N)
    assert memory.size_bytes <= 4 * 2 * N * sum(range(40 - PATIENCE, 40))


def test_short_vectors_are_left_to_the_allocator() -> None:
    memory = VectorMemory(PATIENCE)
    assert len(memory.empty(SMALL - 1)) == SMALL - 1
    assert len(memory.empty(0)) == 0
    assert memory.size_bytes == 0


def test_no_two_threads_are_given_the_same_memory() -> None:
    memory, wrong = VectorMemory(PATIENCE), list[int]()

    def work(number: int) -> None:
        for _ in range(200):
            x: Tensor = memory.empty(N).fill_(number)
            if int((x != number).sum()):
                wrong.append(number)

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert memory.size_bytes <= 2 * 4 * 4 * N, "each holds one until it has the next"
