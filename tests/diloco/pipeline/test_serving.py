"""A stage between its thread and its member: what is computed is what one process computes, bit for bit, and
what does not fit is refused, told, and not counted."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch

from diloco.errors import BoundaryError, PipelineError, TrainingDiverged
from diloco.pipeline.boundary_codecs import BoundaryCodec
from diloco.pipeline.evaluating import Evaluated as Evaluation
from diloco.pipeline.evaluating import Validation
from diloco.pipeline.refusals import LEAST_IN_A_ROW
from diloco.pipeline.serving import Stage
from diloco.pipeline.tally import Tally
from peers.protocol.commands import Offer
from peers.protocol.events import RunFinished
from peers.protocol.stage_work import (
    Cause,
    ConfirmOpened,
    Counted,
    Drain,
    Drained,
    EvaluationEnded,
    Feed,
    ForwardBegan,
    ForwardDone,
    GivenUp,
    GradientArrived,
    How,
    InputArrived,
    MayStepEarly,
    MicrobatchEnded,
    MicrobatchId,
    MoveWanted,
    RefuseTensor,
    StageCommand,
    Stepped,
    StreamOpened,
    TellEnds,
)
from tests.diloco.pipeline.kit import TOKENS, WIDTH, Plain, batches, built, layers, loss_sum, same_bits
from tests.diloco.pipeline.serving_kit import FEEDER, PlayedLine

FINITE = torch.ones(TOKENS * WIDTH).numpy().tobytes()
NAN = torch.full((TOKENS * WIDTH,), torch.nan).numpy().tobytes()


@pytest.mark.parametrize(("kind", "window"), [("recompute", 64), ("keep", 2), ("split", 64)])
def test_stages_in_threads_train_as_one_process(kind: str, window: int) -> None:
    cuts, quota, steps = (1, 4), 3, 3
    given = batches(quota * steps, ragged=True)
    how = {"recompute": kind == "recompute", "split_backward": kind == "split"}
    with PlayedLine(cuts, quota, dropout=0.2, window=window, **how) as line:
        losses = line.run(given, steps)
        found = line.parameters()
        tally = line.stages[0].tally
    plain = Plain(built(layers(4, 0.2)), quota, cuts=cuts, seed=0, feeder=FEEDER)
    for at in range(steps):
        plain.step(given[at * quota : (at + 1) * quota])
    assert same_bits(found, plain.model.state_dict())
    assert losses == plain.losses
    assert (tally.counted, tally.lost) == (quota * steps, 0)


def test_what_is_evaluated_between_is_no_training_and_its_loss_is_that_of_the_whole_model() -> None:
    cuts, quota, held_out = (1, 4), 3, batches(2, ragged=True)
    given = batches(2 * quota, ragged=True)
    with PlayedLine(cuts, quota, dropout=0.2) as line:
        line.stages[0].validation = Validation(held_out)
        line.run(given, 2)
        found, first = line.parameters(), line.stages[0]
    plain = Plain(built(layers(4, 0.2)), quota, cuts=cuts, seed=0, feeder=FEEDER, first=len(held_out))
    before = deepcopy(plain.model).eval()
    for at in range(2):
        plain.step(given[at * quota : (at + 1) * quota])
    assert same_bits(found, plain.model.state_dict())
    assert first.tally.counted == 2 * quota
    with torch.no_grad():
        sums = [loss_sum(before(x), targets) for x, targets in held_out]
    ended = first.validation.last
    assert ended is not None
    assert (ended.microbatches, ended.given_up) == (2, 0)
    assert ended.loss == pytest.approx(float(sum(s for s, _ in sums)) / sum(n for _, n in sums), rel=1e-5)


def test_what_was_given_up_is_no_part_of_an_evaluation_and_the_next_one_comes_later() -> None:
    held_out = batches(3)
    validation = Validation(held_out, every=2)
    for number in range(3):
        assert validation.next(0, 99) is held_out[number]
        validation.fed(name(number))
    assert validation.next(0, 99) is None
    assert validation.ended(name(0), 6.0, 2) is None
    assert validation.ended(name(1), 0.0, 0) is None
    assert validation.ended(name(7), 9.0, 2) is None, "it is of no evaluation"
    ended = validation.ended(name(2), 2.0, 2)
    assert ended == Evaluation(0, 2.0, 2, 1)
    assert [validation.next(round_, 99) is not None for round_ in (0, 1, 2)] == [False, False, True]


def test_an_evaluation_of_which_nothing_came_has_no_loss_rather_than_the_last_ones() -> None:
    validation = Validation(batches(1), every=2)
    for number, (summed, tokens) in enumerate([(6.0, 2), (0.0, 0)]):
        assert validation.next(2 * number, 99) is not None
        validation.fed(name(number))
        ended = validation.ended(name(number), summed, tokens)
    assert ended == validation.last == Evaluation(2, None, 0, 1)


@pytest.mark.parametrize(("rounds", "evaluated"), [(9, [0, 8]), (11, [0, 10]), (12, [0, 10, 11]), (1, [0])])
def test_the_last_round_is_evaluated_too(rounds: int, evaluated: list[int]) -> None:
    """While it is under way: once it is over nobody is there."""
    validation, found = Validation(batches(1), every=10), []
    for round_ in range(rounds):
        for _ in range(2):  # it is asked often
            if validation.next(round_, rounds - 1) is not None:
                validation.fed(name(round_))
                validation.ended(name(round_), 1.0, 1)
                found.append(round_)
    assert found == evaluated


class Alone(PlayedLine):
    """The middle stage of three, or another, and a test in the place of its neighbours: of what goes up the
    gradients come back that are in ``answers``."""

    def __init__(self, *, quota: int = 2, number: int = 1, **more: Any) -> None:
        super().__init__((1, 2), quota, num_blocks=2, only=number, **more)
        self.stage: Stage = self.stages[0]
        self.member = self.members[0]
        self.answers: dict[int, list[object]] = {}
        self.when: dict[type, Callable[[], None]] = {}

    def take(self, number: int, command: StageCommand) -> bool:
        self.when.get(type(command), lambda: None)()
        if isinstance(command, ForwardDone):
            up = command.microbatch.number
            self.hear(*self.answers.get(up, [gradient(up)]))
        return True

    def hear(self, *events: object) -> None:
        for event in events:
            self.member.events.put(event)

    def said(self, kind: type) -> list[Any]:
        return [each for each in self.member.said if isinstance(each, kind)]

    def held(self) -> dict[str, torch.Tensor]:
        return {key: each.clone() for key, each in self.stage.part.model.state_dict().items()}


def activation(number: int, payload: bytes = FINITE) -> InputArrived:
    return InputArrived(name(number), payload, None)


def gradient(number: int, payload: bytes = FINITE) -> GradientArrived:
    return GradientArrived(name(number), payload, TOKENS)


def name(number: int) -> MicrobatchId:
    return MicrobatchId(FEEDER, 0, number)


def numbers(said: list[Any]) -> list[int]:
    return [each.microbatch.number for each in said]


def test_a_step_tells_the_member_what_it_does_in_order() -> None:
    with Alone() as line:
        line.hear(activation(1), activation(0))
        step = next(line.stage.run())
        kinds = [type(each) for each in line.member.said]
        assert (step.microbatches, step.tokens, step.loss) == (2, 2 * TOKENS, None)
        assert kinds == [ConfirmOpened, *[ForwardBegan, ForwardDone, Counted] * 2, Stepped]
        assert line.said(Stepped) == [Stepped((name(0), name(1)), 2 * TOKENS)]


def test_what_is_not_finite_is_refused_by_name_and_never_counted() -> None:
    with Alone() as line:
        line.answers = {2: [gradient(2, NAN)]}
        line.hear(activation(0, NAN), *map(activation, (1, 2, 3)))
        step = next(line.stage.run())
        refused = line.said(RefuseTensor)
        assert step.tokens == 2 * TOKENS
        assert numbers(refused) == [0, 2]
        assert all("not finite" in each.reason for each in refused)
        assert numbers(line.said(Counted)) == [1, 3]
        assert all(torch.isfinite(each).all() for each in line.stage.part.model.parameters())


HUGE = torch.full((TOKENS * WIDTH,), 3e38).numpy().tobytes()


@pytest.mark.parametrize("split_backward", [False, True])
@pytest.mark.parametrize("bad_at", [0, 1])
@pytest.mark.parametrize("by", ["value", "format"])
def test_of_a_refused_microbatch_no_gradient_is_in_the_step(
    bad_at: int, split_backward: bool, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(codec: BoundaryCodec, x: torch.Tensor, microbatch: MicrobatchId, stage: int) -> object:
        if by == "format" and microbatch.number == bad_at:
            raise BoundaryError("its largest value is beyond the format")
        return encoded(codec, x, microbatch, stage)

    encoded = BoundaryCodec.encode_gradient
    monkeypatch.setattr(BoundaryCodec, "encode_gradient", encode)
    how = {"recompute": not split_backward, "split_backward": split_backward}
    found = []
    for refused in ([bad_at], []):
        with Alone(**how) as line:
            line.answers = {number: [gradient(number, HUGE)] for number in refused if by == "value"}
            line.hear(*(activation(each) for each in range(3) if each != bad_at or refused))
            assert next(line.stage.run()).tokens == 2 * TOKENS
            assert numbers(line.said(RefuseTensor)) == refused
            assert numbers(line.said(Counted)) == [each for each in range(3) if each != bad_at]
            assert line.stage.part.num_held == 0
            found.append(line.held())
    assert same_bits(*found)


def test_a_step_of_no_tokens_moves_nothing() -> None:
    with Alone() as line:
        before = line.held()
        line.answers = {number: [GradientArrived(name(number), FINITE, 0)] for number in range(2)}
        line.hear(activation(0), activation(1), activation(2), activation(3))
        run = line.stage.run()
        step = next(run)
        assert (step.microbatches, step.tokens) == (2, 0)
        assert same_bits(before, line.held())
        assert next(run).tokens == 2 * TOKENS, "and the next one is as ever"
        assert not same_bits(before, line.held())


@pytest.mark.parametrize("count", [3, 4, 5])
def test_the_last_step_of_given_batches_takes_what_there_is(count: int) -> None:
    with Alone(number=0, quota=3) as line:
        run = line.stage.run(batches(count))
        assert [each.microbatches for each in run] == [3, count - 3][: 1 + (count > 3)]
        assert [each.microbatches for each in line.stage.run(batches(3))] == [3], "others may follow"


def test_an_output_that_is_not_finite_is_refused_and_its_place_is_free() -> None:
    with Alone(quota=1) as line:
        parameter = next(line.stage.part.model.parameters())
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.fill_(torch.inf)

        def mend() -> None:
            with torch.no_grad():
                parameter.copy_(kept)
            line.hear(activation(1))

        line.when[RefuseTensor] = mend
        line.hear(activation(0))
        assert next(line.stage.run()).microbatches == 1
        assert (numbers(line.said(RefuseTensor)), numbers(line.said(Counted))) == ([0], [1])


def test_a_model_that_is_not_finite_any_more_goes_back_to_the_outer_parameters() -> None:
    with Alone(quota=1) as line:
        run = line.stage.run()
        line.hear(activation(0))
        next(run)
        with torch.no_grad():
            next(line.stage.part.model.parameters()).fill_(torch.nan)
        line.hear(activation(1), activation(2))
        assert next(run).microbatches == 1, "it is not refused for ever"
        assert (numbers(line.said(RefuseTensor)), numbers(line.said(Counted))) == ([1], [0, 2])
        assert line.stage.outer.tokens_by_fate["non_finite"] == TOKENS, "and what was trained is told"


def test_a_part_that_makes_nothing_of_use_ends_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with Alone(quota=1) as line, torch.no_grad():
        for number in range(LEAST_IN_A_ROW):
            line.hear(activation(number))
        line.stage.part.model.register_forward_hook(lambda *_: torch.full((1, 1), torch.nan))
        with pytest.raises(
            TrainingDiverged, match=f"made nothing of use of {LEAST_IN_A_ROW} microbatches in"
        ):
            next(line.stage.run())
    said = [each for each in caplog.messages if "stage 1 refuses" in each]
    assert len(said) == 3, "the 1st, the 10th and the 100th are told"
    assert "a microbatch, which is given up: what stage 1 made of microbatch 0" in said[0]
    assert "100 microbatches so far, now one" in said[2]


def test_a_part_whose_backward_alone_makes_nothing_of_use_ends_too() -> None:
    with Alone(quota=1) as line:
        for number in range(LEAST_IN_A_ROW):
            line.hear(activation(number))
        line.stage.part.model.register_full_backward_hook(lambda _, below, __: (below[0] * torch.nan,))
        with pytest.raises(TrainingDiverged, match="the gradient of microbatch 99 that stage 1 made"):
            next(line.stage.run())


@pytest.mark.parametrize("of", ["inputs", "gradients"])
def test_no_neighbour_makes_a_part_leave(of: str, caplog: pytest.LogCaptureFixture) -> None:
    """Finite values of which no part makes anything finite."""
    wild = torch.full((TOKENS * WIDTH,), 3e38).numpy().tobytes()
    with Alone(quota=1) as line:
        for number in range(LEAST_IN_A_ROW):
            line.hear(activation(number, wild if of == "inputs" else FINITE))
            line.answers[number] = [gradient(number, wild)]
        line.hear(activation(LEAST_IN_A_ROW))
        assert next(line.stage.run()).microbatches == 1
        assert numbers(line.said(RefuseTensor)) == list(range(LEAST_IN_A_ROW))
        assert numbers(line.said(Counted)) == [LEAST_IN_A_ROW]
    assert [each for each in caplog.messages if "what its neighbours send is wild, and it stays" in each]


@pytest.mark.parametrize("wrong", ["input", "output"])
def test_an_evaluation_that_is_not_finite_is_told_and_is_no_reason_to_leave(
    wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    payload = NAN if wrong == "input" else torch.full((TOKENS * WIDTH,), 3e38).numpy().tobytes()
    with Alone(quota=1) as line:
        for number in range(LEAST_IN_A_ROW):
            line.hear(InputArrived(name(number), payload, None, evaluates=True))
        line.hear(activation(LEAST_IN_A_ROW))
        assert next(line.stage.run()).microbatches == 1
        assert len(line.said(RefuseTensor)) == LEAST_IN_A_ROW
    said = [each for each in caplog.messages if "stage 1 refuses" in each]
    assert len(said) == 3, "the 1st, the 10th and the 100th are told"


def test_what_is_given_up_leaves_its_place_to_another() -> None:
    with Alone() as line:
        line.answers = {1: [GivenUp(name(1)), activation(2)]}
        line.hear(activation(0), activation(1))
        assert next(line.stage.run()).microbatches == 2
        assert line.stage.part.num_held == 0
        assert numbers(line.said(Counted)) == [0, 2]


def test_others_who_wait_end_a_step_with_what_there_is_and_with_nothing() -> None:
    with Alone(quota=5) as line:
        before, run = line.held(), line.stage.run()
        line.hear(MayStepEarly(at_once=True))
        step = next(run)
        assert (step.microbatches, step.tokens) == (0, 0)
        assert same_bits(before, line.held()), "nothing moved it"
        line.hear(activation(0), MayStepEarly(at_once=True))
        assert next(run).microbatches == 1


def test_who_is_to_move_finishes_what_it_has_offers_it_and_ends() -> None:
    with Alone(quota=5) as line:
        line.when[Drain] = lambda: line.hear(Drained())
        line.answers = {1: [MoveWanted(2), gradient(1)]}
        line.hear(activation(0), activation(1))
        assert list(line.stage.run()) == []
        assert line.stage.moves_to == 2
        assert line.said(Stepped) == [Stepped((name(0), name(1)), 2 * TOKENS)]
        offered = [each.tokens for each in line.member.others if isinstance(each, Offer)]
        assert set(offered) == {2 * TOKENS}
        assert len(offered) > 1, "none was taken, and it asks again in its time"


def test_a_new_membership_drops_everything_and_a_void_one_goes_back_to_the_outer_parameters() -> None:
    with Alone(quota=1) as line:
        before, run = line.held(), line.stage.run()
        line.hear(activation(0))
        next(run)
        assert not same_bits(before, line.held())
        seen: list[bool] = []
        line.answers = {1: [StreamOpened(7, void=True), activation(5)]}
        line.when[ConfirmOpened] = lambda: seen.append(same_bits(before, line.held()))
        line.hear(activation(1))
        next(run)
        assert seen == [True]
        assert line.stage.part.num_held == 0
        assert line.said(ConfirmOpened)[-1] == ConfirmOpened(7)
        assert [each.microbatches for each in line.said(Stepped)] == [(name(0),), (name(5),)]


def test_stage_0_feeds_what_a_step_takes_and_tells_how_microbatches_ended() -> None:
    with Alone(number=0, quota=3) as line:
        line.hear(MicrobatchEnded(name(0), How.SETTLED, 0, Cause.NONE))
        line.hear(MicrobatchEnded(name(1), How.PARTIAL, 1, Cause.CUT))
        line.hear(MicrobatchEnded(name(2), How.LOST, 0, Cause.REFUSED))
        drawn = iter(batches(5))
        next(line.stage.run(drawn))
        fed = line.said(Feed)
        assert [each.number for each in fed] == [0, 1, 2], "and no more"
        assert len(list(drawn)) == 2
        assert len(fed[0].targets) == 4 * TOKENS
        tally = line.stage.tally
        assert (tally.settled, tally.partial, tally.lost, tally.fed) == (1, 1, 1, 3)
        assert tally.by_cause == {"cut": 1, "refused": 1}
        assert line.said(TellEnds) == [TellEnds(1, (0, 1, 0), 1)], "for the run's status"


def test_a_microbatch_goes_forward_before_the_next_one_is_fed() -> None:
    with Alone(number=0, quota=3) as line:
        next(line.stage.run(iter(batches(5))))
        order = [type(each) for each in line.member.said if isinstance(each, Feed | ForwardDone)]
        assert order == [Feed, ForwardDone] * 3, "the stages above wait for the first"


def test_partial_ones_are_told_by_the_stage_below_which_they_were_given_up() -> None:
    tally = Tally()
    for number, stage in enumerate((2, 1, 2)):
        tally.ended(MicrobatchEnded(name(number), How.PARTIAL, stage, Cause.CUT))
    assert tally.told(4) == TellEnds(0, (0, 1, 2, 0), 0)


def test_what_is_given_up_because_the_run_is_over_is_neither_lost_nor_partial() -> None:
    with Alone(number=0, quota=3) as line:
        line.hear(MicrobatchEnded(name(0), How.SETTLED, 0, Cause.NONE), RunFinished(4))
        line.hear(MicrobatchEnded(name(1), How.LOST, 0, Cause.NO_REPLICA))
        assert list(line.stage.run(batches(5))) == []
        assert (line.stage.tally.settled, line.stage.tally.fed) == (1, 1)


def test_who_stops_finishes_what_is_in_flight_before_it_leaves() -> None:
    with Alone() as line:
        line.answers = {0: []}
        line.when[ForwardDone] = line.stage.outer.stop
        line.when[Drain] = lambda: line.hear(gradient(0), Drained())
        line.hear(activation(0))
        assert list(line.stage.run()) == []
        assert [type(each) for each in line.member.said][-4:] == [ForwardDone, Drain, Counted, Stepped]
        assert line.stage.part.num_held == 0


def test_batches_belong_to_stage_0_alone() -> None:
    with Alone() as line, pytest.raises(PipelineError, match="stage 1: run takes no batches: stage 0 is fed"):
        next(line.stage.run(batches(1)))
    with Alone(number=0) as line, pytest.raises(PipelineError, match="stage 0: run needs its batches"):
        next(line.stage.run())


def test_what_ended_while_the_outer_loop_waited_is_told_even_if_that_wait_is_the_runs_end() -> None:
    with Alone(number=0, quota=3) as line:
        line.stage.validation = Validation(batches(1))
        assert line.stage.validation.next(0, 9) is not None
        line.stage.validation.fed(name(1))
        for event in (
            MicrobatchEnded(name(0), How.SETTLED, 0, Cause.NONE),
            EvaluationEnded(name(1), 6.0, 2),
        ):
            assert line.stage.hear_in_hook(event)
        line.hear(RunFinished(4))
        line.stage.outer.driver.rest()
        assert list(line.stage.run(batches(5))) == []
        assert line.stage.tally.settled == 1
        assert line.stage.validation.last is not None
