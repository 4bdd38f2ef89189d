"""The liar: false weights, norms, values, means, tokens, speeds, digests and addresses, and false charges."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from diloco.simulation.roles.lying_reducer import LyingReducer, true_values
from diloco.simulation.roles.role import Adversary, Role
from peers.protocol.commands import Command, ConfirmApplied, ConfirmNamed, Offer, ReportProgress
from peers.protocol.messages import Enter, Stuck
from transport.link.messages import Stale

_ADDRESSES = ("tcp://no-such-host.invalid:1", "tcp://192.0.2.1:1")
LIES = ("weight", "small norm", "large values", "mean", "tokens", "nothing")
"""What it lies about in one offer after another."""


class Liar(Role):
    """Every number that it may say about itself or others is false now and then."""

    name = "liar"
    about = "weights, norms, values, means, tokens, speed, digests, addresses, claims of poison, Stale"

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._attempts: dict[int, int] = {}
        """In which attempt of each round it took part when it last heard something."""

    def command(self, node: Adversary, command: Command) -> Command:
        """Other numbers than training says."""
        match command:
            case Offer():
                return self._offer(command)
            case ConfirmApplied() if self.rng.random() < 0.1:
                self.did("said another check of its state")
                return replace(command, check=self.rng.randbytes(16))
            case ConfirmNamed() if self.rng.random() < 0.1:
                self.did("said another digest of its state")
                return replace(command, state=self.rng.randbytes(32))
            case ReportProgress():
                self.did("said that it is fast")
                return replace(command, report=replace(command.report, speed=1e12))
        return command

    def _offer(self, offer: Offer) -> Offer:
        values, lie = true_values(offer.reducer), self.rng.choice(LIES)
        if values is None and lie in ("small norm", "large values", "mean"):
            lie = "weight"
        match lie:
            case "weight":
                self.did("offered with a huge weight")
                return replace(offer, weight=offer.weight * 10**6)
            case "tokens":
                self.did("claimed tokens")
                return replace(offer, tokens=offer.tokens * 10**6)
            case "small norm":
                self.did("sent values a million times too large under its usual norm")
                return self._lying(offer, values, 1e6, 1.0)
            case "large values":
                self.did("sent values a million times too large")
                return replace(self._lying(offer, values, 1e6, 1.0), norm=offer.norm * 1e6)
            case "mean":
                self.did("called ten times the mean the mean")
                return self._lying(offer, values, 1.0, self.rng.choice([10.0, 0.5]))
        return offer

    def _lying(self, offer: Offer, values: Any, factor: float, mean_factor: float) -> Offer:
        reducer = LyingReducer(values, factor, mean_factor)
        self.offered.append(reducer)
        return replace(offer, reducer=reducer)

    def message(self, node: Adversary, peer: bytes, message: Any) -> Any:
        """It says that it listens where nobody does."""
        if isinstance(message, Enter) and self.rng.random() < 0.5:
            self.did("entered with addresses that lead nowhere")
            return replace(message, addresses=_ADDRESSES)
        return message

    def heard(self, now: float, node: Adversary) -> None:
        """In every second attempt of a round it accuses somebody, as soon as it takes part."""
        running = node.member.exchanges.running if node.member else {}
        before, self._attempts = (
            self._attempts,
            {serial: each.exchange.attempt for serial, each in running.items()},
        )
        for serial, attempt in self._attempts.items():
            others = sorted(set(running[serial].exchange.members) - {node.key})
            if before.get(serial) != attempt and others and self.rng.random() < 0.5:
                self.did("claimed that another one sends poison")
                victims = (self.rng.choice(others),) if self.rng.random() < 0.5 else tuple(others)
                node.send(now, node.host, Stuck(serial, attempt, victims, "a value is not finite"))

    def act(self, now: float, node: Adversary) -> None:
        """Tell somebody to stop."""
        if node.member is not None and self.rng.random() < 0.3:
            for peer in sorted(node.links.by_peer):
                self.did("told others that they are stale")
                node.say_part(now, peer, Stale(1 << 61))
