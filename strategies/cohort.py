"""The cohort: which of the clients at hand take part in a round."""

from collections.abc import Callable, Sequence

import numpy as np

from fl_mlmc.aggregation.private import secret_generator
from fl_mlmc.run.config.cohort import CohortConfig
from fl_mlmc.run.rng import stream
from fl_mlmc.submodels import IndexPlan
from fl_mlmc.submodels.coverage import guarded_cohort


def draw_cohort(
    config: CohortConfig,
    is_private: bool,
    seed: int,
    server_round: int,
    clients: Sequence[int],
    plan_of: Callable[[int], IndexPlan],
) -> list[int]:
    """The clients of a round, ascending, out of `clients`, those that a node hosts now.

    A cohort of a private run is a secret and may be smaller than asked for; any other is the same whenever it is drawn.
    `plan_of` gives a client's plan in that round. ValueError if no cohort has the `least_coverage`.
    """
    if is_private:
        return secret_cohort(clients, config.num_clients, config.clients_per_round, secret_generator())
    rng = stream(seed, "cohort", server_round)
    if config.least_coverage:
        order = [clients[index] for index in rng.permutation(len(clients))]
        return guarded_cohort(order, min(config.num_asked, len(order)), plan_of, config.least_coverage)
    return uniform_cohort(clients, config.num_asked, rng)


def uniform_cohort(clients: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    """So many of `clients`, or all if they are fewer: every subset of that size is as likely."""
    return sorted(clients[index] for index in rng.choice(len(clients), min(count, len(clients)), replace=False))


def secret_cohort(clients: Sequence[int], num_clients: int, count: int, rng: np.random.Generator) -> list[int]:
    """Those of `clients` among so many drawn out of all clients, 0 to `num_clients` − 1, wherever they are.

    The privacy of a sample counts on its being uniform over the population, whoever is at hand, and on nobody's
    knowing it.
    """
    return sorted(set(rng.choice(num_clients, count, replace=False).tolist()).intersection(clients))
