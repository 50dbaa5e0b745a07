"""The picture of docs/index.md shows what is so: the levels are the update, and so is the mean of what is sent."""

import numpy as np
import pytest
import torch

from benchmarks.picture_levels import UPDATE, levels_of, mean_of


def test_levels_sum_to_the_update_and_what_is_sent_has_it_as_mean() -> None:
    levels = levels_of(torch.tensor(UPDATE))
    assert levels.chances.sum() == pytest.approx(1)
    np.testing.assert_allclose(levels.increments.sum(0), UPDATE, rtol=1e-6)
    np.testing.assert_allclose(levels.chances @ levels.sent, UPDATE, rtol=1e-6)


def test_a_mean_over_more_clients_is_closer() -> None:
    update = torch.tensor(UPDATE)
    errors = [np.abs(mean_of(update, count, np.random.default_rng(0)) - UPDATE).sum() for count in (2, 100)]
    assert errors[1] < errors[0] / 2
