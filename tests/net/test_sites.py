"""Sites: ranks of torch.distributed that are one worker, as processes, against one process by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import diloco
from tests.net.site_ranks import Net, train

pytestmark = pytest.mark.timeout(180)
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SETTINGS = {"run": {"rounds": 4}, "method": {"preset": "diloco", "sync_every": 3, "codec": "fp32"}}


def site(folder: Path, world: int, every: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What the ranks of one set of processes came to: by what they trained, and then by rank."""
    with running(folder, world, every):
        pass
    return found_by(folder, world)


@contextmanager
def running(folder: Path, world: int, every: list[dict[str, Any]]) -> Iterator[None]:
    """They train within, and have ended after it."""
    folder.mkdir(exist_ok=True)
    program = [sys.executable, str(HERE / "site_ranks.py"), str(folder), str(world), json.dumps(every)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            program,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield
            assert process.wait(120) == 0, (folder / "log").read_text()
        finally:
            with suppress(ProcessLookupError):  # all have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def found_by(folder: Path, world: int) -> list[list[dict[str, Any]]]:
    each = [(folder / f"rank{rank}.jsonl").read_text().splitlines() for rank in range(world)]
    return [[json.loads(lines[i]) for lines in each if i < len(lines)] for i in range(len(each[0]))]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """One process, by itself."""
    torch.manual_seed(0)
    return train({"kind": "plain", "settings": SETTINGS}, 0, 1)


KINDS: list[dict[str, Any]] = [
    {"kind": "ddp"},
    {"kind": "fsdp"},
    {"kind": "bare", "differs": 1, "batches": 4, "fewer": 1},
    {"kind": "bare", "other_shapes": True},
    {"kind": "fsdp", "stop": [1, 5], "spoil": 1},
    {"kind": "ddp", "kill": [1, 5], "timeout_s": 10.0},
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two ranks, that train one thing after the other; at the end one of them kills itself."""
    folder = tmp_path_factory.mktemp("pair")
    KINDS[1]["save"] = str(folder / "fsdp.safetensors")
    found = site(folder, 2, [{"settings": SETTINGS, **how} for how in KINDS])
    names = ["ddp", "fsdp", "uneven", "shapes", "stopped", "killed"]
    return {"folder": folder, "log": (folder / "log").read_text(), **dict(zip(names, found, strict=True))}


def assert_trained_alike(found: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """To the last digit on all ranks, and as one process does."""
    first = found[0]
    for each in found:
        assert each["outer"] == first["outer"]
        assert (each["live"], each["landed"]) == (first["live"], alone["landed"])
        assert (each["step"], each["finished"]) == (alone["step"], True)
        torch.testing.assert_close(each["outer"], alone["outer"], rtol=0.0, atol=1e-6)
    assert first["tokens"] == len(found) * alone["tokens"]
    assert first["fates"] == found[-1]["fates"]
    assert len({each["seed"] for each in found}) == len(found)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_train_as_one_process_does(pair: dict[str, Any], alone: dict[str, Any], kind: str) -> None:
    assert_trained_alike(pair[kind], alone)


def test_a_sharded_site_saves_the_whole_model(pair: dict[str, Any]) -> None:
    model = Net(7)
    left = model.load_state_dict(load_file(pair["folder"] / "fsdp.safetensors"), strict=False)
    assert (left.missing_keys, left.unexpected_keys) == (["again.weight"], [])
    values = torch.cat([each.detach().reshape(-1) for each in model.parameters()])
    assert values.tolist() == pair["fsdp"][0]["outer"]


def test_ranks_that_began_differently_begin_with_what_rank_0_has(pair: dict[str, Any]) -> None:
    first, second = pair["uneven"]
    assert first["began"] == second["began"]


def test_all_ranks_end_where_the_first_one_has_no_batch_left(pair: dict[str, Any]) -> None:
    assert [each["step"] for each in pair["uneven"]] == [3, 3]
    assert "another rank of this site has no batch left" in pair["log"]


def test_ranks_with_other_shapes_are_refused_on_all_of_them(pair: dict[str, Any]) -> None:
    for each in pair["shapes"]:
        assert each["text"].endswith("first.weight 7x5 float32 on rank 0, first.weight 8x5 float32 on rank 1")


def test_a_stop_on_one_rank_ends_all_behind_the_same_step(pair: dict[str, Any]) -> None:
    assert [each["step"] for each in pair["stopped"]] == [6, 6]


def test_what_is_not_finite_on_a_site_is_given_up_on_all_its_ranks(pair: dict[str, Any]) -> None:
    first, second = pair["stopped"]
    assert first["fates"]["non_finite"] == 3 * 2 * 4
    assert first["live"] == second["live"]


def test_a_rank_that_dies_ends_the_site_and_it_says_what_it_trained(pair: dict[str, Any]) -> None:
    (left,) = pair["killed"]
    assert left["error"] in ("SiteBroken", "RuntimeError")
    assert "leaves the run behind step 5; of 40 tokens that it trained 24 are in the shared model" in (
        pair["log"] + left["text"]
    )


def test_the_example_trains_with_torchrun() -> None:
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*program, str(ROOT / "examples" / "a_site.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("round 10, 100 inner steps, 102400 tokens")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hsdp", "ddp", "fsdp"])
def test_four_ranks_train_as_one_process_does(tmp_path: Path, alone: dict[str, Any], kind: str) -> None:
    (found,) = site(tmp_path, 4, [{"kind": kind, "settings": SETTINGS}])
    assert_trained_alike(found, alone)


@pytest.mark.slow
def test_a_laptop_a_sharded_site_and_one_that_is_killed_meet_in_one_run(tmp_path: Path) -> None:
    """The run goes on without the site that was killed, and the others hold the same bits at its end."""
    run = {"rounds": 16, "min_peers": 2, "failure_timeout_s": 5.0, "grace_s": 30.0}
    settings = diloco.RunSettings.model_validate(
        {"run": run, "method": {**SETTINGS["method"], "codec": "int8"}}
    )
    go = tmp_path / "go"
    with diloco.host(settings, listen="tcp://127.0.0.1:0", state=tmp_path / "host") as host:
        common = {"ticket": host.ticket, "go": str(go), "timeout_s": 120.0}
        with ExitStack() as sites:
            for name, world, more in (("plain", 1, {}), ("fsdp", 2, {}), ("ddp", 2, {"kill_all": 14})):
                how = {"kind": name, "name": name, **common, **more}
                sites.enter_context(running(tmp_path / name, world, [how]))
            wait_until(lambda: sum(each["active"] for each in host.status()["members"]) == 3)
            go.touch()
        in_commits = [num_members for _, num_members, _ in host.status()["recent"]]
    assert (in_commits[0], in_commits[-1]) == (3, 2), in_commits
    (laptop,), (sharded, second) = found_by(tmp_path / "plain", 1)[0], found_by(tmp_path / "fsdp", 2)[0]
    assert laptop["outer"] == sharded["outer"] == second["outer"]
    assert laptop["finished"]
    assert sharded["finished"]
    assert sharded["landed"] == second["landed"]
    assert not (tmp_path / "ddp" / "rank0.jsonl").exists()


@pytest.mark.slow
def test_a_site_that_comes_back_begins_with_the_state_on_its_disk(tmp_path: Path) -> None:
    settings = diloco.RunSettings.model_validate(
        {"run": {"rounds": 9, "min_peers": 1}, "method": SETTINGS["method"]}
    )
    with diloco.host(settings, listen="tcp://127.0.0.1:0", state=tmp_path / "host") as host:
        common = {"kind": "fsdp", "ticket": host.ticket, "name": "site", "state": str(tmp_path / "site")}
        (first,) = site(tmp_path / "first", 2, [{**common, "batches": 7}])
        (again,) = site(tmp_path / "again", 2, [{**common, "seed": 1, "same_base": True, "batches": 3}])
    assert [each["since"] for each in first] == [0, 0]
    assert [each["since"] for each in again] == [6, 6]
    assert again[0]["outer"] == again[1]["outer"] != first[0]["outer"]
    assert again[0]["tokens"] == 3 * 2 * 4


def wait_until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.05)
