"""The theory bench as a command, in sizes of seconds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from fl_mlmc import MLMC, Compressor, Identity, RandK, TopK
from fl_mlmc.simulations import cli, theory, theory_clock
from fl_mlmc.simulations.cli import app
from fl_mlmc.theory import bench, theorems


def test_averaged_suboptimality_keeps_theorem_4_1_and_falls_like_the_root_of_rounds() -> None:
    # One run of M = 4 of the published table: none 0.052 and 0.025, MLMC 0.212 and 0.091, at T = 1000 and 4000.
    cases: list[tuple[Compressor, float]] = [(Identity(), 0.052), (MLMC(TopK(count=4)), 0.212)]
    for compressor, published in cases:
        value, bound = theory.averaged(compressor, 4, 1000)
        assert value < bound
        assert value == pytest.approx(published, rel=0.2)
    early, late = (theory.averaged(Identity(), 4, rounds)[0] for rounds in (500, 2000))
    assert early / late == pytest.approx(2, rel=0.25)


def test_logistic_regression_knows_its_solution_and_its_constants() -> None:
    problem = theory.problem_named("breast-cancer")
    mean = torch.stack([problem.gradient(client, problem.solution) for client in range(8)]).mean(dim=0)
    assert float(mean.norm()) < 1e-12
    known = problem.constants
    assert known.convexity < known.smoothness < known.largest * 1.01
    rng = np.random.default_rng(0)
    for _ in range(5):
        here, there = (torch.from_numpy(rng.standard_normal(problem.size)) for _ in range(2))
        moved = float((here - there).norm())
        for client, smoothness in enumerate(known.client_smoothness):
            change = float((problem.gradient(client, here) - problem.gradient(client, there)).norm())
            assert known.convexity * moved <= change <= smoothness * moved
    slope = torch.func.grad(lambda point: _loss(problem, point))(here)
    assert torch.allclose(slope, torch.stack([problem.gradient(c, here) for c in range(8)]).mean(dim=0), atol=1e-10)


def test_what_all_clients_share_is_no_part_of_what_their_hessians_differ_by() -> None:
    rows = np.random.default_rng(1).standard_normal((64, 6))
    problems = [
        theory.logistic("small", rows, rows[:, 0] + rows[:, 1] > 0.3, num_clients=4, ridge=ridge)
        for ridge in (0.001, 10.0)
    ]
    weak, strong = (problem.constants for problem in problems)
    assert strong.hessian_variance == pytest.approx(weak.hessian_variance)
    without = [smoothness - weak.convexity for smoothness in weak.client_smoothness]
    assert weak.hessian_variance == pytest.approx(np.sqrt(np.mean(np.square(without))))
    rng = np.random.default_rng(0)
    for problem in problems:
        here, there = (torch.from_numpy(rng.standard_normal(problem.size)) for _ in range(2))
        changes = problem.gradients(here) - problem.gradients(there)
        variance = float(changes.square().sum(dim=1).mean() - changes.mean(dim=0).square().sum())
        assert 0 < variance <= problem.constants.hessian_variance**2 * float((here - there).square().sum())


def test_diana_is_exact_and_no_slower_than_its_bound_on_real_data() -> None:
    rows = np.random.default_rng(1).standard_normal((64, 6))
    problem = theory.logistic("small", rows, rows[:, 0] + rows[:, 1] > 0.3, num_clients=4, ridge=0.1)
    method = theorems.diana(problem.constants, RandK(count=4), problem.size)
    trace = bench.run(problem, method, bench.rounds_for(method))
    assert trace.errors[-1] < 1e-20
    assert trace.rate is not None
    assert method.bound is not None
    assert trace.rate >= method.bound


def test_the_command_writes_tables_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "console", Console(width=120))
    result = CliRunner().invoke(app, ["theory", "quadratic", "--out", str(tmp_path), "--max-rounds", "3"])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "theory.csv")
    assert {"method", "measured_rate", "bound", "floor", "expected_bits_to_1e-6"} <= set(table.columns)
    assert len(table) == len(theory.setups(theory.problem_named("quadratic")))
    assert (tmp_path / "theory.md").read_text().count("\n") == len(table) + 2
    assert (tmp_path / "quadratic.png").stat().st_size > 10_000
    assert "compressed_scaffnew overlap=4" in result.output.replace("\n", " ")
    assert max(map(len, result.output.splitlines())) <= 120


def test_an_unknown_problem_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown problem cubic; known: quadratic"):
        theory.compare(["cubic"], tmp_path)


def _loss(problem: theory.Problem, point: torch.Tensor) -> torch.Tensor:
    margins = problem._parts @ point  # type: ignore[attr-defined]
    return torch.nn.functional.softplus(-margins).mean() + problem._ridge / 2 * point.square().sum()  # type: ignore[attr-defined]


def test_shadowheart_is_first_where_clients_differ_a_hundredfold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theory_clock, "STEPS", (0.5,))
    monkeypatch.setattr(theory_clock, "BATCHES", (1, 8))
    monkeypatch.setattr(theory_clock, "NOISES", (1.0, 8.0))
    clock = "gradients of 1 to 128 s, fast links"
    rows = {
        scheme: theory_clock.best((clock, scheme, compressor), 100)
        for scheme, compressor in (("direct", "Identity()"), ("shadowheart", "RandK(count=4)"))
    }
    assert rows["shadowheart"]["seconds"] < 0.1 * rows["direct"]["seconds"]
    slowest = 128.0 + 0.1  # a gradient, a message
    assert rows["direct"]["seconds"] == pytest.approx(rows["direct"]["rounds"] * slowest)
    assert theory_clock.best((clock, "direct", "RandK(count=4)"), 21)["seconds"] is None
