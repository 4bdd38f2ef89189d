"""Every kind of frame of an admitted member, every field, at every moment: nothing of others changes.

Each drawn frame is given to a fresh copy of the host's core and of an honest member's, as they were at that
moment (`stages`). At the end the table of counts is printed: no pair of field and moment has fewer than 20.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.hostile.draws import (
    LINK_KINDS,
    PAYLOADS,
    Draw,
    DrawnPayload,
    all_kinds,
    draws_of,
    fields_of,
    header_of,
    message_items,
)
from tests.hostile.others import damage, others_of
from tests.hostile.stages import TARGETS, Speaker, Stage, stages
from transport.effects import Effect

pytestmark = pytest.mark.timeout(300)

LEAST = 20
EXAMPLES = LEAST + 3
"""Some values do not fit into a frame."""
SESSIONS = ("incarnation", "generation", "known_incarnation", "known_generation")
KINDS = all_kinds()
COUNTS: Counter[tuple[str, str, str]] = Counter()
"""By target, kind and field, and moment: frames that were given to a core."""
TRIED: set[int] = set()


def frame_of(
    number: int, drawn: dict[str, Draw], payload: DrawnPayload, stage: Stage, speaker: Speaker
) -> tuple[int, bytes | None, bytes | None]:
    """Lane, header and payload of one drawn frame."""
    cls = KINDS[number]
    items = message_items(number, cls, drawn, stage)
    if cls.__module__ == LINK_KINDS:
        # The sessions of a living link, but for what is drawn.
        for at, (name, value) in enumerate(zip(fields_of(cls), speaker.link_items(0)[1:5], strict=False), 1):
            if name not in drawn and name in SESSIONS:
                items[at] = value
        return 0, header_of([items]), None
    said = stage.said.get(cls)
    size = said[1] if payload.size == -1 and said is not None else payload.size
    data = None if size in (None, -1) else (payload.fill * (size // len(payload.fill) + 1))[:size]
    lane = 0 if data is None else 1
    return lane, header_of([speaker.link_items(lane), items]), data


def give(core: Any, stage: Stage, frame: tuple[int, bytes, bytes | None], speaker: Speaker) -> list[str]:
    """One frame to one core; what it did to others."""
    before = others_of(core)
    effects: list[Effect] = []
    try:
        speaker.say(*frame)
        effects += core.drain()
        core.tick(stage.now)
        effects += core.drain()
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    return damage(before, others_of(core), effects)


def draws_of_all(cls: type) -> st.SearchStrategy[dict[str, Draw]]:
    return st.fixed_dictionaries({name: draws_of(hint) for name, hint in fields_of(cls).items()})


def check(number: int, drawn: dict[str, Draw], payload: DrawnPayload) -> list[str]:
    """Give the frame with these fields to both cores at every moment; what it did to others, if anything."""
    cls, done = KINDS[number], []
    for stage in stages():
        for target, copy in stage.copies.items():
            core = copy()
            speaker = Speaker(core, stage.now)
            lane, header, data = frame_of(number, drawn, payload, stage, speaker)
            if header is None:
                continue
            found = give(core, stage, (lane, header, data), speaker)
            if found:
                done.append(
                    "\n  ".join([f"{target} ({stage.name}): {cls.__name__} {drawn} {payload}", *found])
                )
            for each in drawn:
                COUNTS[target, f"{cls.__name__}.{each}", stage.name] += 1
    return done


@pytest.mark.parametrize("number", KINDS, ids=lambda number: KINDS[number].__name__)
def test_whatever_a_member_says_of_a_kind_nothing_of_others_changes(number: int) -> None:
    done: list[str] = []

    @settings(max_examples=EXAMPLES, phases=[Phase.generate])
    @given(draws_of_all(KINDS[number]), PAYLOADS, st.integers(0, (1 << 30) - 1))
    def any_frame(drawn: dict[str, Draw], payload: DrawnPayload, which: int) -> None:
        # Two frames that share the fields out between them: what is not drawn is as it was said last.
        some = {name: draw for i, (name, draw) in enumerate(drawn.items()) if which >> i % 30 & 1}
        for part in (some, {name: draw for name, draw in drawn.items() if name not in some}):
            done.extend(check(number, part, payload) if part else ())

    any_frame()
    TRIED.add(number)
    assert not done, f"{len(done)} frames did something to others, among them\n" + "\n".join(done[:3])


def test_every_field_of_every_kind_was_tried_at_every_moment(capsys: pytest.CaptureFixture[str]) -> None:
    if set(KINDS) != TRIED:
        pytest.skip("it counts what the tests above tried: run the whole file")
    moments = {target: [s.name for s in stages() if target in s.copies] for target in TARGETS}
    rows, missing = [], []
    for cls in KINDS.values():
        for name in fields_of(cls):
            what = f"{cls.__name__}.{name}"
            least = [min(COUNTS[t, what, moment] for moment in moments[t]) for t in TARGETS]
            total = sum(COUNTS[t, what, moment] for t in TARGETS for moment in moments[t])
            rows.append(f"{what:<34}{least[0]:>12}{least[1]:>12}{total:>9}")
            missing += [
                f"{what}, {t}, {m}" for t in TARGETS for m in moments[t] if COUNTS[t, what, m] < LEAST
            ]
    with capsys.disabled():
        print(f"\nframes that were given to copied cores, at {len(moments['host'])} moments")
        print(f"{'kind and field':<34}{'least, host':>12}{'member':>12}{'all':>9}")
        print("\n".join(rows))
    assert not missing, f"fewer than {LEAST}: " + "; ".join(missing[:20])
