"""Rungs of long vectors give rough norms; that must cost next to no variance, and never hide a level."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_mlmc import ECUQ, RTN, FixedPoint, FloatingPoint, Ladder
from fl_mlmc.compression.pointwise import EXACT_BELOW
from fl_mlmc.compression.probabilities import adaptive_probabilities, second_moment


def vectors() -> dict[str, Tensor]:
    rng = np.random.default_rng(6)
    size = EXACT_BELOW + 1
    normal = rng.standard_normal(size)
    arrays = {
        "normal": normal,
        "student": rng.standard_t(3, size),
        "mostly zero": normal * (rng.random(size) < 0.01),
        "one non-zero": np.eye(1, size, 5)[0],
        "ties": np.round(normal),
        "zero": np.zeros(size),
    }
    return {name: torch.from_numpy(array).float() for name, array in arrays.items()}


@pytest.mark.parametrize("name", vectors())
@pytest.mark.parametrize(
    "ladder",
    [RTN(bits=8), RTN(bits=5, kind="mid-rise"), RTN(bits=4, clip=1.0), ECUQ(bits=4), FixedPoint(), FloatingPoint()],
    ids=repr,
)
def test_rough_norms_cost_next_to_no_variance(ladder: Ladder, name: str) -> None:
    rungs = ladder.climb(vectors()[name])
    rough, exact = rungs.norms(), rungs.exact_norms()
    assert (rough[exact > 0] > 0).all()
    if exact.any():
        assert second_moment(exact, adaptive_probabilities(rough)) <= 1.1 * exact.sum() ** 2
