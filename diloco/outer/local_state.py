"""What is a worker's own beside the shared state: the live model, residuals, and how a result meets local
steps.

Owns pseudo-gradients, the merges (replace, mix, carry, eager), error feedback's residuals and the anchor from
which local progress is measured. Nothing here is sent as state; none of it must be equal on all machines.
Residuals move only when the contribution that they belong to is in a commit (S5, S7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diloco.compression.vectors import Scratch, count_non_finite, spans
from diloco.errors import StateError
from diloco.outer.model_tensors import ModelTensors
from diloco.outer.state import OuterState


@dataclass(slots=True)
class PendingContribution:
    """A contribution as its author remembers it."""

    delta: Tensor
    """The pseudo-gradient [n], anchor - local."""
    residuals: list[Tensor]
    """Error feedback's own state once this contribution is in the model."""
    mean: Tensor | None = None
    """The committed pseudo-gradient [n], for eager landing."""
    share: float = 1.0
    """Share of the weights in its round."""

    def fields(self) -> dict[str, Any]:
        """Its fields by name."""
        return {"delta": self.delta, "residuals": self.residuals, "mean": self.mean, "share": self.share}


@dataclass(slots=True)
class _Twin:
    """Eager: this worker's own outer parameters and buffers, ahead of the shared ones by its own last
    contribution."""

    theta: Tensor
    buffers: list[Tensor]
    added: Tensor
    """What was added for a round whose mean had not come yet."""
    count: int = 0


@dataclass(slots=True)
class _Own:
    """One fragment."""

    residuals: list[Tensor]
    anchor: Tensor | None = None
    """Where local steps began, if that is not the present outer parameters."""
    twin: _Twin | None = None


