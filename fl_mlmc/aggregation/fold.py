"""What a fold is: it takes a round's updates one at a time and gives their mean. The folds: mean, trimmed, private."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..compression.blocks import DenseBlock, Payload
from ..submodels.plan import IndexPlan
from .groups import GroupSum

LARGEST = torch.finfo(torch.float32).max
"""The largest number that a model can hold."""


class NotFiniteError(ArithmeticError):
    """The model after a round would not be finite, and no client can be named: the round changes nothing."""


@dataclass(frozen=True)
class Mean:
    """The result of a round: `update` float32 (size,), zero where nobody held the coordinate; `coverage` int32."""

    update: Tensor
    coverage: Tensor
    """How many clients held each coordinate."""


class Fold(ABC):
    """The updates of one round over a model of `size` coordinates, added one at a time.

    A coordinate's mean is taken over the clients that hold it, and some folds let a client speak of a part only of what
    it holds. `largest`: a client's update is refused if a coordinate of it is larger; by default, if it is not finite
    as float32. Nothing that was taken can make the mean infinite. A fold that `is_sum` adds by groups (`Groups`): say
    where one ends; a group's sum may come from a fold elsewhere, in its place among the others.
    """

    takes_parts: ClassVar[bool] = False
    """Whether an update may count in some of its coordinates only: `labels` and `only`."""
    is_sum: ClassVar[bool] = False
    """Whether a group's updates come to one sum, so that `group_sum`, `merge` and `count` are there."""

    def __init__(self, size: int, largest: float = LARGEST) -> None:
        self._size, self._largest = size, largest

    def add(
        self,
        plan: IndexPlan,
        payload: Payload,
        weight: float,
        labels: Collection[int] | None = None,
        only: Tensor | None = None,
    ) -> None:
        """Fold in one client's update over its own submodel, with a weight above zero.

        `labels`: the classes among the client's examples. Classifier rows of other classes are then left out of its
        update, as if it did not hold them (HeteroFL, arXiv 2010.01264, section 3). `only`: the numbers, among the
        submodel's coordinates, of those that the update speaks of, likewise; int64, ascending. ValueError if the update
        cannot be taken; then nothing of it was.
        """
        self.take(plan, self.checked(plan, payload, weight, labels, only), weight, labels, only)

    def checked(
        self,
        plan: IndexPlan,
        payload: Payload,
        weight: float,
        labels: Collection[int] | None = None,
        only: Tensor | None = None,
    ) -> Payload:
        """The same update, ready to be added: no sum of its blocks leaves float32's range. ValueError as in `add`."""
        if payload.size != plan.size:
            raise ValueError(f"the update has {payload.size} coordinates, its plan {plan.size}")
        if not 0 < weight < float("inf"):
            raise ValueError(f"a weight is positive, got {weight}" if not weight > 0 else "a weight is finite, got inf")
        if not self.takes_parts and not (labels is None and only is None):
            raise ValueError("parts of updates are for aggregation 'mean'")
        return _bounded(payload, self._largest)

    def end_group(self) -> None:  # noqa: B027
        """The last client of a group was added; nothing to do where the order of clients does not matter."""

    def group_sum(self) -> GroupSum:
        """The sum of the group under way, for the `merge` of another fold; in this one it is forgotten."""
        raise NotImplementedError(f"{type(self).__name__} needs every single update")

    def merge(self, group: GroupSum) -> None:
        """Add a whole group; `count` its clients beside. RuntimeError while another group is under way."""
        raise NotImplementedError(f"{type(self).__name__} needs every single update")

    def count(
        self, plan: IndexPlan, weight: float, labels: Collection[int] | None = None, only: Tensor | None = None
    ) -> None:
        """Count a client whose update is in a merged sum; arguments as in `add`."""
        raise NotImplementedError(f"{type(self).__name__} needs every single update")

    def result(self) -> Mean:
        """The mean of what was added so far; NotFiniteError if it is not finite."""
        mean = self._mean()
        if not is_finite(mean.update):
            raise NotFiniteError(
                f"the round's mean is not finite in {int((~mean.update.isfinite()).sum())} of {self._size} coordinates "
                "although every client's update is: set max-update-norm, and max-examples"
            )
        return mean

    @abstractmethod
    def take(
        self, plan: IndexPlan, payload: Payload, weight: float, labels: Collection[int] | None, only: Tensor | None
    ) -> None:
        """Add a `checked` update; ValueError before anything of it was added."""

    @abstractmethod
    def _mean(self) -> Mean:
        """The mean of what was added so far."""


def is_finite(vector: Tensor) -> bool:
    """Whether all coordinates are numbers within the range of their dtype: one pass, no copy."""
    return vector.numel() == 0 or bool(torch.stack(torch.aminmax(vector)).isfinite().all())


def _bounded(payload: Payload, largest: float) -> Payload:
    """The payload in sparse and dense blocks, each worked out once; ValueError if a coordinate is above `largest`."""
    blocks = tuple(block.plain() for block in payload.blocks)
    if sum(_largest(block.values) for block in blocks) <= largest:
        return Payload(payload.size, blocks)
    exact = torch.zeros(payload.size, dtype=torch.float64)
    payload.add_to(exact)
    if not (found := _largest(exact)) <= largest:
        raise ValueError(f"a coordinate of the update is {found:.3g}; the largest that can be added is {largest:.3g}")
    return Payload(payload.size, (DenseBlock(exact.float()),))


def _largest(values: Tensor) -> float:
    """The largest absolute value, 0 if there are none; NaN if one is."""
    if values.numel() == 0:
        return 0.0
    least, most = map(float, torch.aminmax(values))
    return max(-least, most)
