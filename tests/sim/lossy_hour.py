"""An hour on bad lines: a twentieth of all packets is lost, processes and links stall for two seconds again
and again, and with the default failure timeout nobody is taken for dead. A link that stalls carries nothing,
and what was sent then comes when TCP tries again.

python -m tests.sim.lossy_hour 200    so many seeds, in this process; what goes wrong is printed
"""

from __future__ import annotations

import argparse
from unittest import mock

from peers.protocol.traces import AbortedTrace, CommittedTrace, RemovedTrace, RepairedTrace, SetAsideTrace
from tests.sim.doors import HOST, key_of
from tests.sim.world import World
from transport.effects import Effect
from transport.simnet.network import Access

LOSS, STALL_S, FAILURE_TIMEOUT_S, GRACE_S = 0.05, 2.0, 10.0, 30.0
_LOSS_OF_A_LINK = 1 - (1 - LOSS) ** 0.5
"""A packet passes two of them."""
NUM_WORKERS = 4
FALSE_DEATHS = (RemovedTrace, RepairedTrace, SetAsideTrace, AbortedTrace)
_LATENCY_S = 0.04
_STEP_S = 3.0
_STALLS_EVERY_S = 20.0


def lossy(*rates: float, **latency: float) -> Access:
    """The access link of every peer here, whatever a world would give it."""
    return Access(2e6, 8e6, latency_s=_LATENCY_S, loss=_LOSS_OF_A_LINK)


def false_deaths(seed: int, hours: float = 1.0) -> tuple[list[str], int]:
    """What the host said of members that were all alive, and how many rounds it committed."""
    said: list[str] = []
    commits = 0

    def watch(now: float, key: bytes, effect: Effect) -> None:
        nonlocal commits
        commits += isinstance(effect, CommittedTrace)
        if isinstance(effect, FALSE_DEATHS):
            said.append(f"{now:.1f} {effect.name} {getattr(effect, 'reason', '')}")

    with (
        mock.patch("tests.sim.world.TIMEOUT_S", FAILURE_TIMEOUT_S),
        mock.patch("tests.sim.world.GRACE_S", GRACE_S),
        mock.patch("tests.sim.world.Access", lossy),
    ):
        world = World(seed, NUM_WORKERS, observers=[watch], rounds=1 << 30)
        # All are here before anything stalls, and train slowly, so that an hour is soon over.
        world.net.run(30.0)
        for worker in world.workers.values():
            worker.step_s = _STEP_S
        said.clear()
        stalls, until = world.net.stream("stalls"), 30.0 + 3600.0 * hours
        while world.net.now < until:
            who = stalls.choice([HOST, *range(NUM_WORKERS)])
            if stalls.random() < 0.5:
                world.net.freeze(key_of(who))
                world.net.run(world.net.now + STALL_S)
                world.net.thaw(key_of(who))
            else:
                world.net.stall(key_of(who), STALL_S)
                world.net.run(world.net.now + STALL_S)
            world.net.run(world.net.now + stalls.uniform(0.0, 2 * _STALLS_EVERY_S))
    return said, commits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", type=int)
    parser.add_argument("--from", type=int, default=0, dest="first")
    args = parser.parse_args()
    failed = rounds = 0
    for seed in range(args.first, args.first + args.seeds):
        said, commits = false_deaths(seed)
        failed, rounds = failed + bool(said), rounds + commits
        print(f"seed {seed}: {commits} rounds, {said or 'nobody was taken for dead'}", flush=True)
    print(f"{args.seeds} seeds of an hour, {rounds} rounds, {failed} seeds with a false death")


if __name__ == "__main__":
    main()
