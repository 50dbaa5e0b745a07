"""Methods side by side: at equal rounds, bytes and time, and against a baseline, seed by seed.

A budget is what every run had: the largest cost that none stays below. A run's value there is that of its last
evaluation within the budget; nothing is interpolated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..app.provenance import WHEREABOUTS
from .curves import AXES, Curve, is_better_high, read_config

EQUAL = ("rounds", "uplink", "bytes", "simulated")
"""Costs at which methods are compared."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Some runs' values in short."""

    mean: float
    deviation: float
    """The sample's standard deviation, over n − 1; NaN of a single value."""
    count: int
    """Values that there are."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of the values that are numbers; NaN of none.

        >>> Spread.of([1.0, 3.0])
        Spread(mean=2.0, deviation=1.4142135623730951, count=2)
        """
        known = [value for value in values if not math.isnan(value)]
        if not known:
            return cls(math.nan, math.nan, 0)
        return cls(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else math.nan, len(known))


@dataclass(frozen=True)
class Difference:
    """A method's value less the baseline's, over the seeds that both have."""

    mean: float
    low: float
    high: float
    """The ends of its confidence interval, by Student's t of paired differences; NaN with fewer than two pairs."""
    count: int
    """Pairs."""

    @classmethod
    def of(cls, values: Mapping[int, float], others: Mapping[int, float]) -> "Difference":
        """`values` less `others`, both by seed.

        >>> Difference.of({0: 2.0, 1: 3.0, 2: 4.0}, {0: 1.0, 1: 2.0, 2: 3.0})
        Difference(mean=1.0, low=1.0, high=1.0, count=3)
        """
        pairs = [values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())]
        spread = Spread.of(pairs)
        if spread.count < 2:
            return cls(spread.mean, math.nan, math.nan, spread.count)
        from scipy.stats import t  # a second of imports

        reach = float(t.ppf((1 + CONFIDENCE) / 2, spread.count - 1)) * spread.deviation / math.sqrt(spread.count)
        return cls(spread.mean, spread.mean - reach, spread.mean + reach, spread.count)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Curves of several methods, each with one run a seed."""

    curves: tuple[Curve, ...]
    baseline: str = ""
    """The label that others are compared with; empty: there is none."""
    target: float = math.nan
    """The value whose cost is told."""

    @classmethod
    def of(cls, curves: Sequence[Curve], baseline: str = "", target: float | None = None) -> "Comparison":
        """Compare `curves`. The target unless given is the final mean of the worst method: all get about there.

        ValueError on an unknown baseline, on no curve, and on curves of several metrics.
        """
        if not curves:
            raise ValueError("there is no run to compare yet")
        if len(metrics := {curve.metric for curve in curves}) > 1:
            raise ValueError(f"runs are judged by several metrics, {', '.join(sorted(metrics))}: choose one of them")
        made = cls(tuple(curves), baseline)
        if baseline and baseline not in made.methods:
            raise ValueError(f"baseline {baseline!r} is no method here: {', '.join(made.methods)}")
        finals = [made.spread(label, Curve.final.fget).mean for label in made.methods]  # type: ignore[attr-defined]
        known = [value for value in finals if not math.isnan(value)] or [math.nan]
        worst = min(known) if is_better_high(made.metric) else max(known)
        return cls(tuple(curves), baseline, worst if target is None else target)

    @property
    def metric(self) -> str:
        """What runs are judged by."""
        return self.curves[0].metric

    @property
    def methods(self) -> list[str]:
        """The labels, in the order of the curves."""
        return list(dict.fromkeys(curve.label for curve in self.curves))

    def runs_of(self, label: str) -> list[Curve]:
        """The runs of a method, a seed each."""
        return [curve for curve in self.curves if curve.label == label]

    def budget(self, axis: str) -> float:
        """The cost that every run had: the least of their totals."""
        return min(curve.totals[axis] for curve in self.curves)

    def spread(self, label: str, value: Any) -> Spread:
        """Of `value(curve)` over a method's runs."""
        return Spread.of([value(curve) for curve in self.runs_of(label)])

    def at(self, label: str, axis: str) -> Spread:
        """Of the metric at the equal budget of `axis`."""
        return self.spread(label, lambda curve: curve.at(axis, self.budget(axis)))

    def to_target(self, label: str, axis: str) -> Spread:
        """Of the cost until the target, over the runs that got there."""
        return self.spread(label, lambda curve: curve.cost_of(axis, self.target))

    def difference(self, label: str, axis: str) -> Difference:
        """To the baseline, at the equal budget of `axis`."""
        own, others = (
            {curve.seed: curve.at(axis, self.budget(axis)) for curve in self.runs_of(one)}
            for one in (label, self.baseline)
        )
        return Difference.of(own, others)

    def to_json(self) -> dict[str, Any]:
        """All figures as plain values; what is not a number is None."""
        return {
            "metric": self.metric,
            "target": _plain(self.target),
            "baseline": self.baseline or None,
            "budgets": {axis: _plain(self.budget(axis)) for axis in EQUAL},
            "methods": [self._method(label) for label in self.methods],
        }

    def _method(self, label: str) -> dict[str, Any]:
        told: dict[str, Any] = {
            "label": label,
            "seeds": [curve.seed for curve in self.runs_of(label)],
            "runs": [str(curve.directory) for curve in self.runs_of(label)],
            "final": _fields(self.spread(label, lambda curve: curve.final)),
            "best": _fields(self.spread(label, lambda curve: curve.best)),
            "totals": {axis: _fields(self.spread(label, lambda curve, axis=axis: curve.totals[axis])) for axis in AXES},
            "equal": {axis: _fields(self.at(label, axis)) for axis in EQUAL},
            "to_target": {axis: _fields(self.to_target(label, axis)) for axis in AXES},
        }
        if self.baseline and label != self.baseline:
            told["difference"] = {axis: _fields(self.difference(label, axis)) for axis in EQUAL}
        return told


def labels_of(directories: Sequence[Path]) -> dict[Path, str]:
    """What each of some runs is called: by the config keys that differ among them, but for the seed.

    Runs that differ by nothing but their seed are one method. A run without a config goes by its folder's name.
    """
    configs = {directory: read_config(directory) for directory in directories}
    known = [config for config in configs.values() if config]
    keys = differing(known)
    labels = {}
    for directory, config in configs.items():
        if not config or len(known) < 2:
            labels[directory] = directory.name
        elif len(keys) == 1:
            labels[directory] = str(config.get(keys[0]))
        elif keys:
            labels[directory] = ", ".join(f"{key}={config.get(key)}" for key in keys)
        else:
            labels[directory] = known[0].get("compressor") or directory.name
    if len({(labels[one], str(configs[one].get("seed"))) for one in directories}) < len(directories):
        return {one: f"{labels[one]} ({one.name})" for one in directories}  # the same run twice: folders tell them
    return labels


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys in which configs differ, but for the seed, where things lie, and how they are computed."""
    left_out = {"seed", "durable", "checkpoint-every", *WHEREABOUTS}
    keys = dict.fromkeys(key for config in configs for key in config if key not in left_out)
    return [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]


def _fields(value: Spread | Difference) -> dict[str, Any]:
    return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
