"""The seed of a microbatch's random numbers follows from the run, its name and the stage alone."""

from __future__ import annotations

import hashlib

from diloco.pipeline.microbatch import MicrobatchId, random_seed


def test_the_seed_is_as_written() -> None:
    text = b"7\n0aff\n2\n31\n4"
    expected = int(hashlib.sha256(text).hexdigest()[:16], 16) % 2**63
    assert random_seed(7, MicrobatchId(b"\x0a\xff", 2, 31), 4) == expected


def test_every_part_of_the_name_counts() -> None:
    names = [MicrobatchId(*each) for each in ((b"a", 1, 2), (b"b", 1, 2), (b"a", 2, 2), (b"a", 1, 3))]
    seeds = {random_seed(run, name, stage) for run in (0, 1) for name in names for stage in (0, 1)}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_it_reads_as_a_person_would_say_it() -> None:
    assert str(MicrobatchId(b"a", 1, 2)) == "microbatch 2"
