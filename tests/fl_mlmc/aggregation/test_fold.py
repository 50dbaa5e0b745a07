"""What every fold promises: it takes an update whole or not at all, and its mean is finite."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_mlmc.aggregation import CoverageMean, Fold, Mean, NotFiniteError, PrivateMean, TrimmedMean
from fl_mlmc.compression.blocks import Block, DenseBlock, Payload, SeededBlock, SparseBlock, SymbolBlock, Table
from fl_mlmc.submodels import WidthSpec, plan

SIZE = 4
SPEC = WidthSpec({}, {"x": (SIZE,)}, {"x": (None,)})
OWN = plan(SPEC, "nested", 1.0)
MAX = float(np.finfo(np.float32).max)
EXPECTED = torch.full((SIZE,), 2.0, dtype=torch.float64)
FOLDS: dict[str, Callable[..., Fold]] = {
    "mean": lambda **bound: CoverageMean(SIZE, **bound),
    "median": lambda **bound: TrimmedMean(SIZE, 0.5, **bound),
    "private": lambda **bound: PrivateMean(1.0, 1e-12, EXPECTED, **bound),
}
every_fold = pytest.mark.parametrize("name", FOLDS)


def test_every_fold_of_ours_is_tried() -> None:
    ours = {kind for kind in Fold.__subclasses__() if kind.__module__.startswith("fl_mlmc.")}
    assert ours == {type(make()) for make in FOLDS.values()}


def dense(*values: float) -> DenseBlock:
    return DenseBlock(torch.tensor(values))


def sparse(index: int, value: float) -> SparseBlock:
    return SparseBlock(SIZE, torch.tensor([index]), torch.tensor([value]))


def payload(*blocks: Block) -> Payload:
    return Payload(SIZE, blocks)


def letters(value: float) -> SymbolBlock:
    return SymbolBlock(torch.tensor([0, 1, 1, 0], dtype=torch.uint8), Table(np.array([0.0, value])))


INFINITE = {
    "a value": payload(dense(1.0, np.inf, 0.0, 0.0)),
    "no number": payload(dense(1.0, np.nan, 0.0, 0.0)),
    "a letter": payload(letters(np.inf)),
    "four sparse blocks": payload(*[sparse(2, 3e38)] * 4),
    "drawn coordinates": payload(SeededBlock(SIZE, 0, torch.full((4,), 3e38)), dense(3e38, 0, 0, 0)),
    "two kinds": payload(letters(3e38), sparse(1, 3e38)),
}


@every_fold
@pytest.mark.parametrize("kind", INFINITE)
def test_an_update_that_is_not_finite_is_refused_and_leaves_no_trace(name: str, kind: str) -> None:
    fold, without = FOLDS[name](), FOLDS[name]()
    fold.add(OWN, payload(dense(0.1, 0.2, 0.3, 0.4)), 1.0)
    without.add(OWN, payload(dense(0.1, 0.2, 0.3, 0.4)), 1.0)
    with pytest.raises(ValueError, match=r"a coordinate of the update is (inf|nan|.*e\+3[89]); the largest"):
        fold.add(OWN, INFINITE[kind], 1.0)
    torch.testing.assert_close(fold.result().update, without.result().update, rtol=1e-6, atol=1e-9)
    assert torch.equal(fold.result().coverage, without.result().coverage)


@every_fold
def test_blocks_that_cancel_are_summed_exactly(name: str) -> None:
    fold = FOLDS[name]()
    fold.add(OWN, payload(sparse(2, 3e38), sparse(2, 3e38), sparse(2, -3e38), sparse(2, -3e38), sparse(0, 0.5)), 1.0)
    assert fold.result().update.isfinite().all()
    if name != "private":
        assert fold.result().update.tolist() == [0.5, 0.0, 0.0, 0.0]


@every_fold
def test_a_fold_may_be_told_of_a_smaller_largest_coordinate(name: str) -> None:
    fold = FOLDS[name](largest=2.0)
    fold.add(OWN, payload(dense(-2.0, 0.0, 0.0, 0.0)), 1.0)
    with pytest.raises(ValueError, match=r"a coordinate of the update is 2\.5; the largest that can be added is 2"):
        fold.add(OWN, payload(dense(-2.0, 0.0, 0.0, 0.0), sparse(0, -0.5)), 1.0)


@every_fold
@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf])
def test_a_weight_is_positive_and_finite(name: str, weight: float) -> None:
    with pytest.raises(ValueError, match=r"a weight is (positive|finite), got"):
        FOLDS[name]().add(OWN, payload(dense(1.0, 1.0, 1.0, 1.0)), weight)


@pytest.mark.parametrize("name", ["median", "private"])
@pytest.mark.parametrize("part", [{"labels": [0]}, {"only": torch.tensor([1])}])
def test_parts_of_updates_are_for_the_mean_alone(name: str, part: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="parts of updates are for aggregation 'mean'"):
        FOLDS[name]().add(OWN, payload(dense(1.0, 1.0, 1.0, 1.0)), 1.0, **part)  # type: ignore[arg-type]


values = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([MAX, -MAX, 1e-45, -0.0, 1.0])
)
updates = st.lists(st.lists(values, min_size=SIZE, max_size=SIZE), min_size=1, max_size=3)


@every_fold
@given(cohort=st.lists(st.tuples(updates, st.integers(1, 2**31)), max_size=5))
def test_whatever_is_taken_the_mean_is_finite(name: str, cohort: list[tuple[list[list[float]], int]]) -> None:
    fold = FOLDS[name]()
    for blocks, weight in cohort:
        try:
            fold.add(OWN, payload(*(dense(*block) for block in blocks)), float(weight))
        except ValueError:
            assert len(blocks) > 1, "one finite block is a finite update"
    assert fold.result().update.isfinite().all()


def test_a_mean_that_is_not_finite_is_refused() -> None:
    class Broken(CoverageMean):
        def _mean(self) -> Mean:
            return Mean(torch.tensor([0.0, np.inf, np.nan, 1.0]), torch.ones(SIZE, dtype=torch.int32))

    with pytest.raises(NotFiniteError, match="not finite in 2 of 4 coordinates"):
        Broken(SIZE).result()
