"""What people are told of the stages of a run whose model is cut: a line for each, and what to worry about.

Text of a status; decides nothing.
"""

from __future__ import annotations

from peers.coordinator.status import MemberStatus, RunStatus, StageStatus


def stage_lines(found: RunStatus) -> list[str]:
    """A line for each stage, and one for each that has a single replica; nothing where the model is whole."""
    if len(found.stages) < 2:
        return []
    lines = [_line_of(found, each) for each in found.stages]
    return lines + [warning for each in found.stages if (warning := single_replica(each))]


def loss_of(member: MemberStatus, found: RunStatus) -> str:
    """A member's loss; of a model that is cut the last stage knows it."""
    if member.stage < len(found.stages) - 1:
        return ""
    return f"{member.loss:.3f}" if member.loss_is_finite else "not finite"


def single_replica(stage: StageStatus) -> str:
    """What it means that a stage has one replica with its state; empty otherwise."""
    if stage.num_active != 1:
        return ""
    return (
        f"stage {stage.number} has one replica: if it dies the stage's state is lost, but for what is on its"
        " disk, and the run waits; let another one join"
    )


def _line_of(found: RunStatus, stage: StageStatus) -> str:
    here = [each for each in found.members if each.stage == stage.number]
    replicas = f"{stage.num_active} replica{'s' * (stage.num_active != 1)}"
    if stage.num_replicas > stage.num_active:
        replicas += f" (and {stage.num_replicas - stage.num_active} joining)"
    counted = sum(each.tokens_per_second for each in here)
    line = (
        f"stage {stage.number}: {replicas}, round {stage.num_rounds} of {found.max_rounds},"
        f" counts {counted:,.0f} tokens/s of {stage.speed:,.0f} that it could"
    )
    evaluated = [each.validation for each in here if each.validated]
    if evaluated:
        line += f", validation loss {sum(evaluated) / len(evaluated):.3f}"
    if stage.number == 0:
        line += f"; fed {stage.settled:,} settled and {stage.lost:,} lost microbatches"
    if stage.partial:
        line += f"; {stage.partial:,} given up below it"
    return f"{line}; waits: {stage.waits}" if stage.waits else line
