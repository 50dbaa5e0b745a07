"""What the logs of some runs say beside their curves: tiers, clients, levels, coverage, drops, privacy, settings.

Texts in logs are of others' making, devices among them: they come out of here as `printable` text, and whoever shows
them escapes them for its own medium.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.filesize import decimal

from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.run.log import RUN, read_run
from fl_mlmc.run.protocol import printable

from ..showing import Shown
from .compare import Comparison, differing
from .curves import Curve, read_config

LONGEST_REASON, MOST_REASONS = 160, 30
CLIENT_FIGURES: Mapping[str, str] = {
    "uplink": "uplink bytes",
    "rounds": "rounds taken part in",
    "loss": "training loss, last time",
    "own": "{metric} on own data, last time",
    "dropped": "dropped replies",
}


@dataclass(frozen=True, eq=False)
class Facts:
    """The logs behind a comparison."""

    comparison: Comparison

    @cached_property
    def clients(self) -> pd.DataFrame:
        """All client rows, with the columns `method` and `run`."""
        return pd.concat([self._clients(curve) for curve in self.comparison.curves], ignore_index=True)

    def _clients(self, curve: Curve) -> pd.DataFrame:
        frame = read_clients(curve.directory)
        is_ok = frame["status"] == "ok"
        tiers = frame["tier"].map(lambda tier: printable(str(tier), LONGEST_REASON))
        return frame.assign(method=curve.label, run=str(curve.directory), is_ok=is_ok, tier=tiers)

    @property
    def own_column(self) -> str:
        """The column with the metric on a client's own data; "" if there is none."""
        name = f"held_out_{self.comparison.metric}"
        return name if name in self.clients and self.clients[name].notna().any() else ""

    def tiers(self) -> Shown:
        """A row for each method and tier, over all its runs: bytes, loss, accuracy, participation, drops."""
        clients, own = self.clients, self.own_column
        rows = []
        for (method, width, tier), group in clients.groupby(["method", "width", "tier"], sort=False):
            runs, good = group["run"].nunique(), group[group["is_ok"]]
            late = good[good["round"] > 0.9 * clients["round"].max()]
            row = [
                str(method),
                f"{tier} ({width:g})",
                f"{len(group) / runs:.0f}",
                decimal(round(group["payload_bytes"].sum() / runs)),
                decimal(round(good["payload_bytes"].mean())) if len(good) else "–",
                decimal(round(group["downlink_bytes"].fillna(0).sum() / runs)),
                _number(late["train_loss"].mean()),
                f"{len(group) - len(good)}",
            ]
            rows.append(row + ([_number(late[own].mean())] if own else []))
        columns = ["method", "tier (width)", "updates asked", "uplink", "an update", "downlink", "late loss", "dropped"]
        return Shown("By tier, a run's mean", columns + ([f"own {self.comparison.metric}"] if own else []), rows)

    def client_figures(self) -> pd.DataFrame:
        """A row for each method and client, the mean over its runs: the columns of `CLIENT_FIGURES`, and `tier`."""
        by = ["method", "run", "client"]
        good = self.clients[self.clients["is_ok"]]
        figures = {
            "uplink": self.clients.groupby(by, sort=False)["payload_bytes"].sum(),
            "rounds": good.groupby(by, sort=False).size(),
            "loss": good.groupby(by, sort=False)["train_loss"].last(),
            "dropped": (~self.clients["is_ok"]).groupby([self.clients[key] for key in by], sort=False).sum(),
        }
        if self.own_column:
            figures["own"] = good.groupby(by, sort=False)[self.own_column].last()
        table = pd.DataFrame(figures)
        table["rounds"] = table["rounds"].fillna(0)
        table["tier"] = self.clients.groupby(by, sort=False)["tier"].last()
        means = table.drop(columns="tier").astype(float).groupby(["method", "client"], sort=False).mean()
        means["tier"] = table.groupby(["method", "client"], sort=False)["tier"].last()
        return means.reset_index()

    def levels(self) -> pd.DataFrame:
        """Of each method's drawn levels: `share` of all draws, and the mean `probability` that they had."""
        drawn = self.clients[self.clients["level"].notna()][["method", "level", "probability"]]
        if drawn.empty:
            return pd.DataFrame(columns=["method", "level", "share", "probability"])
        flat = drawn.explode(["level", "probability"]) if _has_lists(drawn) else drawn
        flat = flat.astype({"level": int, "probability": float})
        found = flat.groupby(["method", "level"], sort=False)["probability"].agg(["size", "mean"]).reset_index()
        total = found.groupby("method")["size"].transform("sum")
        return pd.DataFrame(
            {
                "method": found["method"],
                "level": found["level"],
                "share": found["size"] / total,
                "probability": found["mean"],
            }
        ).sort_values(["method", "level"])

    def coverage(self, directory: Path) -> pd.DataFrame:
        """Mean clients a coordinate in each round, tensors by rounds; empty where the log has none."""
        return coverage_of(directory)

    def drops(self) -> Shown:
        """Dropped replies by method and reason, the most frequent first."""
        lost = self.clients[~self.clients["is_ok"]]
        reasons = lost["status"].map(lambda status: printable(str(status).removeprefix("dropped: "), LONGEST_REASON))
        counts = Counter(zip(lost["method"], reasons, strict=True))
        rows = [[f"{count}", method, reason] for (method, reason), count in counts.most_common(MOST_REASONS)]
        more = len(counts) - len(rows)
        return Shown(
            f"Dropped replies: {len(lost):,} of {len(self.clients):,}" + (f"; {more} more reasons" if more > 0 else ""),
            ["replies", "method", "reason"],
            rows,
        )

    def privacy(self) -> Shown:
        """The ε that each private run has spent; no rows if none is private."""
        rows = []
        for curve in self.comparison.curves:
            rounds = read_rounds(curve.directory)
            if "epsilon" in rounds and len(spent := rounds["epsilon"].dropna()):
                delta = read_config(curve.directory).get("dp-delta", "?")
                rows.append([curve.label, str(curve.seed), f"{spent.iloc[-1]:.3f}", str(delta)])
        return Shown("Privacy", ["method", "seed", "ε", "δ"], rows)

    def differences(self) -> Shown:
        """The config keys in which methods differ; a column a method."""
        first = {label: read_config(self.comparison.runs_of(label)[0].directory) for label in self.comparison.methods}
        keys = differing(list(first.values()))
        rows = [[key, *(_value(config.get(key)) for config in first.values())] for key in keys]
        return Shown("What differs", ["key", *first], rows)

    def settings(self) -> Shown:
        """The config keys that all methods share."""
        first = [read_config(self.comparison.runs_of(label)[0].directory) for label in self.comparison.methods]
        apart = {"seed", "runs-dir", "run-name", "resume", *differing(first)}
        return Shown(
            "Settings of all runs",
            ["key", "value"],
            [[key, _value(value)] for key, value in first[0].items() if key not in apart],
        )

    def runs(self) -> Shown:
        """Each run: seed, how it stands, when it began, size, folder."""
        rows = []
        for curve in self.comparison.curves:
            header = read_run(curve.directory) if (curve.directory / RUN).is_file() else {}
            size = header.get("num_parameters")
            rows.append(
                [
                    curve.label,
                    str(curve.seed),
                    printable(str(header.get("status", "?")), LONGEST_REASON),
                    str(header.get("started", "?")),
                    f"{size:,}" if isinstance(size, int) else "?",
                    str(curve.directory),
                ]
            )
        return Shown("Runs", ["method", "seed", "status", "started", "parameters", "folder"], rows)

    def versions(self) -> Shown:
        """Of Python and the libraries that decide a run's numbers; all that runs had, where they differ."""
        found: dict[str, dict[str, None]] = {}
        for curve in self.comparison.curves:
            header: dict[str, Any] = read_run(curve.directory) if (curve.directory / RUN).is_file() else {}
            told = {**header.get("versions", {}), "code of fl_mlmc and clients": header.get("code_stamp", "?")}
            for name, version in told.items():
                found.setdefault(str(name), {})[str(version)] = None
        return Shown("Versions", ["of", "version"], [[name, ", ".join(versions)] for name, versions in found.items()])


def coverage_of(directory: Path) -> pd.DataFrame:
    """Mean clients a coordinate in each round, tensors by rounds; empty where the log has none."""
    rounds = read_rounds(directory).set_index("round")
    if "coverage_by_tensor" not in rounds:
        return pd.DataFrame()
    told = rounds["coverage_by_tensor"].dropna()
    means = told.map(lambda tensors: {name: mean for name, (_, mean) in tensors.items()})
    return pd.DataFrame(list(means), index=told.index).T


def _has_lists(drawn: pd.DataFrame) -> bool:
    return bool(drawn["level"].map(lambda level: isinstance(level, list)).any())


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"


def _value(value: object) -> str:
    return "–" if value is None else str(value)


def first_runs(comparison: Comparison) -> Sequence[Curve]:
    """The first run of each method."""
    return [comparison.runs_of(label)[0] for label in comparison.methods]
