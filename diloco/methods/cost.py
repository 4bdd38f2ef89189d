"""What a method sends: bytes by formula, for a model of a given size. Needs no torch.

Owns the arithmetic of the direct exchange; that of a wire format is in its row of `wire_formats`. Tests hold
both equal to what the codecs and a simulated run send. Headers, acknowledgements and control messages are
left out: below 1 % from a few MB on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from diloco.methods.factors import values_kept, values_sent
from diloco.methods.outer_optimizers import OUTER_OPTIMIZERS
from diloco.methods.schedule import Schedule
from diloco.methods.spec import Method
from diloco.methods.wire_formats import WIRE_FORMATS
from transport.limits import LIMITS

WAYS_OF_A_ROUND = 6
"""Ways between peers, one after the other, that a round takes beside its bytes: ready, open, a part, a mean,
done, committed."""
_WAYS_OF_A_SWAP = 2
"""The same without a coordinator: a part, a mean."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one worker sends, in bytes; it receives as much."""

    per_exchange: float
    """In one exchange of one fragment."""
    exchanges: int
    """One after the other, in one outer step of one fragment."""
    ways: int
    """Ways between peers, one after the other, of one outer step beside its bytes."""
    per_step: float
    """Per inner step, on average."""

    @property
    def per_outer_step(self) -> float:
        """In one outer step of one fragment: what has to fit between two of them."""
        return self.exchanges * self.per_exchange


def cost_of(method: Method, num_parameters: float, num_workers: int) -> Cost:
    """The cost of a run's every exchange with all members; with gossip, the mean over its groups."""
    exchanges = method.exchanges_per_step
    groups = gossip_groups(method, num_workers) if method.gossips else [[0] * num_workers]
    sizes = [size for group_of in groups for size in Counter(group_of).values()]
    sent = sum(size * exchange_bytes(method, num_parameters, size) for size in sizes)
    per_exchange = sent / (len(groups) * num_workers)
    # Moments move less often than parameters.
    per_step = sum(exchanges * per_exchange / period for period in Schedule.of(method).periods)
    ways = exchanges * (_WAYS_OF_A_SWAP if method.gossips else WAYS_OF_A_ROUND)
    return Cost(per_exchange, exchanges, ways, per_step)


def exchange_bytes(method: Method, num_parameters: float, num_workers: int) -> float:
    """What each sends in one exchange of one fragment among so many: to the owners of the other shards its
    part of them, and the mean of its own shard to everyone."""
    sent = elements_sent(method, num_parameters)
    if method.quorum == 1:
        # Nobody exchanges with it: the others fetch the result.
        per_round = (num_workers - 1) * sent * mean_bytes(method, 1)
    else:
        # Gossip sends parameters beside the pseudo-gradient.
        each = element_bytes(method.codec, method) + mean_bytes(method, num_workers)
        per_round = (num_workers - 1) / num_workers * (2 if method.gossips else 1) * sent * each
    return per_round / method.num_fragments


def gossip_groups(method: Method, num_workers: int) -> list[list[int]]:
    """For each outer step of a cycle, by a worker's position the number of its group: random pairs, of which
    one may be alone, or the lines along each axis of a grid, shorter where it is not full."""
    positions = range(num_workers)
    if method.group == "pair":
        return [[position // 2 for position in positions]]
    side, strides = method.group_size, [1]
    while side * strides[-1] < num_workers:
        strides.append(side * strides[-1])
    return [
        [position // (stride * side) * stride + position % stride for position in positions]
        for stride in strides
    ]


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


def wire_element_bytes(method: Method) -> float:
    """Bytes per value of a long contribution or of a mean, whichever is more, however many members there are:
    how many elements a chunk has follows from it, for all peers alike."""
    return max(element_bytes(method.codec, method), mean_bytes(method, LIMITS.members))


def state_vectors(method: Method) -> int:
    """Vectors of a fragment's length in its shared state: the outer parameters, and what the outer optimizer
    keeps."""
    shared_feedback = method.error_feedback in ("ef21", "econtrol")
    return 1 + shared_feedback + OUTER_OPTIMIZERS[method.outer].num_buffers


def basis_values(method: Method, num_parameters: float) -> float:
    """Values of the shared bases of low-rank factors, which are in the shared state too; and, where ranks
    share a budget, of the sum of updates by which they do."""
    if method.projection != "low_rank":
        return 0.0
    sums = num_parameters if method.adapt == "lgreco" else 0.0
    return _of_decoder(values_kept, num_parameters, method) + sums


def _of_decoder(count: Callable[..., int], num_parameters: float, method: Method) -> float:
    """What ``count`` finds for a decoder with so many parameters: layers of width 64 times their number, with
    matrices of 12 w^2 (four w x w, two w x 4 w)."""
    width = max(1, round(64 * math.cbrt(num_parameters / (12 * 64**2))))
    shapes = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]
    return count(shapes, method.rank, method.rank_share) / (12 * width**2) * num_parameters
