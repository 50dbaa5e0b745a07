"""Runs as one picture for a paper or a README: PNG, PDF or SVG by the file's ending.

It is as wide as a page's text, with no font under 8 pt, in colours that colour-blind people tell apart.
"""

import math
from pathlib import Path

import pandas as pd

from fl_mlmc.run.config import ConfigError

from ..drawing import Axes, EngFormatter, Figure, FigureBase, LogLocator, MaxNLocator, NullFormatter, mpl
from .compare import Comparison
from .curves import Band
from .facts import coverage_of
from .looks import style

FORMATS = (".png", ".pdf", ".svg")
WIDTH, PANEL, MOST = 7.1, 2.5, 3.4
"""Inches: of a page's text, of the row of curves, and the most of a coverage map."""
SMALL, USUAL = 8, 9
"""Points."""
LINES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
PANELS = {"rounds": "round", "uplink": "uplink", "bytes": "uplink and downlink"}
TICK = SMALL / 72 * 1.25
"""Inches that a row needs for a label of its own."""


def draw(comparison: Comparison, target: Path) -> Path:
    """Draw the metric against rounds, uplink and bytes both ways: a line a method, its band ± deviation over seeds.

    A single run also gets a map of its coverage, tensors by rounds. ConfigError on an ending that is no format.
    """
    if target.suffix.lower() not in FORMATS:
        raise ConfigError(f"a picture's file ends in {', '.join(FORMATS)}, got {target.name!r}")
    with mpl.rc_context({"font.size": USUAL, "axes.grid": True, "grid.alpha": 0.3, "svg.fonttype": "none"}):
        alone = len(comparison.curves) == 1
        coverage = coverage_of(comparison.curves[0].directory) if alone else pd.DataFrame()
        below = min(MOST, 0.9 + TICK * len(coverage)) if len(coverage) else 0.0
        figure = Figure(figsize=(WIDTH, PANEL + 0.22 * _legend_rows(comparison) + below), layout="constrained")
        top: FigureBase = figure
        if below:
            grid = figure.add_gridspec(2, 1, height_ratios=[figure.get_figheight() - below, below])
            top = figure.add_subfigure(grid[0])
            _draw_coverage(figure.add_subfigure(grid[1]), coverage, below)
        _draw_curves(top, comparison)
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=200)
    return target


def _draw_curves(figure: FigureBase, comparison: Comparison) -> None:
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for number, label in enumerate(comparison.methods):
        band = Band.of(comparison.runs_of(label))
        colour, dash = style(number)
        for axes, axis in zip(panels, PANELS, strict=True):
            cost = band.costs[axis]
            axes.plot(cost, band.mean, label=label, color=colour, linestyle=LINES[dash], linewidth=1.6)
            if band.count > 1:
                low, high = band.mean - band.deviation, band.mean + band.deviation
                axes.fill_between(cost, low, high, color=colour, alpha=0.18, linewidth=0)
    for axes, (axis, name) in zip(panels, PANELS.items(), strict=True):
        axes.set_xlabel(name)
        axes.tick_params(labelsize=SMALL)
        if axis == "rounds":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        else:
            _log_bytes(axes)
    panels[0].set_ylabel(f"test {comparison.metric}")
    handles, labels = panels[0].get_legend_handles_labels()
    if any(len(label) for label in labels):
        columns = _legend_columns(comparison)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=SMALL, frameon=False)


def _log_bytes(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    # A few labels whatever the span: a short run is less than a decade long.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.2 else (1,), numticks=4))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter("B", sep=" "))


def _legend_columns(comparison: Comparison) -> int:
    """As many as fit the width: a letter of the small font is about 0.075 inches wide, a line's sample 0.5."""
    longest = max(len(label) for label in comparison.methods)
    return max(1, min(len(comparison.methods), int(WIDTH / (0.5 + 0.075 * longest))))


def _legend_rows(comparison: Comparison) -> int:
    return math.ceil(len(comparison.methods) / _legend_columns(comparison))


def _draw_coverage(figure: FigureBase, coverage: pd.DataFrame, height: float) -> None:
    axes = figure.subplots()
    rounds = coverage.columns.to_numpy()
    image = axes.imshow(
        coverage.to_numpy(float),
        aspect="auto",
        cmap="viridis",
        vmin=0,
        interpolation="nearest",
        extent=(rounds[0] - 0.5, rounds[-1] + 0.5, len(coverage), 0),
    )
    axes.grid(False)
    every = math.ceil(TICK * len(coverage) / (height - 0.9 + 1e-9))
    axes.set_yticks(
        [row + 0.5 for row in range(0, len(coverage), every)], list(coverage.index)[::every], fontsize=SMALL
    )
    axes.tick_params(labelsize=SMALL)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round")
    axes.set_title("clients that hold a coordinate, on average", fontsize=USUAL)
    figure.colorbar(image, ax=axes).ax.tick_params(labelsize=SMALL)
