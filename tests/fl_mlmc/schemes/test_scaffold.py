"""SCAFFOLD against the algorithm as the paper prints it, against DIANA, and at its fixed point."""

import pytest
import torch

from fl_mlmc import Identity, parse
from fl_mlmc.schemes import Round, parse_scheme
from fl_mlmc.theory.bench import run
from fl_mlmc.theory.problems import Quadratic, heterogeneous
from fl_mlmc.theory.theorems import Setup


def setup(text: str, compressor: str = "Identity()", step: float = 1.0, cohort: int | None = None) -> Setup:
    return Setup(parse_scheme(text), parse(compressor), step, None, True, cohort)


def unlike() -> Quadratic:
    """Three clients in four dimensions whose solutions and curvatures differ."""
    rng = torch.Generator().manual_seed(0)
    matrices = torch.diag_embed(0.5 + 1.5 * torch.rand(3, 4, dtype=torch.float64, generator=rng))
    offsets = torch.randn(3, 4, dtype=torch.float64, generator=rng)
    return Quadratic("unlike", matrices, offsets, torch.zeros(4, dtype=torch.float64))


def as_printed(
    problem: Quadratic, step: float, steps: int, server_step: float, cohort: int, rounds: int
) -> list[float]:
    """Algorithm 1 of arXiv 1910.06378, option II, line by line; ‖x − x*‖² after every round."""
    x, c = problem.start.clone(), torch.zeros(problem.size, dtype=torch.float64)
    own = [torch.zeros_like(c) for _ in range(problem.num_clients)]
    errors = [float((x - problem.solution).square().sum())]
    for number in range(1, rounds + 1):
        round = Round(0, number, problem.num_clients, cohort)
        chosen = sorted(round.shared("cohort").choice(problem.num_clients, cohort, replace=False).tolist())
        moved, changed = torch.zeros_like(c), torch.zeros_like(c)
        for i in chosen:
            y = x.clone()
            for _ in range(steps):
                y = y - step * (problem.gradient(i, y) - own[i] + c)
            c_new = own[i] - c + (x - y) / (steps * step)
            moved, changed = moved + (y - x), changed + (c_new - own[i])
            own[i] = c_new
        x = x + server_step / cohort * moved
        c = c + cohort / problem.num_clients * changed / cohort
        errors.append(float((x - problem.solution).square().sum()))
    return errors


def test_without_loss_it_is_the_printed_algorithm() -> None:
    problem = heterogeneous(6, size=8)
    trace = run(problem, setup("scaffold(0.1, 4, server_step=0.7)", cohort=3), 25)
    assert trace.errors.tolist() == pytest.approx(as_printed(problem, 0.1, 4, 0.7, 3, 25), rel=1e-9)
    assert trace.errors[-1] < 0.7 * trace.errors[0]


@pytest.mark.parametrize("compressor", ["RandK(count=2)", "MLMC(TopK(count=2))", "Identity()"])
def test_with_one_local_step_it_is_diana(compressor: str) -> None:
    problem = heterogeneous(6, size=8)
    ours = run(problem, setup("scaffold(0.05, 1)", compressor, cohort=4), 40)
    theirs = run(problem, setup("diana", compressor, 0.05, cohort=4), 40)
    assert ours.errors.tolist() == pytest.approx(theirs.errors.tolist(), rel=1e-9)
    assert ours.bits.tolist() == theirs.bits.tolist()


def test_local_steps_on_unlike_quadratics_end_at_the_solution_where_those_of_fedavg_do_not() -> None:
    problem = unlike()
    exact = run(problem, setup("scaffold(0.1, 5)"), 200, enough=1e-20)
    lossy = run(problem, setup("scaffold(0.05, 5)", "RandK(count=2)"), 600, enough=1e-16)
    assert exact.errors[-1] < 1e-20
    assert lossy.errors[-1] < 1e-16
    x = problem.solution.clone()
    for _ in range(50):  # FedAvg leaves the solution when it is put there
        ends = []
        for i in range(problem.num_clients):
            y = x
            for _ in range(5):
                y = y - 0.1 * problem.gradient(i, y)
            ends.append(y)
        x = torch.stack(ends).mean(0)
    assert float((x - problem.solution).square().sum()) > 1e-4


def test_alike_clients_are_not_corrected() -> None:
    """Where all f_i are one, the corrections cancel: every round is FedAvg's."""
    matrix, offset, start = (
        torch.diag(torch.tensor([1.0, 0.5, 2.0, 1.5])).double(),
        torch.ones(4).double(),
        torch.zeros(4).double(),
    )
    one = Quadratic("one", matrix[None], offset[None], start)
    alike = Quadratic("alike", matrix.repeat(3, 1, 1), offset.repeat(3, 1), start)
    trace, x = run(alike, setup("scaffold(0.1, 5)"), 4), start
    for _ in range(4):
        for _ in range(5):
            x = x - 0.1 * one.gradient(0, x)
    assert trace.errors[-1] == pytest.approx(float((x - one.solution).square().sum()), rel=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scaffold(0, 5)", "step is above 0, got 0"),
        ("scaffold(0.1, 0)", "steps is a whole number of at least 1, got 0"),
        ("scaffold(0.1, 2.0)", "steps is a whole number of at least 1, got 2.0"),
        ("scaffold(0.1, 2, server_step=-1)", "server_step is above 0, got -1"),
        ("scaffold(0.1, 2, memory_step=2)", r"memory_step lies in \(0, 1\], got 2"),
    ],
)
def test_options_out_of_range_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_scheme(text)
    assert parse_scheme("scaffold(0.1, 2)").resolve(Identity(), 8, 4).memory_step == 1  # type: ignore[attr-defined]
