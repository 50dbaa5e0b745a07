"""Theorems checked by running: a table of method × (measured rate, bound, floor, bits to 1e-6), and its pictures.

Each problem takes seconds to minutes on two cores: the heterogeneous quadratic, where exact methods reach the solution
and others a floor; logistic regression on data that ships with scikit-learn; the homogeneous quadratic with noise,
where the average suboptimality falls like 1/√(MT) and stays below Theorem 4.1 of arXiv 2507.05508; and the same under
a simulated clock, where seconds count. Bits are the compressors' formulas, not lengths of payloads.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from fl_mlmc import MLMC, Compressor, Identity, RandK, TopK, parse
from fl_mlmc.schemes.constants import worst_omega
from fl_mlmc.theory import bench, steps
from fl_mlmc.theory.problems import Logistic, Problem, heterogeneous, homogeneous
from fl_mlmc.theory.steps import Method

from . import time_to_accuracy

Row = dict[str, Any]
ACCURATE = 1e-6
PROBLEMS = ("quadratic", "breast-cancer", "digits", "homogeneous", "clock")


def compare(names: Sequence[str], directory: Path, max_rounds: int = 20_000, workers: int = 2) -> pd.DataFrame:
    """Run every method on the named problems and write theory.csv, theory.md and a picture a problem.

    Returns the table. ValueError on an unknown problem.
    """
    if unknown := set(names) - set(PROBLEMS):
        raise ValueError(f"unknown problem {', '.join(sorted(unknown))}; known: {', '.join(PROBLEMS)}")
    directory.mkdir(parents=True, exist_ok=True)
    context = get_context("spawn")
    rows: list[Row] = []
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for name in names:
            if name == "homogeneous":
                rows_here = list(pool.map(partial(_averaged, max_rounds=max_rounds), AVERAGED))
                _write(pd.DataFrame(rows_here), directory / "homogeneous")
                continue
            if name == "clock":
                cells = time_to_accuracy.cells()
                _write(pd.DataFrame(list(pool.map(time_to_accuracy.best, cells))), directory / "clock")
                continue
            count = len(methods(problem_named(name)))
            runs = list(pool.map(partial(_measured, name, max_rounds), range(count)))
            rows += [row for row, _ in runs]
            _draw(name, runs, directory / f"{name}.png")
    table = pd.DataFrame(rows)
    if rows:
        _write(table, directory / "theory")
    return table


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


def logistic(
    name: str, features: np.ndarray, labels: np.ndarray, num_clients: int = 8, ridge: float = 0.01
) -> Logistic:
    """Logistic regression on standardised columns and a constant one, rows dealt out by the sum of their features."""
    spread = features.std(axis=0)
    kept = (features - features.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    rows = np.column_stack([kept, np.ones(len(kept))])
    order = np.argsort(kept.sum(axis=1), kind="stable")
    signs = np.where(labels, 1.0, -1.0)
    return Logistic(name, torch.from_numpy(rows[order]), torch.from_numpy(signs[order]), num_clients, ridge)


def methods(problem: Problem) -> list[Method]:
    """Every method with its theorem's step size, on a tenth of the coordinates."""
    known, size, clients = problem.constants, problem.size, problem.num_clients
    count = max(1, size // 10)
    rand, multi, top = RandK(count=count), MLMC(TopK(count=count)), TopK(count=count)
    unbiased: Iterable[Callable[..., Method]] = (steps.direct, steps.diana, steps.marina, steps.dasha, steps.ef_bv)
    rows = [make(known, compressor, size) for make in unbiased for compressor in (rand, multi)]
    return [
        steps.direct(known, Identity(), size),
        *rows,
        *(steps.adiana(known, compressor, size) for compressor in (rand, multi)),
        steps.marina_permuted(known, Identity(), size),
        steps.ef14(known, top, size),
        steps.ef21(known, top, size),
        steps.ef_bv(known, top, size),
        steps.ef21_sgdm(known, top, size),
        steps.proxskip(known),
        *(steps.compressed_scaffnew(known, overlap) for overlap in (2, clients // 2, clients)),
        steps.tamuna(known, clients // 2, 2, 0.15),
    ]


def _measured(name: str, max_rounds: int, index: int) -> tuple[Row, Mapping[str, np.ndarray]]:
    problem = problem_named(name)
    method = methods(problem)[index]
    trace = bench.run(problem, method, min(bench.rounds_for(method), max_rounds))
    row = {
        "problem": name,
        "method": repr(method.scheme),
        "compressor": repr(method.compressor),
        "step": method.step,
        "measured_rate": trace.rate,
        "bound": method.bound,
        "floor": trace.floor,
        "exact_by_theorem": method.is_exact,
        "rounds": len(trace.errors) - 1,
        "expected_bits_to_1e-6": trace.bits_to(ACCURATE),
    }
    keep = np.unique(np.linspace(0, len(trace.errors) - 1, 400).astype(int))
    return row, {"error": trace.errors[keep], "bits": trace.bits[keep], "iterations": trace.iterations[keep]}


AVERAGED: list[tuple[str, int, int]] = [
    (compressor, clients, rounds)
    for compressor in ("Identity()", "MLMC(TopK(count=4))", "RandK(count=4)")
    for clients in (4, 32)
    for rounds in (1000, 4000, 16000)
]


def _averaged(case: tuple[str, int, int], max_rounds: int) -> Row:
    text, clients, rounds = case
    rounds = min(rounds, max_rounds)
    value, bound = averaged(parse(text), clients, rounds)
    return {"compressor": text, "clients": clients, "rounds": rounds, "suboptimality": value, "bound": bound}


def averaged(compressor: Compressor, clients: int, rounds: int, sigma: float = 1.0) -> tuple[float, float]:
    """(mean of f(x_t) − f* over the rounds, its bound) on the homogeneous quadratic with noise, Theorem 4.1."""
    problem = homogeneous(clients)
    omega = worst_omega(compressor, problem.size) or 0.0
    step = steps.convex_step(1.0, omega, 5.0, sigma, clients, rounds)
    method = Method(steps.Direct(), compressor, step, None, False)
    trace = bench.run(problem, method, rounds, sigma=sigma)
    return float(trace.suboptimality[:-1].mean()), steps.convex_bound(1.0, omega, 5.0, sigma, clients, rounds)


def _write(table: pd.DataFrame, stem: Path) -> None:
    table.to_csv(stem.with_suffix(".csv"), index=False)
    cells = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns), *cells]
    stem.with_suffix(".md").write_text("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")


def _cell(value: object) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw(name: str, runs: Sequence[tuple[Row, Mapping[str, np.ndarray]]], path: Path) -> None:
    figure = Figure(figsize=(14, 6), layout="constrained")
    for axes, axis, label in zip(
        figure.subplots(1, 2, sharey=True),
        ("iterations", "bits"),
        ("iterations", "expected bits a client"),
        strict=True,
    ):
        colors = mpl.colormaps["tab20"]
        for index, (row, lines) in enumerate(runs):
            plain = row["compressor"] == "Identity()"
            title = row["method"].partition("(")[0] + ("" if plain else f" {row['compressor']}")
            style = "-" if index < 20 else ":"
            axes.plot(lines[axis], lines["error"], style, color=colors(index % 20), label=title, linewidth=1)
        axes.set(xlabel=label, yscale="log", xscale="log", title=name)
        axes.grid(alpha=0.3)
    figure.axes[0].set(ylabel="‖x − x*‖²", ylim=(1e-24, None))
    figure.axes[1].legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)
