"""The picture of docs/index.md: an update cut into levels, one level drawn, and the mean over many clients.

    python benchmarks/picture_levels.py [--out docs/levels.png]

All that is drawn is computed: levels and chances by `MLMC(TopK(count=3))`, and the means from real payloads, encoded
and decoded.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl_mlmc import MLMC, TopK, decode
from fl_mlmc.compression.probabilities import adaptive_probabilities

TARGET = Path(__file__).parents[1] / "docs" / "levels.png"
UPDATE = (2.1, -0.3, 0.8, -3.4, 0.2, 1.2, -0.6, 0.15, -1.7, 0.4, 2.7, -0.9)
"""Twelve numbers that a client has changed, large and small ones."""
COMPRESSOR = MLMC(TopK(count=3))
CLIENTS = (4, 32, 1000)
"""Over how many draws the means go."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe and Ito: told apart by all eyes


@dataclass(frozen=True)
class Levels:
    """An update of size d on a ladder of L levels."""

    update: np.ndarray
    """Shape (d,)."""
    increments: np.ndarray
    """Shape (L, d); they sum to the update."""
    chances: np.ndarray
    """Shape (L,), each increment's, in proportion to its norm."""

    @property
    def sent(self) -> np.ndarray:
        """Shape (L, d): what the receiver makes of each level, its increment over its chance."""
        return self.increments / self.chances[:, None]


def levels_of(update: torch.Tensor) -> Levels:
    """The levels of an update, and the chance that each is drawn with."""
    rungs = COMPRESSOR.ladder.climb(update)
    increments = [rungs.increment(level).dense().numpy() for level in range(1, rungs.num_levels + 1)]
    return Levels(update.numpy(), np.stack(increments), adaptive_probabilities(rungs.norms()))


def mean_of(update: torch.Tensor, num_clients: int, rng: np.random.Generator) -> np.ndarray:
    """The mean of what a server decodes of so many clients that send this update, shape (d,)."""
    received = (decode(COMPRESSOR.encode(update, rng), update.numel()) for _ in range(num_clients))
    return np.mean([estimate.numpy() for estimate in received], axis=0)


def draw(target: Path) -> None:
    """Write the picture."""
    update = torch.tensor(UPDATE)
    levels = levels_of(update)
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=[1, 1, 1])
    _draw_update(left.subplots(), levels)
    left.suptitle("1  A client's update,\nlargest numbers first: four levels", fontsize=10)
    for level, axes in enumerate(middle.subplots(len(levels.chances), 1, sharex=True, sharey=True)):
        _draw_level(axes, levels, level)
    middle.suptitle("2  One level is drawn and sent,\ndivided by its chance", fontsize=10)
    rng = np.random.default_rng(0)
    for axes, num_clients in zip(right.subplots(len(CLIENTS), 1, sharex=True, sharey=True), CLIENTS, strict=True):
        _draw_mean(axes, levels, mean_of(update, num_clients, rng), num_clients)
    right.legend(*axes.get_legend_handles_labels(), fontsize=8, ncols=2, loc="outside lower center")
    right.suptitle("3  The mean over clients\ncomes close to the update", fontsize=10)
    figure.savefig(target, dpi=150)


def _draw_update(axes: Axes, levels: Levels) -> None:
    places = np.arange(len(levels.update))
    for number, (increment, colour) in enumerate(zip(levels.increments, COLOURS, strict=True), start=1):
        own = increment != 0
        axes.bar(places[own], increment[own], color=colour, label=f"level {number}")
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.legend(fontsize=8, loc="lower right")
    axes.set(xticks=[], xlabel="12 numbers")


def _draw_level(axes: Axes, levels: Levels, level: int) -> None:
    places = np.arange(len(levels.update))
    own = levels.increments[level] != 0
    axes.bar(places[own], levels.sent[level][own], color="white", edgecolor=COLOURS[level], linewidth=1.2)
    axes.bar(places[own], levels.increments[level][own], color=COLOURS[level])
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set(
        xticks=[], yticks=[], ylabel=f"level {level + 1}\n{levels.chances[level]:.0%}", xlim=(-0.8, len(places) - 0.2)
    )


def _draw_mean(axes: Axes, levels: Levels, mean: np.ndarray, num_clients: int) -> None:
    places = np.arange(len(levels.update))
    axes.bar(places, mean, color="0.75", label="mean of what was sent")
    axes.plot(places, levels.update, "_", color="black", markersize=12, markeredgewidth=1.6, label="the update")
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set(xticks=[], yticks=[], ylabel=f"{num_clients:,} clients")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TARGET)
    target = parser.parse_args().out
    draw(target)
    print(target)


if __name__ == "__main__":
    main()
