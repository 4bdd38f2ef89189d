"""The language of scenario files: a header in prose, a script of few verbs, a line of dashes, the story.

A script is carried out from top to bottom. It waits until somebody has said or heard something and then does
something to somebody, so that nothing in it depends on exact times. Whatever it cannot understand is refused
with the number of the line, before anything runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.scenarios.words import KINDS, TOPICS

HOST = "host"
DASHES = "----\n"
PEER, NUMBER = r"[a-z]+'*", r"\d+(?:\.\d+)?"
PEERS = rf"{PEER}(?: {PEER})*"
UNTIL = (
    rf"until {PEER}(?: and {PEER})* (?:sends?|gets?|hears?|writes?|notes?) [A-Z]\w+(?: (?:to|from) {PEER})?"
)
VERBS = {
    "peers": PEERS,
    "gossip": PEERS,
    "rules": rf"(?:min_peers|quorum|grace_s) {NUMBER}(?: (?:min_peers|quorum|grace_s) {NUMBER})*",
    "step": rf"{PEERS} {NUMBER}",
    "stage": rf"{PEERS} \d",
    "tell": rf"(?:{'|'.join(TOPICS)})(?: (?:{'|'.join(TOPICS)}))*",
    "wait": rf"{NUMBER}|{UNTIL}",
    **dict.fromkeys(("start", "crash", "freeze", "thaw"), PEER),
    **dict.fromkeys(("cut", "mend", "reset"), f"{PEER} {PEER}"),
    "falsify": rf"(?:mean|state) {PEER}",
}
"""By verb, what follows it."""
NAMING = {"peers", "gossip", "start"}
"""The verbs after which a name is known that was not before."""


class ScriptError(Exception):
    """A line of a script that means nothing, or that did not come true."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")


@dataclass(frozen=True)
class Step:
    """One line of a script."""

    line: int
    verb: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Until:
    """What a script waits for: that everyone in ``who`` does this from now on."""

    who: frozenset[str]
    act: str
    kind: str
    other: str = ""

    @classmethod
    def of(cls, words: tuple[str, ...]) -> Until:
        """From the words behind "wait until"."""
        at = next(i for i, word in enumerate(words) if word in KINDS or word[0].isupper())
        act = words[at - 1].removesuffix("s") + "s"
        return cls(frozenset(words[: at - 1]) - {"and"}, act, words[at], *words[at + 2 :])


@dataclass(frozen=True)
class Scenario:
    """A file: the steps, the text down to the line of dashes, and the story below it."""

    steps: tuple[Step, ...]
    head: str
    story: str


def read_scenario(path: Path) -> Scenario:
    """A file that is understood. Raises `ScriptError`."""
    head, _, story = path.read_text(encoding="utf-8").partition(DASHES)
    return Scenario(parse_script(head), head + DASHES, story)


def parse_script(text: str) -> tuple[Step, ...]:
    """The steps of a script. Raises `ScriptError`."""
    known = {HOST}
    steps: list[Step] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        verb, *words = line.split()
        if verb not in VERBS:
            raise ScriptError(number, f"{verb!r} is no verb; there are {', '.join(VERBS)}")
        if not re.fullmatch(VERBS[verb], " ".join(words)):
            raise ScriptError(number, f"nobody understands {line.strip()!r}")
        if (verb in ("peers", "gossip")) != (not steps):
            raise ScriptError(number, "a script begins with its peers, or with those who gossip, once")
        step = Step(number, verb, tuple(words))
        known |= set(words) if verb in NAMING else set()
        for name in sorted(_names_in(step)):
            if name.rstrip("'") not in known:
                raise ScriptError(number, f"nobody is called {name}; there are {', '.join(sorted(known))}")
        steps.append(step)
    return tuple(steps)


def _names_in(step: Step) -> set[str]:
    if step.verb in ("tell", "rules"):
        return set()
    if step.words[:1] == ("until",):
        until = Until.of(step.words[1:])
        if until.kind not in KINDS:
            raise ScriptError(step.line, f"no message, event, journal entry or trace is called {until.kind}")
        return set(until.who) | {until.other} - {""}
    return {word for word in step.words if not word[0].isdigit()} - {"mean", "state"}
