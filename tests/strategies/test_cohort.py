"""The draw of the cohort: uniform, secret, or guarded by the least coverage."""

from collections import Counter

import numpy as np
import pytest

from fl_mlmc.models import build_model
from fl_mlmc.run.config.cohort import CohortConfig
from fl_mlmc.strategies.cohort import draw_cohort, secret_cohort, uniform_cohort
from fl_mlmc.submodels import IndexPlan, plan

SPEC = build_model("mlp(hidden=(8,))", (4,), 2).spec


def config(**changes: object) -> CohortConfig:
    return CohortConfig.model_validate({"num_clients": 12, "clients_per_round": 4, **changes})


def plan_of(client: int) -> IndexPlan:
    return plan(SPEC, "nested", 1.0 if client % 4 == 0 else 0.25, 1, client, 0)


def draw(settings: CohortConfig, server_round: int, clients: range, is_private: bool = False) -> list[int]:
    return draw_cohort(settings, is_private, 0, server_round, clients, plan_of)


def test_a_cohort_is_a_function_of_the_round_and_of_who_is_there() -> None:
    cohorts = [draw(config(), number, range(12)) for number in range(1, 30)]
    assert cohorts == [draw(config(), number, range(12)) for number in range(1, 30)]
    assert all(cohort == sorted(set(cohort)) and len(cohort) == 4 for cohort in cohorts)
    assert len({tuple(cohort) for cohort in cohorts}) > 20
    assert draw(config(), 1, range(3)) == [0, 1, 2]


def test_over_sampling_asks_more() -> None:
    assert len(draw(config(over_sampling=0.5), 1, range(12))) == 6


def test_every_client_is_as_likely() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(client for _ in range(3000) for client in uniform_cohort([1, 4, 5, 9, 11], 2, rng))
    assert counts.keys() == {1, 4, 5, 9, 11}
    assert max(abs(count - 1200) for count in counts.values()) < 110  # four standard deviations


def test_a_secret_cohort_is_drawn_from_all_clients_wherever_they_are() -> None:
    rng = np.random.default_rng(0)
    cohorts = [secret_cohort([0, 1, 2], 12, 4, rng) for _ in range(3000)]
    assert all(set(cohort) <= {0, 1, 2} and cohort == sorted(cohort) for cohort in cohorts)
    assert [] in cohorts  # who is away is drawn like any other
    assert sum(map(len, cohorts)) == pytest.approx(3000, rel=0.05)  # a third of three, each time


def test_the_cohort_of_a_private_run_cannot_be_replayed() -> None:
    assert len({tuple(draw(config(), 1, range(12), is_private=True)) for _ in range(20)}) > 10


def test_the_least_coverage_holds_in_every_round() -> None:
    for number in range(1, 40):
        cohort = draw(config(least_coverage=2), number, range(12))
        assert sum(client % 4 == 0 for client in cohort) >= 2
        assert len(cohort) == 4
    with pytest.raises(ValueError, match="no cohort of 4 clients was found in which 4 hold every coordinate"):
        draw(config(least_coverage=4), 1, range(12))
