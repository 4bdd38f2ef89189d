"""What a run's settings mean to its coordinator and its outer loops. Needs no torch."""

from __future__ import annotations

from diloco.methods.schedule import Schedule
from diloco.methods.wire_formats import WIRE_FORMATS
from diloco.settings import RunSettings
from peers.coordinator.rules import Rules
from peers.protocol.profile import Matching


def rules_of(settings: RunSettings) -> Rules:
    """The coordinator's rules."""
    run, method = settings.run, settings.method.resolved()
    returned = method.codec if method.mean_codec == "same" else method.mean_codec
    return Rules(
        settings=settings.digest(),
        min_peers=run.min_peers,
        rounds=num_commits(settings),
        failure_timeout_s=run.failure_timeout_s,
        grace_s=method.quorum_grace_s if method.quorum else run.grace_s,
        outlier_factor=run.outlier_factor,
        max_influence=run.max_influence,
        part_growth=WIRE_FORMATS[method.codec].part_growth(method.keep, method.value_bits),
        mean_growth=WIRE_FORMATS[returned].mean_growth(),
        quorum=method.quorum,
        gossips=method.gossips,
        paces=method.pace == "by_speed",
        overlap=min(1.0, method.delay / method.sync_every),
    )


def matching_of(settings: RunSettings) -> Matching | None:
    """How gossip groups are found; None for a method with rounds."""
    method = settings.method.resolved()
    if method.group == "all":
        return None
    return Matching(method.group, settings.run.seed, method.group_size, settings.run.min_peers)


def num_commits(settings: RunSettings) -> int:
    """Commits after which the run is done: every fragment moves ``run.rounds`` times."""
    return Schedule.of(settings.method.resolved()).num_commits(settings.run.rounds)


def wait_s(settings: RunSettings) -> float:
    """Seconds that a worker waits for a round that does not open, before it trains on."""
    return settings.run.grace_s + 2 * settings.run.failure_timeout_s