class LocalState:
    """The live ``model`` over ``outer``, of the same layout. One thread, the trainer's, calls it."""

    def __init__(self, outer: OuterState, model: ModelTensors) -> None:
        self.outer, self.model = outer, model
        self._merge, self._alpha = outer.method.merge, outer.method.alpha
        self._own = [_Own(self._no_residuals(f)) for f in range(outer.num_fragments)]

    def pseudo_gradient(self, fragment: int) -> Tensor:
        """anchor - local, a new fp32 vector [n] on the CPU; the anchor is where local steps began, as a rule
        the outer parameters."""
        return self.measured_gradient(fragment)[0]

    def measured_gradient(self, fragment: int) -> tuple[Tensor, float]:
        """The same, and its squared norm, which is not finite if and only if one of its values is not."""
        delta = self._empty(fragment)
        return delta, self.model.subtract_from(self._anchor(fragment), fragment, delta)

    def feedback_input(self, fragment: int, delta: Tensor) -> Tensor:
        """What is to be compressed [n]: the pseudo-gradient with what was dropped before."""
        feedback = self.outer.components(fragment).feedback
        return feedback.input(delta, self._own[fragment].residuals, self.model.device.empty)

    def offer(self, fragment: int, delta: Tensor, sent: Tensor | None) -> PendingContribution:
        """Remember a contribution; ``sent`` [n] is what its encoded form stands for, None without error
        feedback."""
        residuals, feedback = self._own[fragment].residuals, self.outer.components(fragment).feedback
        if sent is not None:
            residuals = feedback.committed(delta, residuals, sent, self.model.device.empty)
        return PendingContribution(delta, residuals)

    def keep_anchor(self, fragment: int) -> None:
        """The outer parameters are about to move, and the live model is to follow later."""
        own, theta = self._own[fragment], self.outer.outer_parameters(fragment)
        if own.anchor is None:  # where no step is written in place, a view stays as it is
            own.anchor = theta if self.outer.keeps_former else self.model.device.copy(theta)

    def committed(self, fragment: int, pending: PendingContribution) -> None:
        """A contribution is in the model: what it dropped is kept for the next."""
        self._own[fragment].residuals = pending.residuals

    def go_on(self, fragment: int) -> None:
        """At an offer that no result lands with: the live model goes on from where it is, and what is offered
        next is measured from there, so that nothing counts twice. The first result to land takes its
        place."""
        self._own[fragment].anchor = self.model.gather(fragment, self._empty(fragment))

    def land(self, fragment: int, ours: PendingContribution | None) -> None:
        """Merge the outer parameters into the live model in time, by the method's merge."""
        match self._merge:
            case "replace":
                self._write(fragment, self.outer.outer_parameters(fragment))
            case "mix":
                self._mix(fragment)
            case "carry":
                self.carry(fragment, ours)
            case "eager":
                raise AssertionError("eager lands with an offer at hand: `land_eagerly`")

    def carry(self, fragment: int, ours: PendingContribution | None) -> None:
        """Outer parameters, with what was learned since ``ours`` was taken (without one, since local steps
        began) on top: delayed averaging, local' = outer' + (local - snapshot), the merge of LOSCAR-SGD (arXiv
        2605.20866). Without inner steps since, that progress is exactly zero."""
        if self.outer.averages_values(fragment):
            self._write(fragment, self.outer.outer_parameters(fragment))  # progress on top may be negative
            return
        # (anchor - snapshot) - (anchor - local), unless the anchor is where the model went on from ``ours``
        progress, theta = self.pseudo_gradient(fragment), self.outer.outer_parameters(fragment)
        keeps = ours is not None and not self.outer.method.offers_before_landing
        for span in spans(progress):
            part = progress[span].neg_()
            if ours is not None and keeps:
                part.add_(ours.delta[span])
            part.add_(theta[span])
        self._write(fragment, progress)

    def land_eagerly(
        self, fragment: int, fresh: PendingContribution, landed: PendingContribution | None
    ) -> None:
        """Take an outer step of this worker's own, with its fresh pseudo-gradient in the place of the stale
        one:

            delta~ = mean^(t-1) + share * (fresh^(t) - own^(t-1))

        Eager updates (arXiv 2502.12996), section 3. Before the first mean has come its own contribution
        stands for it. The shared outer parameters follow the means alone, one round later, the same for
        all."""
        own, optimizers = self._own[fragment], self.outer.components(fragment).optimizers
        twin = own.twin or self._new_twin(fragment)
        share = 1.0 if landed is None else landed.share
        added = torch.mul(fresh.delta, share, out=self._empty(fragment))
        delta = torch.sub(added, twin.added, out=self._empty(fragment))
        if landed is not None:
            assert landed.mean is not None, "it was committed"
            delta += landed.mean
        optimizer = optimizers.at(twin.count)
        optimizer.step(twin.theta, twin.buffers, delta, twin.count, twin.theta, twin.buffers)
        twin.added, twin.count = added, twin.count + 1
        self.model.scatter(fragment, twin.theta)
        own.twin, own.anchor = twin, twin.theta  # read before the next step writes it

    def go_back(self, fragment: int, ours: PendingContribution) -> None:
        """Local parameters become what they were when ``ours``, which is under way, was taken."""
        local = torch.sub(self._anchor(fragment), ours.delta, out=self._empty(fragment))
        self.model.scatter(fragment, local)

    def discard(self, fragment: int) -> None:
        """Local parameters become the outer ones."""
        own = self._own[fragment]
        own.anchor = own.twin = None
        self.model.scatter(fragment, self.outer.outer_parameters(fragment))

    def loaded(self, fragment: int) -> None:
        """Another state was loaded: begin from it, with nothing left of what was dropped."""
        self._own[fragment].residuals = self._no_residuals(fragment)
        self.discard(fragment)

    def state_dict(self) -> dict[str, Tensor]:
        """Error feedback's residuals [n] fp32, and the outer steps at which they are such; nothing without
        error feedback. The tensors are not changed later."""
        state: dict[str, Tensor] = {}
        for fragment, own in enumerate(self._own):
            if own.residuals:
                state[f"{fragment}.count"] = torch.tensor(self.outer.count(fragment))
            state |= {f"{fragment}.residual.{i}": each for i, each in enumerate(own.residuals)}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take residuals up that `state_dict` gave, if no contribution of this worker was committed since.
        Raises `StateError`, before anything changes, for those of another model, method or later state."""
        for name, present in (wanted := self.state_dict()).items():
            found = state.get(name)
            if found is None or found.shape != present.shape or found.dtype != present.dtype:
                raise StateError(f"{name} is missing or of another shape: of another model or method?")
            if name.endswith("count"):
                if not 0 <= int(found) <= int(present):
                    raise StateError(f"they are of outer step {int(found)}, and the run is at {int(present)}")
            elif count_non_finite(found):
                raise StateError(f"{name} has values that are not finite")
        if len(state) != len(wanted):
            raise StateError("there are more tensors than this method has")
        for fragment, own in enumerate(self._own):
            own.residuals = [state[f"{fragment}.residual.{i}"].clone() for i in range(len(own.residuals))]

    def forget_residuals(self, fragment: int) -> bool:
        """What was dropped before is sent by now. Whether there was any."""
        had = any(bool(each.any()) for each in self._own[fragment].residuals)
        self._own[fragment].residuals = self._no_residuals(fragment)
        return had

    def fragment_state(self, fragment: int) -> dict[str, Any]:
        """All that is this worker's own of a fragment beside its live parameters, for `load_fragment_state`.
        The tensors are the ones that are used."""
        own = self._own[fragment]
        twin = own.twin and {
            "theta": own.twin.theta,
            "buffers": list(own.twin.buffers),
            "added": own.twin.added,
            "count": own.twin.count,
        }
        return {"residuals": list(own.residuals), "anchor": own.anchor, "twin": twin}

    def load_fragment_state(self, fragment: int, state: dict[str, Any]) -> None:
        """Take that up, at the same outer parameters. Raises `StateError`, before anything changes, for that
        of another model or method."""
        residuals, anchor, twin = state["residuals"], state["anchor"], state["twin"]
        vectors = [*residuals, *([] if anchor is None else [anchor])]
        if twin is not None:
            vectors += [twin["theta"], *twin["buffers"], twin["added"]]
        own, n = self._own[fragment], self.outer.num_elements(fragment)
        if len(residuals) != len(own.residuals) or any(each.shape != (n,) for each in vectors):
            raise StateError(f"fragment {fragment} has other vectors of its own")
        own.residuals, own.anchor = list(residuals), anchor
        own.twin = twin and _Twin(twin["theta"], list(twin["buffers"]), twin["added"], twin["count"])

    # -- inside -------------------------------------------------------------------------------

    def _mix(self, fragment: int) -> None:
        # Streaming DiLoCo (arXiv 2501.18512), algorithm 2: alpha is the local share.
        local = self.model.gather(fragment, self._empty(fragment))
        theta, scratch = self.outer.outer_parameters(fragment), Scratch(torch.float32)
        for span in spans(local):
            shared = scratch.of(span.stop - span.start, theta.device)
            local[span].mul_(self._alpha).add_(torch.mul(theta[span], 1.0 - self._alpha, out=shared))
        self._write(fragment, local)

    def _write(self, fragment: int, values: Tensor) -> None:
        own = self._own[fragment]
        last_step = self.outer.count(fragment) - 1
        support = self.outer.components(fragment).projection.support(last_step)
        if support is not None:
            # What the round did not touch stays as it is locally.
            local = self.model.gather(fragment, self._empty(fragment))
            local[support] = values[support]
            values = local
        self.model.scatter(fragment, values)
        own.anchor = own.twin = None

    def _anchor(self, fragment: int) -> Tensor:
        anchor = self._own[fragment].anchor
        return self.outer.outer_parameters(fragment) if anchor is None else anchor

    def _new_twin(self, fragment: int) -> _Twin:
        theta = self.model.device.copy(self.outer.outer_parameters(fragment))
        buffers = [self.model.device.copy(each) for each in self.outer.buffers(fragment)]
        return _Twin(theta, buffers, torch.zeros_like(theta), self.outer.count(fragment))

    def _no_residuals(self, fragment: int) -> list[Tensor]:
        count = self.outer.components(fragment).feedback.num_vectors
        return [torch.zeros(self.outer.num_elements(fragment)) for _ in range(count)]

    def _empty(self, fragment: int) -> Tensor:
        return self.model.device.empty(self.outer.num_elements(fragment))
