"""Batches without end, from batches that have one: an epoch follows the other.

Owns when the next epoch begins. Refuses what cannot begin anew, as a worker that runs out of data would leave
the run without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from diloco.errors import RecipeError

T = TypeVar("T")


class Epochs(Generic[T]):
    """The ``batches`` again and again. The first iterator is made at once: a data loader draws a seed
    then."""

    def __init__(self, batches: Iterable[T]) -> None:
        self.epoch = 0
        """How many were gone through by this process."""
        self._batches = batches
        self._drawn = iter(batches)
        self._is_empty = True

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """The next batch. Raises `RecipeError` if there is none, and no epoch after this one."""
        for _ in range(2):
            for batch in self._drawn:
                self._is_empty = False
                return batch
            self._begin_next()
        raise RecipeError("the recipe's batches are empty: nothing can be trained")

    def _begin_next(self) -> None:
        again = iter(self._batches)
        if again is self._drawn and not self._is_empty:
            raise RecipeError(
                f"the recipe's batches ended with epoch {self.epoch + 1}, and a {type(again).__name__} cannot"
                " begin anew: let Job.batches be a DataLoader, a list, or an object whose __iter__ begins an"
                " epoch"
            )
        self.epoch += 1
        self._is_empty = True
        for place in (self._batches, getattr(self._batches, "sampler", None)):
            if callable(set_epoch := getattr(place, "set_epoch", None)):
                set_epoch(self.epoch)  # a DistributedSampler shuffles by it
        self._drawn = iter(self._batches)
