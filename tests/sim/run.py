"""Run one seed: a fault phase that checks safety, a quiet phase that must converge."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

from diloco.settings import Checkpoint
from peers.node import Node
from peers.protocol.placing import Wiring
from peers.protocol.stage_work import How
from tests.sim.checkers import Checkers
from tests.sim.doors import key_of
from tests.sim.faults import (
    Fault,
    Injector,
    draw_disk_faults,
    draw_faults,
    draw_full_disks,
    draw_long_absences,
)
from tests.sim.stages import StageCheckers
from tests.sim.streams import StreamShape
from tests.sim.trainer import SYNC_EVERY
from tests.sim.violation import Violation
from tests.sim.world import GRACE_S, TIMEOUT_S, World

FAULTS_UNTIL_S = 30.0
SETTLE_S = 12 * TIMEOUT_S + 2 * GRACE_S
"""Time after the last fault in which the swarm must be whole again: detection, judging, fetching the
state anew once, and two rounds, with everybody's patience used up once each."""

DRAW_COPIES_FROM = 20_000
"""Seeds from here on draw also how many members write each fragment."""
DRAW_MOVES_FROM = 2_000
"""Seeds of worlds that stream from here on draw whether workers move, whether some microbatches are only for
evaluation, and who is away for long."""
DRAW_SETTINGS_FROM = 10_000
"""Seeds of worlds with disks from here on draw what is kept there."""


@dataclass
class Outcome:
    """What a seed came to."""

    seed: int
    trace_hash: str
    num_events: int
    rounds: int
    fired: Counter[str]
    seen: Counter[str]


@dataclass(frozen=True)
class Cut:
    """How a world's model is cut: see `World`."""

    stages: int = 1
    wider: int = 0


