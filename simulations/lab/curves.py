"""What a run came to, along what it cost: rounds, bytes up, bytes both ways, simulated and wall-clock seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_mlmc.frames import read_rounds
from fl_mlmc.run.log import RUN, read_run
from fl_mlmc.strategies.rows import judged_by

FloatArray = NDArray[np.float64]

AXES: Mapping[str, str] = {
    "rounds": "rounds",
    "uplink": "uplink bytes",
    "bytes": "bytes both ways",
    "simulated": "simulated seconds",
    "wall": "wall-clock seconds",
}
"""What a run costs, and what each cost is called."""
LOWER_IS_BETTER = ("loss", "mae", "rmse", "perplexity")


def is_better_high(metric: str) -> bool:
    """Whether a larger value of `metric` is a better model; losses and errors are better low."""
    return metric.removeprefix("clients_").removesuffix("_worst") not in LOWER_IS_BETTER


@dataclass(frozen=True, eq=False)
class Curve:
    """A run's metric wherever it was evaluated, and what the run had cost by then."""

    directory: Path
    label: str
    seed: int
    metric: str
    values: FloatArray
    """Of the metric, shape (evaluations,)."""
    costs: Mapping[str, FloatArray]
    """For each of `AXES`, shape (evaluations,), ascending."""
    totals: Mapping[str, float]
    """What the whole run cost, evaluated or not."""

    @classmethod
    def read(cls, directory: Path, label: str = "", metric: str = "") -> "Curve":
        """The curve of the run in `directory`; ValueError if it has no column `metric`.

        The metric unless given is the one by which a run is judged: accuracy, where there is one.
        """
        rounds = read_rounds(directory)
        metric = metric or judged_by([str(name) for name in rounds.columns if rounds[name].notna().any()])
        if metric not in rounds:
            known = [str(name) for name in rounds.columns if rounds[name].dtype.kind == "f"]
            raise ValueError(f"{directory} has no column {metric!r} in its rounds: {', '.join(known)}")
        uplink = rounds["uplink_bytes"].fillna(0).cumsum()
        every = {
            "rounds": rounds["round"],
            "uplink": uplink,
            "bytes": uplink + rounds["downlink_bytes"].fillna(0).cumsum(),
            "simulated": rounds["simulated_seconds"].fillna(0).cumsum(),
            "wall": rounds["seconds"].fillna(0).cumsum(),
        }
        told = pd.to_numeric(rounds[metric], errors="coerce").notna()
        return cls(
            directory,
            label or directory.name,
            seed_of(read_config(directory)),
            metric,
            rounds.loc[told, metric].to_numpy(float),
            {axis: cost[told].to_numpy(float) for axis, cost in every.items()},
            {axis: float(cost.iloc[-1]) if len(cost) else 0.0 for axis, cost in every.items()},
        )

    def at(self, axis: str, budget: float) -> float:
        """The metric of the last evaluation that cost no more than `budget`; NaN if there was none."""
        place = int(np.searchsorted(self.costs[axis], budget * (1 + 1e-12), side="right"))
        return float(self.values[place - 1]) if place else float("nan")

    def cost_of(self, axis: str, target: float) -> float:
        """What it cost until an evaluation was as good as `target`; NaN if none was."""
        good = self.values >= target if is_better_high(self.metric) else self.values <= target
        return float(self.costs[axis][int(np.argmax(good))]) if good.any() else float("nan")

    @property
    def final(self) -> float:
        """The last value; NaN if the run was never evaluated."""
        return float(self.values[-1]) if len(self.values) else float("nan")

    @property
    def best(self) -> float:
        """The best value; NaN if the run was never evaluated."""
        if not len(self.values):
            return float("nan")
        return float(self.values.max() if is_better_high(self.metric) else self.values.min())


def read_config(directory: Path) -> dict[str, Any]:
    """The run-config keys in run.json; none where the run is an app's that has no such config."""
    if not (directory / RUN).is_file():
        return {}
    config = read_run(directory).get("config")
    return config if isinstance(config, dict) else {}


def seed_of(config: Mapping[str, Any]) -> int:
    """The seed of a run's config, 0 where it has none."""
    seed = config.get("seed", 0)
    return seed if isinstance(seed, int) else 0


@dataclass(frozen=True, eq=False)
class Band:
    """The mean of a method's runs at every round that all of them evaluated, and how far they scatter."""

    mean: FloatArray
    """Of the metric, shape (rounds,)."""
    deviation: FloatArray
    """The sample's standard deviation over runs, shape (rounds,); 0 of a single run."""
    costs: Mapping[str, FloatArray]
    """For each of `AXES`, the mean over runs, shape (rounds,)."""
    count: int
    """Runs."""

    @classmethod
    def of(cls, curves: Sequence[Curve]) -> "Band":
        """Of some runs of one method; ValueError on none."""
        if not curves:
            raise ValueError("a band is of one run at least")
        common = sorted(set.intersection(*(set(curve.costs["rounds"].tolist()) for curve in curves)))
        places = [np.searchsorted(curve.costs["rounds"], common) for curve in curves]
        values = np.array([curve.values[place] for curve, place in zip(curves, places, strict=True)])
        costs = {
            axis: np.mean([curve.costs[axis][place] for curve, place in zip(curves, places, strict=True)], axis=0)
            for axis in AXES
        }
        deviation = np.std(values, axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(common))
        return cls(values.mean(axis=0), deviation, costs, len(curves))
