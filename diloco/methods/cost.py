"""What a method sends: bytes by formula, for a model of a given size. Needs no torch.

Owns the arithmetic of the direct exchange; that of a wire format is in its row of `wire_formats`. Tests hold
both equal to what the codecs and a simulated run send. Headers, acknowledgements and control messages are
left out: below 1 % from a few MB on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from diloco.methods.factors import values_kept, values_sent
from diloco.methods.outer_optimizers import OUTER_OPTIMIZERS
from diloco.methods.schedule import Schedule
from diloco.methods.spec import Method
from diloco.methods.wire_formats import WIRE_FORMATS


@dataclass(frozen=True, slots=True)
class Cost:
    """What one worker sends, in bytes; it receives as much."""

    per_exchange: float
    """In one exchange of one fragment, the mean of those of an outer step: so often per H inner steps as
    `Schedule.exchanges_per_step` says, one after the other."""
    per_step: float
    """Per inner step, on average."""


def cost_of(method: Method, num_parameters: float, num_workers: int) -> Cost:
    """The cost of a run's every exchange with all members. Each sends the owners of the other shards its part
    of them, and the mean of its own shard to everyone."""
    sent = elements_sent(method, num_parameters)
    if method.gossips:
        group = min(num_workers, 2 if method.group == "pair" else method.group_size)
        # Parameters travel beside the pseudo-gradient.
        per_round = (group - 1) / group * 2 * (2 * sent) * element_bytes(method.codec, method)
    elif method.quorum == 1:
        # Nobody exchanges with it: the others fetch the result.
        per_round = (num_workers - 1) * sent * mean_bytes(method, 1)
    else:
        members = max(1, num_workers)
        each = element_bytes(method.codec, method) + mean_bytes(method, members)
        per_round = (members - 1) / members * sent * each
    schedule = Schedule.of(method)
    per_step = sum(per_round / method.num_fragments / period for period in schedule.periods)
    per_step *= schedule.exchanges_per_step
    return Cost(per_round / method.num_fragments, per_step)


def data_parallel_bytes(num_parameters: float, num_workers: int) -> float:
    """What each worker sends per step if fp32 gradients are averaged in a ring: 2 (M - 1) / M * 4 N."""
    return 2 * (num_workers - 1) / num_workers * 4 * num_parameters


def elements_sent(method: Method, num_parameters: float) -> float:
    """Values of a contribution to one exchange of the whole model; of the exchanges of an outer step, the
    mean."""
    match method.projection:
        case "random_mask":
            return num_parameters / method.mask_one_in
        case "low_rank":
            sent = _of_decoder(values_sent, num_parameters, method)
            return sent / method.exchanges_per_step
        case _:
            return num_parameters + method.tells_inner_lr


def element_bytes(codec: str, method: Method) -> float:
    """Bytes per value of a long contribution."""
    return WIRE_FORMATS[codec].element_bytes(method.keep, method.value_bits)


def mean_bytes(method: Method, num_parts: int) -> float:
    """Bytes per value of the mean of so many parts."""
    if method.mean_codec != "same":
        return element_bytes(method.mean_codec, method)
    return WIRE_FORMATS[method.codec].mean_bytes(method.keep, method.value_bits, num_parts)


def state_vectors(method: Method) -> int:
    """Vectors of a fragment's length in its shared state: the outer parameters, and what the outer optimizer
    keeps."""
    shared_feedback = method.error_feedback in ("ef21", "econtrol")
    return 1 + shared_feedback + OUTER_OPTIMIZERS[method.outer].num_buffers


def basis_values(method: Method, num_parameters: float) -> float:
    """Values of the shared bases of low-rank factors, which are in the shared state too."""
    if method.projection != "low_rank":
        return 0.0
    return _of_decoder(values_kept, num_parameters, method)


def _of_decoder(count: Callable[..., int], num_parameters: float, method: Method) -> float:
    """What ``count`` finds for a decoder with so many parameters: layers of width 64 times their number, with
    matrices of 12 w^2 (four w x w, two w x 4 w)."""
    width = max(1, round(64 * math.cbrt(num_parameters / (12 * 64**2))))
    shapes = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]
    return count(shapes, method.rank, method.rank_share) / (12 * width**2) * num_parameters
