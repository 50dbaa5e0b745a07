"""The figures of arXiv 2507.05508 in shape, with tuned rivals: accuracy against bits and against steps.

    python benchmarks/paper.py DIR/fashion_mnist --csv docs/results/paper.csv [--minutes 7] [--figures docs/results]

Every method gets the same grid of step sizes at seed 0; the one with the best final accuracy then runs at two more
seeds. A row of the CSV is one evaluation of one run, bits are the bytes of the payloads. Runs that the CSV holds are
skipped, so a command that `--minutes` or a signal ended goes on where it stood. Needs no GPU and one core.
"""

import argparse
import shutil
import tempfile
import time
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

from fl_mlmc.frames import read_rounds
from simulations.launch import RunFailed, execute, load_config

SCENARIOS = Path(__file__).parents[1] / "simulations" / "scenarios" / "paper"
SEEDS = (0, 1, 2)
GRIDS = {"sgd": (0.01, 0.03, 0.1, 0.3), "adamw": (3e-4, 1e-3, 3e-3, 1e-2)}
PLAIN = "SGD"


@dataclass(frozen=True)
class Method:
    """A line of a figure."""

    figure: str
    label: str
    compressor: str
    scheme: str = "direct"
    server: str = "sgd"


def sparse(percent: float) -> list[Method]:
    """Algorithm 3 over Top-k and its rivals, all with as many entries a message."""
    figure, options = f"sparse {percent:g} %", f"fraction={percent / 100:g}"
    return [
        Method(figure, "MLMC-TopK", f"MLMC(TopK({options}))"),
        Method(figure, "TopK", f"TopK({options})"),
        Method(figure, "EF21-SGDM", f"TopK({options})", "ef21_sgdm"),
        Method(figure, "RandK", f"RandK({options})"),
    ]


METHODS = [
    Method("all", PLAIN, "Identity()"),
    *sparse(1),
    Method("bit planes", "MLMC-FixedPoint", "MLMC(FixedPoint(), 'fixed')"),
    Method("bit planes", "FixedPoint 2 bit", "FixedPoint(bits=1)"),  # a sign and one bit
    Method("bit planes", "QSGD 2 bit", "QSGD(levels=1)"),
    Method("bit planes", "TernGrad", "TernGrad()"),
    Method("rounding", "MLMC-RTN", "MLMC(RTN(bits=8))"),
    Method("rounding", "RTN 2 bit", "RTN(bits=2)"),
    Method("rounding", "RTN 4 bit", "RTN(bits=4)"),
    Method("rounding", "stochastic 2 bit", "StochasticRounding(bits=2)"),
    Method("rounding", "stochastic 4 bit", "StochasticRounding(bits=4)"),
]
ADAMW = [replace(method, figure="AdamW", server="adamw(weight_decay=0.01)") for method in [METHODS[0], *sparse(5)]]
LINES = [
    *((clients, method) for clients in (4, 32) for method in METHODS),
    *((4, method) for method in sparse(5) + ADAMW),
]


@dataclass(frozen=True)
class Run:
    """One run: its line, and what sets it apart."""

    clients: int
    figure: str
    label: str
    compressor: str
    scheme: str
    server: str
    rate: float
    seed: int


