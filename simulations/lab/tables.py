"""A comparison as tables: one question each."""

import math
from collections.abc import Callable, Mapping

from rich.filesize import decimal

from ..showing import Shown
from .compare import CONFIDENCE, EQUAL, Comparison, Difference, Spread
from .curves import AXES


def amount(axis: str, value: float) -> str:
    """A cost as people say it: "12.3 MB", "20", "1.5 min"; a dash where there is none."""
    return "–" if math.isnan(value) else _SAID[axis](value)


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> [duration(value) for value in (0.0021, 4.25, 75, 7200)]
    ['0.0021 s', '4.2 s', '1 min 15 s', '2 h 0 min']
    """
    if seconds < 1:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


_SAID: Mapping[str, Callable[[float], str]] = {
    "rounds": lambda value: f"{value:.0f}",
    "uplink": lambda value: decimal(round(value)),
    "bytes": lambda value: decimal(round(value)),
    "simulated": duration,
    "wall": duration,
}


def value_text(spread: Spread) -> str:
    """A metric's mean and deviation over seeds: "0.912 ± 0.004"; the value alone where there is one.

    >>> value_text(Spread(0.9123, 0.0041, 3))
    '0.9123 ± 0.0041'
    """
    if not spread.count:
        return "–"
    return f"{spread.mean:.4f}" if math.isnan(spread.deviation) else f"{spread.mean:.4f} ± {spread.deviation:.4f}"


def difference_text(difference: Difference) -> str:
    """A difference with its interval: "+0.012 [-0.003, +0.027]"."""
    if not difference.count:
        return "–"
    if math.isnan(difference.low):
        return f"{difference.mean:+.4f}"
    return f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


def cost_text(axis: str, spread: Spread, runs: int) -> str:
    """A cost's mean over the runs that got there, and how many did unless all."""
    if not spread.count:
        return "never"
    said = amount(axis, spread.mean)
    return said if spread.count == runs else f"{said} ({spread.count} of {runs})"


def tables(comparison: Comparison) -> list[Shown]:
    """At equal costs, against the baseline if there is one, and what the target costs."""
    methods, metric = comparison.methods, comparison.metric
    seeds = max(len(comparison.runs_of(label)) for label in methods)
    at = [f"{AXES[axis]}, {amount(axis, comparison.budget(axis))}" for axis in EQUAL]
    at[0] = f"{amount('rounds', comparison.budget('rounds'))} rounds"
    over = f", mean ± deviation over {seeds} seeds" if seeds > 1 else ""
    shown = [
        Shown(
            f"{metric} at equal cost{over}",
            ["method", *at],
            [[label, *(value_text(comparison.at(label, axis)) for axis in EQUAL)] for label in methods],
        )
    ]
    if comparison.baseline and len(methods) > 1:
        shown.append(
            Shown(
                f"{metric} less that of {comparison.baseline}, seed by seed, {CONFIDENCE:.0%} interval",
                ["method", *at],
                [
                    [label, *(difference_text(comparison.difference(label, axis)) for axis in EQUAL)]
                    for label in methods
                    if label != comparison.baseline
                ],
            )
        )
    shown.append(
        Shown(
            f"cost until {metric} {comparison.target:.4g}",
            ["method", *AXES.values()],
            [
                [
                    label,
                    *(
                        cost_text(axis, comparison.to_target(label, axis), len(comparison.runs_of(label)))
                        for axis in AXES
                    ),
                ]
                for label in methods
            ],
        )
    )
    return shown
