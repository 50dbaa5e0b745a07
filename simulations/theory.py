"""Theorems checked by running: a table of method × (measured rate, bound, floor, bits to 1e-6), and its pictures.

Each problem takes seconds to minutes on two cores: the heterogeneous quadratic, where exact methods reach the solution
and others a floor; logistic regression on data that ships with scikit-learn; the homogeneous quadratic with noise,
where the average suboptimality falls like 1/√(MT) and stays below Theorem 4.1 of arXiv 2507.05508; and the same under
a simulated clock, where seconds count. Bits are the compressors' formulas, not lengths of payloads; randomness that
both sides can derive from (seed, round, client) counts for nothing, for all methods alike.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.table import Table

from fl_mlmc import MLMC, Compressor, Identity, RandK, TopK, parse
from fl_mlmc.theory import bench, crowd, theorems
from fl_mlmc.theory.problems import Logistic, Problem, heterogeneous, homogeneous
from fl_mlmc.theory.theorems import Setup

from . import theory_clock

Row = dict[str, Any]
ACCURATE = 1e-6
"""The ‖x − x*‖² to which bits are counted."""
EXACT = 1e-20
"""The ‖x − x*‖² below which a method is at the solution, in float64."""
MAX_ROUNDS = 200_000
PROBLEMS = ("quadratic", "breast-cancer", "digits", "homogeneous", "clock")


def compare(
    names: Sequence[str],
    directory: Path,
    max_rounds: int = MAX_ROUNDS,
    jobs: int | None = None,
    on_row: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Run every method on the named problems and write theory.csv, theory.md and a picture a problem.

    `jobs` processes share the rows, None: one a processor. `on_row` hears how many of how many are done.
    Returns the table. ValueError on an unknown problem.
    """
    if unknown := set(names) - set(PROBLEMS):
        raise ValueError(f"unknown problem {', '.join(sorted(unknown))}; known: {', '.join(PROBLEMS)}")
    directory.mkdir(parents=True, exist_ok=True)
    context, chosen = get_context("spawn"), [name for name in PROBLEMS if name in names]
    tasks = {name: list(_tasks(name, max_rounds)) for name in chosen}
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        # The longest first: at the end no processor waits for one long row.
        order = sorted((task for each in tasks.values() for task in each), key=lambda task: -task.rounds)
        running = {task: pool.submit(task.work) for task in order}
        try:
            for number, row in enumerate(as_completed(running.values()), start=1):
                row.result()
                on_row(number, len(running))
        except BaseException:  # Ctrl-C too: rows that have not begun are not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        done = {name: [running[task].result() for task in each] for name, each in tasks.items()}
    for name in {"homogeneous", "clock"} & done.keys():
        _write(pd.DataFrame(done.pop(name)), directory / name)
    table = pd.DataFrame([row for runs in done.values() for row, _ in runs])
    if len(table):
        _write(table, directory / "theory")
    for name, runs in done.items():
        _draw(name, runs, directory / f"{name}.png")
    return table


@dataclass(frozen=True, eq=False)
class _Task:
    """A row of a table, and about how many rounds it takes."""

    rounds: int
    work: Callable[[], Any]


def _tasks(name: str, max_rounds: int) -> Iterator[_Task]:
    if name == "homogeneous":
        for case in AVERAGED:
            yield _Task(case[2] * len(SEEDS), partial(_averaged, case))
    elif name == "clock":
        for cell in theory_clock.cells():
            yield _Task(10_000, partial(theory_clock.best, cell))
    else:
        problem = problem_named(name)
        for index, setup in enumerate(setups(problem)):
            yield _Task(min(rounds_to_run(problem, setup), max_rounds), partial(_measured, name, max_rounds, index))


def problem_named(name: str) -> Problem:
    """The problem that a row of the table names."""
    if name == "quadratic":
        return heterogeneous()
    from sklearn import datasets  # takes seconds, and only these problems need it

    if name == "breast-cancer":
        features, labels = datasets.load_breast_cancer(return_X_y=True)
    else:
        features, labels = datasets.load_digits(return_X_y=True)
        labels = labels >= 5
    return logistic(name, np.asarray(features), np.asarray(labels, bool))