KEY = list(Run.__dataclass_fields__)
LINE = ["clients", "figure", "label"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after so many")
    parser.add_argument("--figures", type=Path, help="folder for the pictures and the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * arguments.minutes
    for clients, method in LINES:
        while time.monotonic() < end and (run := _missing(clients, method, arguments.csv)):
            rows = _measure(run, arguments.data_dir)
            rows.to_csv(arguments.csv, mode="a", index=False, header=not arguments.csv.exists())
            print(f"{astuple(run)}: {rows['accuracy'].iloc[-1]:.4f}", flush=True)
    if any(_missing(clients, method, arguments.csv) for clients, method in LINES):
        print("runs are missing: the same command goes on")
    if arguments.figures:
        best = _chosen(pd.read_csv(arguments.csv))
        _table(best).to_csv(arguments.figures / "paper-table.csv", index=False)
        print(_table(best).to_string(index=False))
        for clients in (4, 32):
            _draw(best[best["clients"] == clients], arguments.figures / f"paper-m{clients}.png")


def _missing(clients: int, method: Method, csv: Path) -> Run | None:
    """The next run of a line that the CSV does not hold; None if it holds all."""
    done = pd.read_csv(csv) if csv.exists() else pd.DataFrame(columns=[*KEY, "accuracy"])
    have = {Run(*row) for row in done[KEY].drop_duplicates().itertuples(index=False)}
    grid = [Run(clients, **asdict(method), rate=rate, seed=SEEDS[0]) for rate in GRIDS[method.server.partition("(")[0]]]
    for run in grid:
        if run not in have:
            return run
    best = replace(grid[0], rate=_best_rate(done[(done[LINE] == [clients, method.figure, method.label]).all(axis=1)]))
    return next((run for seed in SEEDS if (run := replace(best, seed=seed)) not in have), None)


def _best_rate(line: pd.DataFrame) -> float:
    """The step size with the best final accuracy at the first seed."""
    final = line[line["seed"] == SEEDS[0]].groupby("rate")["accuracy"].last()
    return float(final.idxmax())


def _measure(run: Run, data_dir: Path) -> pd.DataFrame:
    """The evaluations of one run, a row each; accuracy 0 at the end of a run whose loss was not finite."""
    is_plain = run.server == "sgd"
    directory = Path(tempfile.mkdtemp(prefix="fl-mlmc-paper-"))
    config = load_config(
        SCENARIOS / f"m{run.clients}.toml",
        {
            "data_dir": data_dir,
            "compressor": run.compressor,
            "scheme": run.scheme,
            "learning_rate": run.rate if is_plain else 1.0,
            "server_optimizer": run.server,
            "server_learning_rate": 1.0 if is_plain else run.rate,
            "seed": run.seed,
            "runs_dir": directory,
        },
    )
    try:
        execute(config)
    except RunFailed as error:
        print(f"  ended early: {error.reason[:100]}")
    rounds = read_rounds(directory / config.run_name)
    shutil.rmtree(directory)
    rows = rounds.dropna(subset=["accuracy"])[["round", "cumulative_uplink_bytes", "loss", "accuracy"]]
    if len(rows) == 0 or rows["round"].iloc[-1] < config.num_rounds:
        sent = int(rounds["cumulative_uplink_bytes"].max()) if len(rounds) else 0
        rows.loc[len(rounds)] = [config.num_rounds, sent, float("nan"), 0.0]
    return pd.DataFrame([asdict(run)] * len(rows)).join(rows.reset_index(drop=True).round(4))


def _chosen(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of every line at its best step size."""
    return pd.concat([line[line["rate"] == _best_rate(line)] for _, line in runs.groupby(LINE, sort=False)])


def _table(best: pd.DataFrame) -> pd.DataFrame:
    """Final accuracy (mean, least, largest over seeds) and megabytes a client of every line."""
    final = best.groupby([*LINE, "rate", "seed"], sort=False).last().reset_index()
    final["MB a client"] = final["cumulative_uplink_bytes"] / final["clients"] / 1e6
    grouped = final.groupby([*LINE, "rate"], sort=False)
    table = grouped["accuracy"].agg(["mean", "min", "max"]).join(grouped["MB a client"].mean()).reset_index()
    return table.round(4)


def _draw(best: pd.DataFrame, path: Path) -> None:
    """Accuracy against steps (above) and megabits a client (below), a column a figure; bands span the seeds."""
    names = [name for name in best["figure"].unique() if name != "all"]
    figure = Figure(figsize=(3.4 * len(names), 6), layout="constrained")
    axes = figure.subplots(2, len(names), sharey=True, squeeze=False)
    for column, name in enumerate(names):
        shown = best[best["figure"].isin([name] if name == "AdamW" else ["all", name])]
        for number, (label, line) in enumerate(shown.groupby("label", sort=False)):
            for row, horizontal in enumerate(("round", "megabits")):
                grouped = line.assign(megabits=8e-6 * line["cumulative_uplink_bytes"] / line["clients"]).groupby(
                    "round"
                )
                means, color = grouped.mean(numeric_only=True), f"C{number}" if label != PLAIN else "0.4"
                where = means.index if horizontal == "round" else means["megabits"]
                axes[row, column].plot(where, means["accuracy"], color=color, label=label, linewidth=1.5)
                low, high = grouped["accuracy"].min(), grouped["accuracy"].max()
                axes[row, column].fill_between(where, low, high, color=color, alpha=0.2, linewidth=0)
        axes[0, column].set(title=name, xlabel="step")
        axes[1, column].set(xlabel="Mbit a client", xscale="log")
        axes[0, column].legend(fontsize=7, loc="lower right")
    for row in axes:
        row[0].set(ylabel="test accuracy", ylim=(0.1, 0.9))
    for each in axes.flat:
        each.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
