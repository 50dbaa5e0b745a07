import numpy as np
import pytest

from fl_mlmc.compression.probabilities import (
    adaptive_probabilities,
    cost_probabilities,
    inclusion_probabilities,
    line_ends,
    second_moment,
    systematic_outcomes,
    systematic_sample,
)


def test_adaptive_probabilities_give_the_square_of_the_sum() -> None:
    norms = np.array([3.0, 0.0, 1.0, 2.0])
    probabilities = adaptive_probabilities(norms)
    assert probabilities.tolist() == [0.5, 0.0, 1 / 6, 1 / 3]
    assert second_moment(norms, probabilities) == pytest.approx(norms.sum() ** 2)


def test_cost_aware_chances_are_norms_over_roots_of_bits() -> None:
    assert cost_probabilities(np.array([3.0, 4.0]), np.array([9.0, 4.0])).tolist() == [1 / 3, 2 / 3]
    norms, costs = np.array([3.0, 1.0, 2.0, 0.5]), np.array([10.0, 40.0, 20.0, 300.0])

    def price(probabilities: np.ndarray) -> float:
        return second_moment(norms, probabilities) * float(probabilities @ costs)

    best, rng = price(cost_probabilities(norms, costs)), np.random.default_rng(3)
    assert all(price(rng.dirichlet(np.ones(4))) >= best for _ in range(200))


def test_nothing_to_draw_from_has_no_probabilities() -> None:
    assert not adaptive_probabilities(np.zeros(3)).any()


def test_adaptive_probabilities_are_the_best(  # Lemma 3.4
) -> None:
    rng = np.random.default_rng(1)
    norms = rng.exponential(size=6)
    best = second_moment(norms, adaptive_probabilities(norms))
    assert all(second_moment(norms, rng.dirichlet(np.ones(6))) >= best for _ in range(100))


@pytest.mark.parametrize("draws", [1, 2, 4, 5])
def test_inclusion_probabilities_sum_to_the_number_of_draws(draws: int) -> None:
    weights = np.array([100.0, 5.0, 0.0, 1.0, 1.0, 0.5])
    inclusion = inclusion_probabilities(weights, draws)
    assert inclusion.sum() == pytest.approx(draws)
    assert inclusion.max() <= 1
    assert inclusion[2] == 0
    below = (inclusion > 0) & (inclusion < 1)
    assert np.ptp(inclusion[below] / weights[below], axis=0) < 1e-12 if below.any() else draws == 5


def test_a_systematic_sample_has_its_size_and_never_repeats() -> None:
    inclusion = inclusion_probabilities(np.random.default_rng(2).exponential(size=50), 7)
    for _, start in systematic_outcomes(inclusion):
        assert systematic_sample(inclusion, start).size == 7


def test_rounding_errors_of_the_chances_lose_no_level() -> None:
    tenths = np.full(10, 0.1)
    assert tenths.cumsum()[-1] < 1
    assert line_ends(tenths)[-1] == 1
    assert systematic_sample(tenths, 1 - 2**-53).tolist() == [9]
