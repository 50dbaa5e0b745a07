"""What a run came to: a table of its key figures, and a picture of accuracy against rounds and against bytes."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.strategies.rows import judged_by

from .drawing import EngFormatter, Figure, FigureBase, LogLocator, MaxNLocator, NullFormatter, mpl

FLOAT_BYTES = 4


def summarise(directory: Path) -> Table:
    """Final accuracy, or another metric, uplink against uncompressed, bytes per tier and least coverage of one run."""
    clients, rounds = read_clients(directory), read_rounds(directory)
    table = Table(title=escape(f"{directory.name}: {len(rounds)} rounds"), show_header=False, title_justify="left")
    table.add_column(justify="left")
    table.add_column(justify="right")
    metric = _metric(rounds)
    scored = rounds.dropna(subset=[metric])
    if len(scored):
        table.add_row(f"final {metric}", f"{scored[metric].iloc[-1]:.4f}")
    if f"clients_{metric}" in rounds and len(told := rounds.dropna(subset=[f"clients_{metric}"])):
        mean, worst = (told[f"clients_{metric}{end}"].iloc[-1] for end in ("", "_worst"))
        table.add_row(f"{metric} at clients, mean and worst tenth", f"{mean:.4f}, {worst:.4f}")
    sent, plain = int(clients["payload_bytes"].sum()), int(uncompressed_bytes(clients).sum())
    table.add_row("uplink", decimal(sent))
    table.add_row("uncompressed, same rounds", f"{decimal(plain)} ({plain / max(sent, 1):.1f} ×)")
    for (width, tier), group in clients.groupby(["width", "tier"]):
        total = int(group["payload_bytes"].sum())
        each = f"{decimal(total)}, {decimal(round(total / len(group)))} an update"
        table.add_row(escape(f"uplink of tier {tier} (width {width:g})"), each)
    table.add_row("least coverage of a coordinate", f"{rounds['coverage_min'].min():.0f} clients")
    if "outer_never_held" in rounds and (missed := int(rounds["outer_never_held"].iloc[-1])):
        table.add_row("outer coordinates that no client ever held", f"{missed:,}")
    dropped = int((clients["status"] != "ok").sum())
    if dropped:
        table.add_row("dropped replies", f"{dropped} of {len(clients)}")
    return table


def _metric(rounds: pd.DataFrame) -> str:
    """The column by which a run is judged."""
    return judged_by([str(name) for name in rounds.columns if rounds[name].notna().any()])


def uncompressed_bytes(clients: pd.DataFrame) -> pd.Series:
    """Bytes of the same updates as plain float32, a number for each client row; 0 for a dropped one."""
    return (FLOAT_BYTES * clients["num_parameters"]).where(clients["status"] == "ok", 0)


def draw(directories: Sequence[Path], target: Path) -> Path:
    """Write a PNG of accuracy against rounds and against cumulative uplink bytes, one line a run.

    A first run without accuracy is drawn by another metric, and so are all.
    A single run also gets a heat map of its coverage, tensors by rounds.
    """
    with mpl.rc_context({"font.size": 10, "axes.grid": True, "grid.alpha": 0.3}):
        coverage = _coverage(directories[0]) if len(directories) == 1 else pd.DataFrame()
        height = 3.6 if coverage.empty else 4.4 + 0.16 * len(coverage)
        figure = Figure(figsize=(9, height), layout="constrained")
        top: FigureBase = figure
        if not coverage.empty:
            grid = figure.add_gridspec(2, 1, height_ratios=[3.6, height - 3.6])
            top = figure.add_subfigure(grid[0])
            _draw_coverage(figure.add_subfigure(grid[1]), coverage)
        by_round, by_bytes = top.subplots(1, 2, sharey=True)
        metric = _metric(read_rounds(directories[0])) if directories else "accuracy"
        for directory in directories:
            rounds = read_rounds(directory)
            rounds = rounds.dropna(subset=[metric]) if metric in rounds else rounds[:0].assign(**{metric: []})
            label = directory.name
            by_round.plot(rounds["round"], rounds[metric], label=label, linewidth=1.8)
            by_bytes.plot(rounds["cumulative_uplink_bytes"], rounds[metric], label=label, linewidth=1.8)
            if len(directories) == 1:
                _draw_uncompressed(by_bytes, directory, rounds, metric)
        by_round.set(xlabel="round", ylabel=f"test {metric}")
        by_round.xaxis.set_major_locator(MaxNLocator(integer=True))
        by_bytes.set(xlabel="cumulative uplink")
        if len(directories) == 1:
            by_bytes.set_xscale("log")
            low, high = by_bytes.get_xlim()
            # A few labels whatever the span: a short run is less than a decade long.
            by_bytes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
            by_bytes.xaxis.set_minor_formatter(NullFormatter())
        by_bytes.xaxis.set_major_formatter(EngFormatter("B"))
        by_round.legend(*by_bytes.get_legend_handles_labels(), fontsize=8, loc="best")
        figure.savefig(target, dpi=140)
    return target


def _coverage(directory: Path) -> pd.DataFrame:
    """Mean clients a coordinate, tensors by rounds."""
    rounds = read_rounds(directory).set_index("round")
    if "coverage_by_tensor" not in rounds:
        return pd.DataFrame()
    means = rounds["coverage_by_tensor"].map(lambda tensors: {name: mean for name, (_, mean) in tensors.items()})
    return pd.DataFrame(list(means), index=rounds.index).T


def _draw_coverage(figure: FigureBase, coverage: pd.DataFrame) -> None:
    axes = figure.subplots()
    rounds = coverage.columns.to_numpy()
    image = axes.imshow(
        coverage,
        aspect="auto",
        cmap="viridis",
        vmin=0,
        interpolation="nearest",
        extent=(rounds[0] - 0.5, rounds[-1] + 0.5, len(coverage), 0),
    )
    axes.grid(False)
    axes.set_yticks([row + 0.5 for row in range(len(coverage))], list(coverage.index), fontsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="round", title="coverage: mean clients that hold a coordinate")
    figure.colorbar(image, ax=axes)


def _draw_uncompressed(axes: mpl.axes.Axes, directory: Path, rounds: pd.DataFrame, metric: str) -> None:
    clients = read_clients(directory)
    plain = uncompressed_bytes(clients).groupby(clients["round"]).sum().cumsum()
    axes.plot(
        plain.reindex(rounds["round"]),
        rounds[metric],
        label="the same rounds, if sent as float32",
        linewidth=1.4,
        linestyle="--",
        color="0.5",
    )