def logistic(name: str, features: np.ndarray, labels: np.ndarray, num_clients: int = 8, ridge: float = 0.1) -> Logistic:
    """Logistic regression on standardised columns and a constant one, rows dealt out by the sum of their features.

    `features` (rows, columns); of `labels` (rows,) all that are not zero are one class.
    """
    spread = features.std(axis=0)
    kept = (features - features.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    rows = np.column_stack([kept, np.ones(len(kept))])
    order = np.argsort(kept.sum(axis=1), kind="stable")
    signs = np.where(labels, 1.0, -1.0)
    return Logistic(name, torch.from_numpy(rows[order]), torch.from_numpy(signs[order]), num_clients, ridge)


def setups(problem: Problem) -> list[Setup]:
    """The rows of a problem's table: each method with its theorem's step, a tenth of the coordinates a message."""
    known, size, clients = problem.constants, problem.size, problem.num_clients
    count = max(1, size // 10)
    rand, multi, top = RandK(count=count), MLMC(TopK(count=count)), TopK(count=count)
    unbiased: Iterable[Callable[..., Setup]] = (
        theorems.direct,
        theorems.diana,
        theorems.marina,
        theorems.dasha,
        theorems.ef_bv,
    )
    rows = [make(known, compressor, size) for make in unbiased for compressor in (rand, multi)]
    return [
        theorems.direct(known, Identity(), size),
        *rows,
        *(theorems.adiana(known, compressor, size) for compressor in (rand, multi)),
        theorems.marina_permuted(known, Identity(), size),
        theorems.ef14(known, top, size),
        theorems.ef21(known, top, size),
        theorems.ef_bv(known, top, size),
        theorems.ef21_sgdm(known, top, size),
        theorems.proxskip(known),
        *(theorems.compressed_scaffnew(known, overlap) for overlap in (2, clients // 2, clients)),
        theorems.tamuna(known, clients // 2, 2, 0.15),
    ]


def rounds_to_run(problem: Problem, setup: Setup) -> int:
    """Rounds after which a setup is at the solution, or at its floor; local methods without a bound get 5,000."""
    if setup.bound:
        return bench.rounds_for(setup)
    if setup.scheme.moves_itself:
        return 5_000
    decades = 24 if setup.is_exact else 4
    return max(4000, math.ceil(decades * math.log(10) / (setup.step * problem.constants.convexity)))


def _measured(name: str, max_rounds: int, index: int) -> tuple[Row, Mapping[str, np.ndarray]]:
    problem = problem_named(name)
    setup = setups(problem)[index]
    wanted = rounds_to_run(problem, setup)
    run = partial(bench.run_at_once, with_loss=False) if crowd.moves_as_one(setup.scheme) else bench.run
    trace = run(problem, setup, min(wanted, max_rounds))
    last = float(trace.errors[-1])
    is_cut = setup.is_exact and last > EXACT and max_rounds < wanted
    row = {
        "problem": name,
        "method": repr(setup.scheme),
        "compressor": repr(setup.compressor),
        "step": setup.step,
        "measured_rate": trace.rate,
        "bound": setup.bound,
        "floor": trace.floor,
        "last_error": last,
        "exact_by_theorem": setup.is_exact,
        "cut": is_cut,
        "rounds": len(trace.errors) - 1,
        "expected_bits_to_1e-6": trace.bits_to(ACCURATE),
    }
    keep = np.unique(np.geomspace(1, len(trace.errors), 400).astype(int)) - 1
    return row, {"error": trace.errors[keep], "bits": trace.bits[keep], "iterations": trace.iterations[keep]}


SEEDS = (0, 1, 2)
AVERAGED: list[tuple[str, int, int]] = [
    (compressor, clients, rounds)
    for compressor in ("Identity()", "MLMC(TopK(count=4))", "RandK(count=4)")
    for clients in (4, 32)
    for rounds in (1000, 4000, 16000)
]


def _averaged(case: tuple[str, int, int]) -> Row:
    text, clients, rounds = case
    values, bounds = zip(*(averaged(parse(text), clients, rounds, seed=seed) for seed in SEEDS), strict=True)
    return {
        "compressor": text,
        "clients": clients,
        "rounds": rounds,
        "suboptimality": float(np.mean(values)),
        "least": min(values),
        "largest": max(values),
        "bound": bounds[0],
    }


def averaged(
    compressor: Compressor, clients: int, rounds: int, sigma: float = 1.0, seed: int = 0
) -> tuple[float, float]:
    """(mean of f(x_t) − f* over the rounds, its bound) on the homogeneous quadratic with noise, Theorem 4.1."""
    problem = homogeneous(clients)
    omega = theorems.known_omega(compressor, problem.size)
    step = theorems.convex_step(1.0, omega, 5.0, sigma, clients, rounds)
    setup = Setup(theorems.Direct(), compressor, step, None, False)
    trace = bench.run_at_once(problem, setup, rounds, seed, sigma)
    return float(trace.suboptimality[:-1].mean()), theorems.convex_bound(1.0, omega, 5.0, sigma, clients, rounds)


def summaries(table: pd.DataFrame) -> Iterator[Table]:
    """What each problem's rows come to, for the screen; theory.csv has the rest."""
    for problem, rows in table.groupby("problem", sort=False) if len(table) else ():
        shown = Table(title=str(problem), title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in ("method", "compressor"):
            shown.add_column(name, overflow="fold")
        for name in ("rate", "bound", "rate /\nbound", "last\nerror", "rounds", "bits to\n1e-6"):
            shown.add_column(name, justify="right", no_wrap=True)
        for row in rows.to_dict("records"):
            ratio = (row["measured_rate"] or math.nan) / (row["bound"] or math.nan)
            figures = [row["measured_rate"], row["bound"], ratio, row["last_error"]]
            bits = row["expected_bits_to_1e-6"]
            shown.add_row(
                _label(row["method"]),
                "" if row["compressor"] == "Identity()" else row["compressor"],
                *("–" if pd.isna(figure) else f"{figure:.3g}" for figure in figures),
                f"{row['rounds']:,}{' cut' if row['cut'] else ''}",
                "–" if pd.isna(bits) else f"{bits:,.0f}",
            )
        yield shown


def _label(method: str) -> str:
    """A scheme and those of its options that tell it from its like."""
    scheme, _, options = method.partition("(")
    extra = [part for part in options.rstrip(")").split(", ") if part.startswith(("overlap", "permuted"))]
    return " ".join([scheme, *extra])


def _write(table: pd.DataFrame, stem: Path) -> None:
    table.to_csv(stem.with_suffix(".csv"), index=False)
    cells = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns), *cells]
    stem.with_suffix(".md").write_text("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")


def _cell(value: object) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


STYLES = {"Identity": "-", "MLMC": "--", "RandK": ":", "TopK": "-."}


def _draw(name: str, runs: Sequence[tuple[Row, Mapping[str, np.ndarray]]], path: Path) -> None:
    """Error against iterations and against bits: a colour a scheme, a style a compressor."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    schemes = list(dict.fromkeys(row["method"].partition("(")[0] for row, _ in runs))
    palette = [*mpl.color_sequences["tab20"][::2], *mpl.color_sequences["Dark2"]]
    colors = dict(zip(schemes, palette, strict=False))
    for row, lines in runs:
        scheme = row["method"].partition("(")[0]
        compressor = row["compressor"].partition("(")[0]
        title = " ".join([_label(row["method"]), *([] if compressor == "Identity" else [row["compressor"]])])
        for axes, axis in ((left, "iterations"), (right, "bits")):
            axes.plot(lines[axis], lines["error"], STYLES[compressor], color=colors[scheme], label=title, linewidth=1.3)
    for axes, label in ((left, "iterations"), (right, "expected bits a client")):
        axes.set(xlabel=label, yscale="log", xscale="log")
        axes.grid(alpha=0.3)
    left.set(ylabel="‖x − x*‖²", ylim=(1e-23, None), title=name)
    right.set(xlim=(100, None))
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside right center")
    figure.savefig(path, dpi=90)
