"""What says how good a model is, beside its loss: accuracy, F1, AUC, errors of numbers, perplexity.

A metric sees outputs and targets batch by batch and tells its value in the end. Metrics of torchmetrics keep the same
contract, so an objective of one's own may name them; these few need torch alone, which is all that a device has.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Metric(Protocol):
    """Made anew for every evaluation."""

    @property
    def higher_is_better(self) -> bool | None:
        """Whether a larger value is a better model."""
        ...

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take a batch into account."""
        ...

    def compute(self) -> Tensor | float:
        """The value over all batches; NaN where it has none."""
        ...


class Mean:
    """The mean of something that can be added up over examples: `of` (outputs, targets) gives a sum and a count.

    >>> halves = Mean(lambda outputs, targets: (float(outputs.sum()), len(outputs)), higher_is_better=True)
    >>> halves.update(torch.tensor([0.0, 1.0]), torch.empty(2))
    >>> halves.compute()
    0.5
    """

    def __init__(
        self,
        of: Callable[[Tensor, Tensor], tuple[float, float]],
        higher_is_better: bool,
        finish: Callable[[float], float] = float,
    ) -> None:
        self.higher_is_better = higher_is_better
        self._of, self._finish = of, finish
        self._sum = self._count = 0.0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add the batch's sum and count."""
        added, count = self._of(outputs, targets)
        self._sum, self._count = self._sum + added, self._count + count

    def compute(self) -> float:
        """What `finish` makes of the mean; NaN of nothing."""
        return self._finish(self._sum / self._count) if self._count else math.nan


class F1:
    """The harmonic mean of precision and recall, of each class by itself, then their plain mean (macro).

    `chosen` makes a bool (n, classes) of outputs, and of targets. A class that is neither there nor predicted is left
    out, as in scikit-learn's `f1_score(average="macro")`.
    """

    higher_is_better = True

    def __init__(self, chosen: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self._chosen = chosen
        self._right = self._said = self._there = torch.zeros(1, dtype=torch.int64)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count what is right, predicted and there, by class."""
        said, there = (part.cpu() for part in self._chosen(outputs, targets))
        self._right = self._right + (said & there).sum(0)
        self._said, self._there = self._said + said.sum(0), self._there + there.sum(0)

    def compute(self) -> float:
        """The mean over classes; NaN of nothing."""
        seen = self._said + self._there
        return float((2 * self._right[seen > 0] / seen[seen > 0]).mean()) if (seen > 0).any() else math.nan


class AUC:
    """The chance that a row of a class is scored above one that is not of it: the area under the ROC curve.

    Of each class by itself, then the plain mean over those that have rows of both kinds. Ties count half (Mann and
    Whitney 1947). `scored` makes scores (n, classes) and bool (n, classes) of outputs and targets.
    """

    higher_is_better = True

    def __init__(self, scored: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self._scored = scored
        self._seen: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Keep the batch's scores: ranks need them all."""
        scores, there = self._scored(outputs, targets)
        self._seen.append((scores.detach().cpu(), there.cpu()))

    def compute(self) -> float:
        """The mean over classes; NaN where no class has rows of both kinds."""
        if not self._seen:
            return math.nan
        scores, there = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        areas = [_area(scores[:, one], there[:, one]) for one in range(scores.shape[1])]
        known = [area for area in areas if not math.isnan(area)]
        return sum(known) / len(known) if known else math.nan


def _area(scores: Tensor, there: Tensor) -> float:
    num_there = int(there.sum())
    num_others = len(there) - num_there
    if not num_there or not num_others:
        return math.nan
    _, place, count = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = count.cumsum(0).double() - (count - 1).double() / 2  # of equal scores, the mean of their ranks
    return float(ranks[place[there]].sum() - num_there * (num_there + 1) / 2) / (num_there * num_others)
