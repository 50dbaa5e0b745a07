"""When a run has seen enough, and which of its models was best.

    early-stop = "reached('accuracy', 0.95)"
    early-stop = "patience('loss', evaluations=10)"
    keep-best = "accuracy"

Both look at the evaluations in the log alone. So a run that goes on after a checkpoint decides as it would have.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from ..registry import build

Better = Callable[[str], bool]
"""Whether a larger value of a metric is a better model."""


class Stop(Protocol):
    """A rule that ends a run before its last round."""

    @property
    def metric(self) -> str:
        """The column of rounds.jsonl that it looks at."""
        ...

    def reason(self, values: Sequence[float], is_better_high: bool) -> str:
        """Why a run whose evaluations so far are `values` is to stop; "" if it is to go on."""
        ...


@dataclass(frozen=True)
class Reached:
    """Stop once `metric` is as good as `value`."""

    metric: str
    value: float

    def reason(self, values: Sequence[float], is_better_high: bool) -> str:
        """See `Stop`."""
        if not values or math.isnan(values[-1]):
            return ""
        is_good = values[-1] >= self.value if is_better_high else values[-1] <= self.value
        return f"{self.metric} {values[-1]:.4g} is as good as {self.value:g}" if is_good else ""


@dataclass(frozen=True)
class Patience:
    """Stop once `metric` was not better than its best, by more than `least`, in `evaluations` evaluations."""

    metric: str
    evaluations: int = 10
    least: float = 0.0

    def __post_init__(self) -> None:
        if self.evaluations < 1 or not self.least >= 0:
            raise ValueError(
                f"patience takes evaluations of 1 or more and least of 0 or more, got {self.evaluations}, {self.least}"
            )

    def reason(self, values: Sequence[float], is_better_high: bool) -> str:
        """See `Stop`."""
        best, place = -math.inf, -1
        for number, value in enumerate(values):
            gain = value if is_better_high else -value
            if gain > best + (self.least if place >= 0 else 0.0):
                best, place = gain, number
        if len(values) - 1 - place < self.evaluations:
            return ""
        return f"{self.metric} was not better in {self.evaluations} evaluations"


RULES: Mapping[str, Callable[..., Stop]] = {"reached": Reached, "patience": Patience}


def parse_stop(text: str) -> Stop | None:
    """The rule that `text` says; None of an empty one; ValueError that lists the known ones."""
    return _parsed(text) if text else None


@lru_cache(maxsize=16)
def _parsed(text: str) -> Stop:
    rule = build(text, RULES, "early-stop")
    if not isinstance(rule.metric, str):
        raise ValueError(f"the metric of early-stop is a text such as 'accuracy', got {rule.metric!r}")
    return rule


def is_new_best(values: Sequence[float], is_better_high: bool) -> bool:
    """Whether the last of `values` is better than all before it; NaN never is.

    >>> is_new_best([0.1, 0.3, 0.3], True), is_new_best([0.5, 0.4], False)
    (False, True)
    """
    if not values or math.isnan(values[-1]):
        return False
    before = [value for value in values[:-1] if not math.isnan(value)]
    return not before or (values[-1] > max(before) if is_better_high else values[-1] < min(before))
