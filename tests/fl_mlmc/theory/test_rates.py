"""What the theorems say, on a quadratic small enough to run every method to the last digit."""

import pytest

from fl_mlmc import MLMC, RandK, TopK
from fl_mlmc.schemes import DASHAMVR, parse_scheme
from fl_mlmc.theory import bench, theorems
from fl_mlmc.theory.problems import heterogeneous, homogeneous
from fl_mlmc.theory.theorems import Setup

PROBLEM = heterogeneous(num_clients=4, size=12, convexity=0.2)
KNOWN, SIZE = PROBLEM.constants, 12
RAND, MULTI, TOP = RandK(count=4), MLMC(TopK(count=4)), TopK(count=4)

EXACT = [
    theorems.ef21(KNOWN, TOP, SIZE),
    theorems.ef_bv(KNOWN, RAND, SIZE),
    theorems.ef_bv(KNOWN, MULTI, SIZE),
    theorems.ef_bv(KNOWN, TOP, SIZE),
    theorems.diana(KNOWN, RAND, SIZE),
    theorems.diana(KNOWN, MULTI, SIZE),
    theorems.adiana(KNOWN, RandK(count=8), SIZE),
    theorems.marina(KNOWN, RAND, SIZE),
    theorems.marina(KNOWN, MULTI, SIZE),
    theorems.marina_permuted(KNOWN, RAND, SIZE),
    theorems.dasha(KNOWN, RAND, SIZE),
    theorems.dasha(KNOWN, MULTI, SIZE),
    theorems.proxskip(KNOWN),
    theorems.compressed_scaffnew(KNOWN, 2),
    theorems.compressed_scaffnew(KNOWN, 4),
]


@pytest.mark.parametrize("method", EXACT, ids=lambda method: method.label)
def test_an_exact_method_reaches_the_solution_no_slower_than_its_bound(method: Setup) -> None:
    trace = bench.run(PROBLEM, method, bench.rounds_for(method))
    assert trace.errors[-1] < 1e-20
    assert trace.rate is not None
    assert method.bound is not None
    assert method.bound <= trace.rate <= 3 * method.bound


def test_tamuna_reaches_the_solution_with_half_of_the_clients() -> None:
    method = theorems.tamuna(KNOWN, cohort=2, overlap=2, probability=0.4)
    assert bench.run(PROBLEM, method, 800).errors[-1] < 1e-20


def test_dasha_mvr_without_noise_reaches_the_solution() -> None:
    plain = theorems.dasha(KNOWN, RAND, SIZE)
    method = Setup(DASHAMVR(momentum=0.5), RAND, plain.step, plain.bound, True)
    assert bench.run(PROBLEM, method, bench.rounds_for(method)).errors[-1] < 1e-20


def test_ef21_sgdm_without_noise_reaches_the_solution() -> None:
    method = theorems.ef21_sgdm(KNOWN, TopK(count=8), SIZE, momentum=0.5)
    assert bench.run(PROBLEM, method, 1200, enough=1e-13).errors[-1] < 1e-12


def test_momentum_takes_the_noise_out_of_dasha() -> None:
    floors = [
        bench.run(PROBLEM, Setup(parse_scheme(text), RAND, 0.05, None, False), 500, sigma=3.0).floor
        for text in ("dasha(memory_step=0.2)", "dasha_mvr(0.05, memory_step=0.2)")
    ]
    assert floors[1] < 0.1 * floors[0]


def test_memory_takes_away_the_floor_that_direct_compression_has() -> None:
    for compressor in (RAND, MULTI):
        trace = bench.run(PROBLEM, theorems.direct(KNOWN, compressor, SIZE), 400)
        assert 0.05 < trace.floor < 50
        assert trace.rate is None
    assert bench.run(PROBLEM, theorems.direct(KNOWN, theorems.Identity(), SIZE), 400).errors[-1] < 1e-20


def test_error_feedback_alone_stops_at_a_floor_that_ef21_does_not_have() -> None:
    method = theorems.ef14(KNOWN, TOP, SIZE)
    floor = bench.run(PROBLEM, method, 1500).floor
    assert 1e-6 < floor < 1


def test_partial_participation_of_diana_and_ef21_still_reaches_the_solution() -> None:
    for method in (theorems.diana(KNOWN, RAND, SIZE), theorems.ef21(KNOWN, TOP, SIZE)):
        half = Setup(method.scheme, method.compressor, method.step / 4, None, True, cohort=3)
        trace = bench.run(PROBLEM, half, 3000, enough=1e-16)
        assert trace.errors[-1] < 1e-15


def test_marina_with_permutations_on_equal_clients_is_gradient_descent() -> None:
    problem = homogeneous(4, 12, convexity=0.1)
    method = theorems.marina_permuted(problem.constants, RAND, 12)
    plain = Setup(theorems.Direct(), theorems.Identity(), method.step, None, True)
    ours, theirs = (bench.run(problem, each, 60) for each in (method, plain))
    assert ours.errors == pytest.approx(theirs.errors, rel=1e-5)
    assert ours.bits[-1] < theirs.bits[-1] / 1.5
