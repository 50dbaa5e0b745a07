import numpy as np
import pytest

from fl_mlmc.mlmc import adaptive_probabilities, second_moment


def test_adaptive_probabilities_give_the_square_of_the_sum() -> None:
    norms = np.array([3.0, 0.0, 1.0, 2.0])
    probabilities = adaptive_probabilities(norms)
    assert probabilities.tolist() == [0.5, 0.0, 1 / 6, 1 / 3]
    assert second_moment(norms, probabilities) == pytest.approx(norms.sum() ** 2)


def test_nothing_to_draw_from_has_no_probabilities() -> None:
    assert not adaptive_probabilities(np.zeros(3)).any()


def test_adaptive_probabilities_are_the_best(  # Lemma 3.4
) -> None:
    rng = np.random.default_rng(1)
    norms = rng.exponential(size=6)
    best = second_moment(norms, adaptive_probabilities(norms))
    assert all(second_moment(norms, rng.dirichlet(np.ones(6))) >= best for _ in range(100))
