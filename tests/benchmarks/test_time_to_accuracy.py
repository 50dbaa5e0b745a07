"""Time to an accuracy is read off the simulated clock, at the first round that is good enough."""

import math

import pandas as pd

from benchmarks.time_to_accuracy import METHODS, seconds_to


def test_the_first_good_round_counts_and_never_is_infinite() -> None:
    rounds = pd.DataFrame({"accuracy": [0.5, 0.9, 0.8, 0.95], "cumulative_simulated_seconds": [1.0, 2.0, 3.0, 4.0]})
    assert [seconds_to(rounds, target) for target in (0.4, 0.85, 0.92, 0.99)] == [1.0, 2.0, 4.0, math.inf]


def test_the_methods_are_compared_at_one_cohort_and_one_number_of_local_steps() -> None:
    alike = [{key: settings.get(key) for key in ("local_steps", "clients_per_round")} for settings in METHODS.values()]
    assert alike[0] == alike[1] == alike[2]
