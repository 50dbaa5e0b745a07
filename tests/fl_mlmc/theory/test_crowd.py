"""All clients in one matrix against the same clients one by one: the same run, to the last bit."""

import numpy as np
import pytest
import torch

from fl_mlmc import MLMC, QSGD, RandK, TopK
from fl_mlmc.compression.compressors.base import Compressor
from fl_mlmc.schemes import parse_scheme
from fl_mlmc.theory import bench, theorems
from fl_mlmc.theory.crowd import sender
from fl_mlmc.theory.problems import Logistic, Problem, heterogeneous
from fl_mlmc.theory.theorems import Setup

QUADRATIC = heterogeneous(num_clients=4, size=13, convexity=0.2)  # 13: neither a group nor a register fits
_rng = np.random.default_rng(0)
_ROWS = torch.from_numpy(_rng.standard_normal((64, 11)))
LOGISTIC = Logistic("small", _ROWS, torch.sign(_ROWS[:, 0] + 0.3), num_clients=4, ridge=0.1)
RAND, MANY, MULTI, TOP = RandK(count=3), RandK(count=9), MLMC(TopK(count=3)), TopK(count=3)


@pytest.mark.parametrize("sigma", [0.0, 1.0])
@pytest.mark.parametrize("problem", [QUADRATIC, LOGISTIC], ids=lambda problem: problem.name)
@pytest.mark.parametrize(
    ("text", "compressor"),
    [
        *((text, each) for text in ("direct", "diana", "marina", "dasha", "ef_bv") for each in (RAND, MULTI)),
        ("direct", theorems.Identity()),
        ("direct", MANY),
        ("direct", MLMC(TopK(count=1, growth=2))),
        ("adiana(1.0, 0.2)", RAND),
        ("adiana(1.0, 0.2)", MULTI),
        ("dasha_mvr(0.5)", RAND),
        *((text, TOP) for text in ("ef14", "ef21", "ef21_sgdm", "ef_bv")),
    ],
)
def test_both_ways_are_one_run(problem: Problem, text: str, compressor: Compressor, sigma: float) -> None:
    method = Setup(parse_scheme(text), compressor, 1.0 if "adiana" in text else 0.02, None, False)
    slow, fast = (each(problem, method, 25, seed=3, sigma=sigma) for each in (bench.run, bench.run_at_once))
    assert slow.errors.tolist() == fast.errors.tolist()
    assert slow.suboptimality.tolist() == fast.suboptimality.tolist()
    assert fast.bits == pytest.approx(slow.bits, rel=1e-12)
    assert slow.iterations.tolist() == fast.iterations.tolist()
    assert slow.errors[-1] != slow.errors[0]


@pytest.mark.parametrize("compressor", [RAND, MANY, MULTI, TOP], ids=repr)
def test_rows_go_through_the_compressor_as_each_alone(compressor: Compressor) -> None:
    rows = torch.randn(6, 13, generator=torch.Generator().manual_seed(1))
    rows[2] = 0.0  # nothing to draw from
    rows[3, 1:] = 0.0  # one level alone
    rows[4] *= 1e-38
    send = sender(compressor, 13)
    assert send is not None
    ours, theirs = ([np.random.default_rng([7, row]) for row in range(6)] for _ in range(2))
    for _ in range(40):
        values, bits = send(rows, ours)
        alone = [compressor.compress(row, rng) for row, rng in zip(rows, theirs, strict=True)]
        assert torch.equal(values, torch.stack([each.payload.dense() for each in alone]))
        assert bits == pytest.approx(sum(each.unseeded_bits for each in alone))


def test_what_cannot_go_at_once_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rows of QSGD\(levels=2\) are not known"):
        bench.run_at_once(QUADRATIC, Setup(parse_scheme("direct"), QSGD(levels=2), 0.1, None, False), 1)
    with pytest.raises(ValueError, match="are not alike: use run"):
        bench.run_at_once(QUADRATIC, theorems.proxskip(QUADRATIC.constants), 1)
    half = Setup(parse_scheme("diana"), RAND, 0.1, None, False, cohort=2)
    with pytest.raises(ValueError, match="cohort of 2 are not alike"):
        bench.run_at_once(QUADRATIC, half, 1)
