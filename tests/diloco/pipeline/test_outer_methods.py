"""Outer methods over stages: lines are workers of one stage with the same fragments, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

import diloco
from diloco.methods.presets import method
from diloco.methods.spec import Method
from diloco.outer.replica import TensorReplica
from diloco.pipeline.in_process import Line, LocalStage
from tests.diloco.pipeline.kit import TOKENS, Plain, batches, built, layers, line_of, parameters_of, sgd

CUTS, QUOTA = (2, 4), 2


def test_data_parallel_is_sgd_at_h_1() -> None:
    """M lines with outer SGD of rate 1 after each step are one process that has the mean of all gradients."""
    model = built(layers())
    lines = [line_of(model, CUTS, QUOTA, make_optimizer=plain_sgd, feeder=bytes([k])) for k in range(3)]
    replicas = [replicas_of(stages, method("local_sgd", sync_every=1)) for _, stages in lines]
    data = [batches(8, seed=k) for k in range(3)]
    runs = [line.run(each) for (line, _), each in zip(lines, data, strict=True)]
    parallel = Plain(model, 3 * QUOTA, plain_sgd)
    for at in range(0, 8, QUOTA):
        for run in runs:
            next(run)
        for stage in range(3):
            outer_step([each[stage] for each in replicas], fragment=0)
        parallel.step([batch for each in data for batch in each[at : at + QUOTA]])
    whole = parallel.model.state_dict()
    for _, stages in lines:
        for name, found in parameters_of(stages).items():
            torch.testing.assert_close(found, whole[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("preset", ["diloco", "local_sgd", "streaming"])
@pytest.mark.parametrize("num_fragments", [1, 2])
def test_two_lines_of_stages_are_two_workers(preset: str, num_fragments: int) -> None:
    """Every committed state, and the parameters after it. A worker's fragment has the tensors of the same
    fragment of each stage."""
    model = built(layers(dropout=0.3))
    lines = [line_of(model, CUTS, QUOTA, seed=5, feeder=bytes([k])) for k in range(2)]
    chosen = method(preset, sync_every=2, num_fragments=num_fragments)
    of_stages = [replicas_of(stages, chosen) for _, stages in lines]
    workers = [Plain(model, QUOTA, cuts=CUTS, seed=5, feeder=bytes([k])) for k in range(2)]
    grouped = method(
        preset,
        sync_every=2,
        num_fragments=num_fragments,
        fragment_pattern="modules",
        fragment_modules=fragments_by_name(of_stages[0]),
    )
    of_workers = [TensorReplica.of(each.model, grouped, each.optimizer) for each in workers]
    data = [batches(6 * QUOTA, seed=k) for k in range(2)]
    runs = [line.run(each) for (line, _), each in zip(lines, data, strict=True)]
    for outer in range(3):
        for inner in range(2):
            at = (2 * outer + inner) * QUOTA
            for run, worker, each in zip(runs, workers, data, strict=True):
                next(run)
                worker.step(each[at : at + QUOTA])
        for fragment in range(num_fragments):
            outer_step(of_workers, fragment)
            for stage in range(3):
                outer_step([each[stage] for each in of_stages], fragment)
        assert outer_bits(of_stages[0]) == outer_bits([of_workers[0]])
        assert outer_bits(of_stages[1]) == outer_bits([of_workers[1]])
    for (_, stages), worker in zip(lines, workers, strict=True):
        found, whole = parameters_of(stages), worker.model.state_dict()
        assert all(torch.equal(found[name], whole[name]) for name in whole)


@pytest.mark.parametrize("overrides", [{}, {"delay": 1, "merge": "mix", "alpha": 0.5}], ids=["diloco", "mix"])
def test_attach_hooks_each_stage_with_nothing_in_flight(overrides: dict[str, object]) -> None:
    """The outer loop of each stage moves its parameters inside `optimizer.step`."""
    model = built(layers())
    line, stages = line_of(model, CUTS, QUOTA, make_optimizer=sgd)
    worker = Plain(model, QUOTA, sgd)
    settings = diloco.RunSettings.model_validate(
        {"run": {"rounds": 3}, "method": {"sync_every": 2, "codec": "fp32", **overrides}}
    )
    swarms = [diloco.solo(settings) for _ in range(4)]
    try:
        outers = [
            diloco.attach(stage.part.model, stage.optimizer, swarm)
            for stage, swarm in zip(stages, swarms, strict=False)
        ]
        whole = diloco.attach(worker.model, worker.optimizer, swarms[3])
        data = batches(7 * QUOTA)
        for _ in line.run(data):
            assert [stage.part.num_held for stage in stages] == [0, 0, 0]
        for at in range(0, len(data), QUOTA):
            worker.step(data[at : at + QUOTA])
        assert [each.round for each in [*outers, whole]] == [3] * 4
        assert outer_bits([each.replica for each in outers]) == outer_bits([whole.replica])
        found, plain = parameters_of(stages), worker.model.state_dict()
        assert all(torch.equal(found[name], plain[name]) for name in plain)
    finally:
        for swarm in swarms:
            swarm.close()


def test_a_round_weighs_the_tokens_that_the_stage_counted() -> None:
    """Where targets are left out, steps have fewer tokens than they could."""
    _, (stage,) = line_of(built(layers()), (), QUOTA)
    data = batches(4 * QUOTA, ragged=True)
    settings = diloco.RunSettings.model_validate({"run": {"rounds": 2}, "method": {"sync_every": 2}})
    with diloco.solo(settings) as swarm:
        outer = diloco.attach(stage.part.model, stage.optimizer, swarm)
        outer.detach()
        told = LocalStage(stage.part, stage.optimizer, quota=QUOTA, after_step=outer.step_done)
        steps = list(Line([told]).run(data))
    counted = sum(int((targets >= 0).sum()) for _, targets in data)
    assert sum(step.tokens for step in steps) == counted < 4 * QUOTA * TOKENS
    assert outer.tokens_by_fate["applied"] == counted
    assert outer.round == 2


def plain_sgd(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def replicas_of(stages: Sequence[LocalStage], chosen: Method) -> list[TensorReplica]:
    return [TensorReplica.of(stage.part.model, chosen, stage.optimizer) for stage in stages]


def outer_step(replicas: Sequence[TensorReplica], fragment: int) -> None:
    """One outer step of one fragment: the mean of the pseudo-gradients, in the order of the replicas."""
    mean = torch.stack([each.local.pseudo_gradient(fragment) for each in replicas]).mean(0)
    for each in replicas:
        each.outer.step(fragment, mean.clone())
        each.discard(fragment)


def fragments_by_name(stages: Sequence[TensorReplica]) -> tuple[str, ...]:
    """By fragment, the tensors that the stages have in it, as `fragment_modules` takes them."""
    return tuple(
        ",".join(spec.name for each in stages for spec in each.layout.fragments[fragment])
        for fragment in range(stages[0].num_fragments)
    )


def outer_bits(replicas: Sequence[TensorReplica]) -> dict[tuple[str, int], bytes]:
    """By tensor, the bits of its outer parameters and of the outer optimizer's buffers."""
    found = {}
    for replica in replicas:
        for fragment, specs in enumerate(replica.layout.fragments):
            vectors: list[Tensor] = [
                replica.outer.outer_parameters(fragment),
                *replica.outer.buffers(fragment),
            ]
            for spec in specs:
                for number, vector in enumerate(vectors):
                    found[spec.name, number] = vector[spec.span].numpy().tobytes()
    return found
