"""The benchmarks run, check their own results and print what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import bench_checkpoint
import bench_codecs
import bench_death
import bench_join
import bench_line
import bench_pipeline
import bench_round
import bench_site
import bench_stream
import pytest
from bench_exchange import CODECS, main, of_the_line
from link_options import LinkSpec


def test_the_benchmark_times_every_size_and_codec_beside_gloo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.json"
    results = main(["--processes", "2", "--sizes", "4B,64KiB", "--repeats", "1", "--json", str(path)])
    assert [(each.size_bytes, each.codec) for each in results] == [
        (size, name) for size in (4, 65536) for name in CODECS
    ]
    assert all(0 < each.exchange_s <= each.round_s and each.gloo_s > 0 for each in results)
    assert [each["codec"] for each in json.loads(path.read_text())] == [each.codec for each in results]
    assert all(each.cpu_s > 0 and each.gloo_cpu_s > 0 for each in results)
    assert "gloo/round" in capsys.readouterr().out


def test_the_benchmark_crosses_an_emulated_link_no_faster_than_its_rate() -> None:
    spec = LinkSpec(80e6, 0.01, 100_000)
    results = main(
        ["--link", "80Mbps", "--rtt", "10ms", "--queue", "100kB", "--sizes", "1MiB", "--repeats", "1"]
    )
    fp32 = next(each for each in results if each.codec == "fp32")
    assert fp32.round_s > 8 * 2**20 / spec.rate_bps
    assert "of the line rate" in next(of_the_line(results, spec))


def test_the_benchmark_of_a_line_says_what_share_of_it_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "line.json"
    arguments = ["--rates", "80Mbps", "--rtts", "10ms", "--seconds", "0.4", "--repeats", "1"]
    (result,) = bench_line.main([*arguments, "--json", str(path)])
    assert 0 < result.whole_round < 1  # no faster than the link
    assert (result.size_bytes, result.repeats) == (4_000_000, 1)
    assert json.loads(path.read_text())[0]["whole_round"] == result.whole_round
    assert "lowest of ours" in capsys.readouterr().out


def test_the_benchmark_of_codecs_times_each_beside_a_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "codecs.json"
    results = bench_codecs.main(["--elements", "70000", "--repeats", "1", "--json", str(path)])
    assert [each.codec for each in results] == list(bench_codecs.WIRE_FORMATS)
    assert all(min(each.copy_s, each.encode_s, each.decode_s) > 0 for each in results)
    assert "copies' time" in capsys.readouterr().out
    bench_codecs.main(["--outer-step", "--elements", "5000", "--codecs", "int8,fp32", "--repeats", "1"])
    assert "pseudo_gradient_s" in capsys.readouterr().out


def test_the_benchmark_of_deaths_goes_on_where_its_log_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "deaths.jsonl"
    log.write_text('{"kind": "dataloader", "wait_s": 999.0, "load": 3.0}\n')
    (found,) = bench_death.main(["2", "--kinds", "dataloader", "--log", str(log)]).values()
    before, death = found
    assert before.wait_s == 999.0
    assert 0 < death.wait_s < bench_death.LONGEST_S
    assert len(log.read_text().splitlines()) == 2
    capsys.readouterr()
    bench_death.main(["2", "--kinds", "dataloader", "--log", str(log)])
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["dataloader", "2"]


def test_processes_of_a_benchmark_begin_with_their_module_imported_wherever_it_is_started(
    tmp_path: Path,
) -> None:
    scripts = str(Path(bench_death.__file__).parent)
    program = f"""
import sys
sys.path.insert(0, {scripts!r})
from fork_server import fork_server
look = "import sys; sys.exit(7 * ('link_options' in sys.modules))"
process = fork_server("link_options").Process(target=exec, args=(look,))
process.start()
process.join()
sys.exit(process.exitcode)
"""
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=plain, timeout=50, check=False)
    assert done.returncode == 7


def test_the_benchmark_of_checkpoints_compares_training_with_them_and_without() -> None:
    lines = bench_checkpoint.main(["--sizes", "8k", "--pairs", "2", "--seconds", "0.3", "--sync-every", "4"])
    assert "of those without" in lines["8k"]
    assert "2 pairs" in lines["8k"]


def test_the_benchmark_of_rounds_counts_what_the_training_thread_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = bench_round.main(["--elements", "700000", "--rounds", "2"])
    assert min(rows["contribution"], rows["apply"], rows["check"], rows["land"]) > 0
    assert 0 < rows["pseudo-gradient"] < rows["contribution"] < rows["training thread"] < rows["process"]
    assert rows["sync"] > 0
    assert rows["peak memory"] > 2, "a state of two vectors at least"
    assert "rounds; a copy takes" in capsys.readouterr().out


def test_the_benchmark_of_sites_tells_a_step_alone_from_one_that_ends_a_round() -> None:
    small = ["--width", "32", "--layers", "2", "--tokens", "8", "--sync-every", "3", "--rounds", "3"]
    rows = bench_site.main([*small, "--steps", "3"])
    assert min(rows["step alone"], rows["contribution"], rows["apply"], rows["land"]) > 0
    assert rows["overlap"] == 0.0, "no accelerator is asked for"


def test_the_benchmark_of_joining_moves_the_state_beside_raw_tcp(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = bench_join.main(["--elements", "300000", "--repeats", "1"])
    assert min(found.attach_s, found.cpu_s, found.raw_s) > 0
    assert "raw TCP" in capsys.readouterr().out


def test_the_benchmark_of_streams_times_hops_with_and_without_an_exchange(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stream.json"
    arguments = ["--sizes", "64KiB", "--repeats", "2", "--only", "sealed", "--no-gloo", "--json", str(path)]
    (result,) = bench_stream.main(arguments)
    assert min(result.hop_s, result.beside_s) > 0
    assert result.beside_s <= result.worst_beside_s
    assert json.loads(path.read_text())[0]["hop_s"] == result.hop_s
    assert "late" in capsys.readouterr().out


def test_the_benchmark_of_a_pipeline_times_steps_beside_torchs_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pipeline.json"
    arguments = ["--sizes", "64KiB", "--stages", "2", "--turns", "1", "--steps", "1", "--microbatches", "2"]
    (result,) = bench_pipeline.main([*arguments, "--pause", "5", "--json", str(path)])
    assert result.ours_s > 3 * 15e-3, "two microbatches one after the other, and the first one's way"
    assert result.gloo_s > 0
    assert 0 < result.utilization < result.formula < 1, "no faster than without distance"
    assert json.loads(path.read_text())[0]["ratio"] == result.ratio
    assert "formula" in capsys.readouterr().out
