"""Where scripts are carried out: the simulator's worlds, with nodes that are overheard.

Knows how each verb of `script.VERBS` is done, and nothing of what a story should say.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diloco.loop.session import Terms
from tests.scenarios.script import HOST, Scenario, ScriptError, Step, Until
from tests.scenarios.story import Log, TellingNode, story_of
from tests.scenarios.words import Names
from tests.sim import doors, gossip_world
from tests.sim.streams import StreamShape
from tests.sim.world import LIMITS, World
from transport.simnet.links import Endpoint

SEED = 1
PATIENCE_S = 60.0
"""Virtual time after which what a script waits for will not come any more."""
AFTERMATH_S = 2.0
"""Untold time at the end, in which whatever is still under way arrives."""
ONE_AT_A_TIME = StreamShape(quota=1, window=1, activation_bytes=200)
"""One microbatch of each feeder is under way, and is an inner step by itself."""
ON_THE_NETWORK = {
    "crash": "{} is killed",
    "freeze": "{} freezes",
    "thaw": "{} wakes up",
    "cut": "{} and {} reach each other no more",
    "mend": "{} and {} reach each other again",
    "reset": "the connections between {} and {} break",
}
"""The verbs that are methods of the simulated network, and how a story tells of them."""


def tell(scenario: Scenario) -> str:
    """The story of a scenario, as the cores tell it now. Raises `ScriptError`."""
    stage = Stage(scenario.steps)
    for step in scenario.steps:
        stage.perform(step)
    stage.log.topics = ()
    stage.net.run(stage.net.now + AFTERMATH_S)
    return story_of(stage.log)


def _staged(step: Step) -> tuple[str, ...]:
    """Whom a line gives a stage."""
    return step.words[:-1] if step.verb == "stage" else ()


class _World(World):
    """With a quorum, what was not in a round is offered on top of it."""

    rebases = False

    def terms(self) -> Terms:
        terms = super().terms()
        return replace(terms, schedule=replace(terms.schedule, rebases=self.rebases))


class Stage:
    """A world whose peers go by the letters of a script: a is worker 0, b is worker 1, and so on."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        num_workers = len(steps[0].words)
        self._gossips = steps[0].verb == "gossip"
        self._key_of = gossip_world.key_of if self._gossips else doors.key_of
        self._keys = {chr(ord("a") + i): self._key_of(i) for i in range(26)}
        self._keys[HOST] = gossip_world.HOST if self._gossips else doors.key_of(doors.HOST)
        beginning = "the last swap" if self._gossips else "the first state"
        self.log = Log(Names({key: name for name, key in self._keys.items()}, beginning))
        self._rules = {
            name: float(value) if name == "grace_s" else int(value)
            for step in steps
            if step.verb == "rules"
            for name, value in zip(step.words[::2], step.words[1::2], strict=True)
        }
        self.net: Any = None
        if self._gossips:
            self._world: Any = gossip_world.GossipWorld(SEED, num_workers, make_node=self._make_node)
        else:
            sizes = (LIMITS.chunk_elements * num_workers,)  # so that each peer owns one chunk
            stage_of = {ord(name) - ord("a"): int(step.words[-1]) for step in steps for name in _staged(step)}
            cut = {"stages": max(stage_of.values()) + 1, "streams": ONE_AT_A_TIME} if stage_of else {}
            self._world = _World(SEED, num_workers, sizes=sizes, make_node=self._make_node, **cut)
            self._world.wishes = stage_of
            self._world.rebases = "quorum" in self._rules
        self.net = self._world.net
        self.log.clock = lambda: self.net.now

    def _make_node(self, key: bytes, *args: Any, **named: Any) -> TellingNode:
        if hosting := named.get("hosting"):
            named["hosting"] = replace(hosting, rules=replace(hosting.rules, **self._rules))
        node = TellingNode(key, *args, **named)
        older = len(self.net.processes(key)) if self.net else 0
        node.log, node.name = self.log, self.log.names.peer(key) + "'" * older
        return node

    def _process(self, name: str) -> Endpoint:
        """The process that goes by a name, be it the newest of its identity or an older one."""
        return next(
            each for each in self.net.processes(self._keys[name.rstrip("'")]) if each.core.name == name
        )

    # -- verbs --------------------------------------------------------------------------------

    def perform(self, step: Step) -> None:
        """Do what one line of a script says. Raises `ScriptError`."""
        if step.verb in ON_THE_NETWORK:
            self.log.add("", "does", ON_THE_NETWORK[step.verb].format(*step.words))
            getattr(self.net, step.verb)(*map(self._process, step.words))
        elif step.verb not in ("peers", "gossip", "rules", "stage"):  # with these the world was made
            getattr(self, f"_{step.verb}")(step)

    def _tell(self, step: Step) -> None:
        self.log.tell(step.words)

    def _step(self, step: Step) -> None:
        *names, seconds = step.words
        for name in names:
            self._world.workers[ord(name) - ord("a")].step_s = float(seconds)
        self.log.add("", "does", f"an inner step of {' and '.join(names)} takes {seconds} s from here on")

    def _wait(self, step: Step) -> None:
        if step.words[0] != "until":
            self.net.run(self.net.now + float(step.words[0]))
            return
        wanted = Until.of(step.words[1:])
        left, seen = set(wanted.who), len(self.log.entries)

        def came() -> bool:
            nonlocal seen
            for entry in self.log.entries[seen:]:
                if entry.is_a(wanted.act, wanted.kind) and wanted.other in ("", entry.other):
                    left.discard(entry.who)
            seen = len(self.log.entries)
            return not left

        if not self.net.run(self.net.now + PATIENCE_S, came):
            raise ScriptError(
                step.line, f"{' and '.join(sorted(left))} did not do that in {PATIENCE_S:.0f} s"
            )

    def _start(self, step: Step) -> None:
        name = step.words[0]
        self.log.add("", "does", f"{name} starts")
        if name == HOST:
            self._world.restart(doors.HOST)
        else:
            start = self._world.start if self._gossips else self._world.start_worker
            start(ord(name) - ord("a"))

    def _falsify(self, step: Step) -> None:
        what, name = step.words
        self.log.add("", "does", f"the next {what} of {name} will be wrong by some bits")
        if what == "mean":
            self._process(name).core.falsifies = True
        else:
            self._world.workers[ord(name) - ord("a")].replica.corrupt = True