def plan(
    seed: int, exchanges: int = 1, disks: bool = False, stages: bool = False, streams: bool = False
) -> tuple[World, list[Fault]]:
    """The world and the faults of a seed; outer steps are so many exchanges, workers may have disks, and the
    model may have several stages."""
    net = World(seed, 0).net
    probe = net.stream("plan")
    num_workers = probe.choice([2, 3, 4, 5, 8]) if seed % 25 else probe.choice([16, 32])
    sizes = probe.choice([(300,), (45,), (700, 130), (64, 64, 64)])
    delay = probe.choice([0, 0, SYNC_EVERY // 2, SYNC_EVERY])
    min_peers, cut = probe.choice([1, 2, 2]), Cut()
    if stages:
        cut, num_workers = draw_stages(net.stream("stages"), most=4 if streams else 3)
        if seed % 10 == 9:  # one stage has too few, unless somebody joins
            num_workers, min_peers = 2 * cut.stages - 1, 2
    world = World(seed, num_workers, min_peers, cut.stages, cut.wider, sizes, delay=delay)
    world.exchanges, world.with_disks = exchanges, disks
    if streams:
        world = draw_streams(world, net.stream("streams"))
    if stages:
        pass  # of three replicas none is judged by the others: those seeds are about other things
    elif num_workers > 3 and probe.random() < 0.15:
        world.poisoned.add(num_workers - 1)
    elif num_workers > 3 and probe.random() < 0.15:
        world.exploded.add(num_workers - 1)
    until = FAULTS_UNTIL_S if num_workers < 16 else FAULTS_UNTIL_S / 3
    drawn = [*draw_faults(probe, num_workers, until), *draw_full_disks(world.net.stream("disks"), until)]
    if streams and seed >= DRAW_MOVES_FROM:
        drawn += draw_long_absences(world.net.stream("absences"), num_workers, until)
    if disks:
        world.checkpoint = draw_checkpoint(seed, world.net.stream("settings of checkpoints"))
        drawn += draw_disk_faults(world.net.stream("faults of disks"), num_workers, until)
    return world, sorted(drawn, key=lambda fault: fault.at_s)


def draw_streams(world: World, rng: random.Random) -> World:
    """The same world, whose steps are made of microbatches. A step that nobody waits for lands at once."""
    shape = StreamShape(rng.choice([1, 2]), rng.choice([2, 4]), wiring=rng.choice(list(Wiring)))
    if world.seed >= DRAW_MOVES_FROM:
        shape = replace(shape, moves=rng.random() < 0.6, evaluates=rng.random() < 0.6)
    again = World(world.seed, world.num_workers, 1, world.stages, world.wider, world.sizes, streams=shape)
    again.with_disks = world.with_disks
    return again


def draw_stages(rng: random.Random, most: int = 3) -> tuple[Cut, int]:
    """Two or three stages, or up to ``most``, alike or not, and how many workers there are at first."""
    cut = Cut(rng.choice([2, 2, 3] if most == 3 else range(2, most + 1)), rng.choice([0, 0, 7]))
    return cut, cut.stages * rng.choice([2, 2, 3]) + rng.choice([0, 1])


def draw_checkpoint(seed: int, rng: random.Random) -> Checkpoint:
    """What the owner wants kept; as it is by default in the seeds that were before there was a choice."""
    if seed < DRAW_SETTINGS_FROM:
        return Checkpoint()
    every, keep = rng.choice([1, 2, 3, 8]), rng.choice([1, 2, 5])
    results = rng.random() < 0.8
    copies = rng.choice([1, 2, 2, 3]) if seed >= DRAW_COPIES_FROM else 0
    return Checkpoint(every=every, keep=keep, results=results, copies=copies)


def run_seed(
    seed: int,
    faults: list[Fault] | None = None,
    make_node: Callable[..., Node] = Node,
    trace: list[str] | None = None,
    exchanges: int = 1,
    disks: bool = False,
    stages: bool = False,
    streams: bool = False,
) -> Outcome:
    """Run a seed, with its own faults or given ones. Raises `Violation`."""
    world, drawn = plan(seed, exchanges, disks, stages, streams)
    if make_node is not Node:
        world = remake(world, make_node)
    world.net.trace_log.lines = trace
    faults = drawn if faults is None else faults
    checkers = StageCheckers(world)
    injector = Injector(world, faults)
    last = max((f.at_s for f in drawn), default=5.0)
    end = 0.0
    while end < last + 1.0:
        end += 1.0
        world.net.run(end)
        checkers.sweep()
    injector.quiet()
    converge(world, checkers, end)
    checkers.check_end()
    rounds = checkers.num_records
    world.seen["given_up"] += checkers.num_given_up
    return Outcome(seed, world.net.trace_hash(), world.net.num_events, rounds, injector.fired, world.seen)


def outcome_of(
    seed: int,
    faults: list[Fault] | None = None,
    trace: list[str] | None = None,
    exchanges: int = 1,
    disks: bool = False,
    stages: bool = False,
    streams: bool = False,
) -> Outcome | str:
    """The outcome, or what went wrong and the command that replays it."""
    try:
        kind = {"exchanges": exchanges, "disks": disks, "stages": stages or streams, "streams": streams}
        return run_seed(seed, faults, trace=trace, **kind)
    except Exception as error:
        how = f"--seed {seed} --trace" + (f" --exchanges {exchanges}" if exchanges > 1 else "")
        how += " --disks" * disks + " --stages" * stages + " --streams" * streams
        return f"{type(error).__name__}: {error}\n    replay: scripts/sim {how}"


def outcomes_of(
    seeds: list[int],
    exchanges: int = 1,
    disks: bool = False,
    stages: bool = False,
    streams: bool = False,
) -> dict[int, Outcome | str]:
    """Many seeds, in parallel processes."""
    run = partial(outcome_of, exchanges=exchanges, disks=disks, stages=stages, streams=streams)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        return dict(zip(seeds, pool.map(run, seeds, chunksize=4), strict=True))


def failures_in(outcomes: dict[int, Outcome | str]) -> str:
    """Seeds that failed, each with what went wrong; empty if none did."""
    return "\n".join(f"seed {seed}: {found}" for seed, found in outcomes.items() if isinstance(found, str))


def counts_in(outcomes: dict[int, Outcome | str]) -> tuple[Counter[str], Counter[str]]:
    """Faults that fired, and what was seen, over all seeds."""
    whole = [found for found in outcomes.values() if isinstance(found, Outcome)]
    return sum((each.fired for each in whole), Counter()), sum((each.seen for each in whole), Counter())


def remake(world: World, make_node: Callable[..., Node]) -> World:
    """The same world on other (broken) nodes."""
    again = World(
        world.seed,
        world.num_workers,
        min_peers=world.min_peers,
        stages=world.stages,
        wider=world.wider,
        sizes=world.sizes,
        delay=world.delay,
        exchanges=world.exchanges,
        with_disks=world.with_disks,
        checkpoint=world.checkpoint,
        streams=world.streams,
        make_node=make_node,
    )
    again.poisoned, again.exploded = world.poisoned, world.exploded
    return again


def converge(world: World, checkers: StageCheckers, begin: float) -> None:
    """L1, L4, L7: after the faults everyone is active, at its course's head, and rounds with everyone commit.
    A stage that fewer workers were given than commit a round waits, and says so."""
    world.net.run(begin + SETTLE_S)
    checkers.sweep()
    settled = [len(each.records) for each in checkers.courses]
    streams = checkers.streams
    ended = (streams.num(How.SETTLED), streams.given_up) if streams is not None else (0, 0)
    counted = {index: len(each.trainer.counted) for index, each in world.workers.items() if each.trainer}
    aborts, breaks, moved = world.seen["aborted"], world.net.num_breaks, len(world.moved)
    world.net.run(begin + SETTLE_S + (2 if streams is None else 8) * GRACE_S)
    checkers.sweep()
    if world.seen["aborted"] > aborts + 2:
        raise Violation("L7", f"{world.seen['aborted'] - aborts} aborts in the quiet")
    movers = set(world.moved[moved:])  # those leave, and come anew to another stage
    if world.net.num_breaks > breaks and not movers:
        raise Violation("L7", f"{world.net.num_breaks - breaks} connections broke in the quiet")
    if streams is not None and all(_has_workers(world, each) for each in range(world.stages)):
        streams.check_quiet(*ended)
    for each, before in zip(checkers.courses, settled, strict=True):
        mine = {index for index in world.lives if world.stage_of[index] == each.course}
        mine -= {index for index in mine if counted.get(index) == _num_counted(world, index)}  # spare ones
        mine -= movers
        if len(mine) >= world.min_peers or streams is not None:
            check_all_take_part(world, each, before, mine)
        else:
            check_waits(world, each, before)


def _num_counted(world: World, index: int) -> int:
    worker = world.workers.get(index)
    return -1 if worker is None or worker.trainer is None else len(worker.trainer.counted)


def _has_workers(world: World, stage: int) -> bool:
    return any(world.stage_of[index] == stage for index in world.lives)


def check_all_take_part(world: World, checkers: Checkers, settled: int, workers: set[int]) -> None:
    """A course with enough workers commits, and all of them are in the newest records."""
    if len(checkers.records) < settled + 2:
        raise Violation("L1", f"{len(checkers.records) - settled} commits in {2 * GRACE_S} quiet seconds")
    healthy = {key_of(i) for i in workers - world.poisoned - world.exploded}
    # Where microbatches come by chance, who was just given none has nothing to offer.
    looked_at = checkers.records[-2 if world.streams is None else settled :]
    latest = {key for record in looked_at for key in record.members}
    if not healthy <= latest:
        missing = sorted(world.peer_names[k] for k in healthy - latest)
        raise Violation("L4", f"workers {missing} take no part in the last rounds")


def check_waits(world: World, checkers: Checkers, settled: int) -> None:
    """A course with too few workers commits nothing, and the status says for whom it waits."""
    world.seen["stage_waits"] += 1
    coordinator = world.host.coordinator
    assert coordinator is not None
    told = coordinator.status(world.net.now).stages[checkers.course].waits
    if len(checkers.records) > settled or "too few workers" not in told:
        raise Violation("L1", f"stage {checkers.course} has too few workers, and says: {told}")
