"""What a run config says about a bilevel task, for both sides of a federated run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models import Model
from ..run.config import RunConfig
from ..run.rng import stream
from .base import Method, Steps
from .fednest import Fednest
from .method import parse_bilevel
from .problem import BilevelProblem, ClientData, Held, Point, Shard
from .problems import build_problem
from .rabo import Rabo
from .rafbo import Rafbo
from .tasks import Rows, adapted
from .tasks.rows import Batch


def problem_of(config: RunConfig, input_shape: tuple[int, ...], num_classes: int) -> BilevelProblem:
    """The run's problem, over examples of `input_shape`, such as (1, 8, 8), in `num_classes` classes.

    Equal arguments give the same object. ValueError if the run cannot have it.
    """
    problem = build_problem(config.training.problem, config.training.model, input_shape, num_classes)
    if problem.num_clients not in (0, config.cohort.num_clients):
        raise ValueError(
            f"problem {config.training.problem!r} is stated for {problem.num_clients} clients, num-clients is "
            f"{config.cohort.num_clients}; make them equal"
        )
    if not all(problem.travels) and parse_bilevel(config.compression.scheme).name == "fednest":
        raise ValueError(
            f"scheme fednest takes turns on a shared x and y; problem {config.training.problem!r} has its own"
        )
    return problem


def data_of(problem: BilevelProblem, shard: Shard) -> ClientData:
    """A client's data, as the problem wants them."""
    return problem.data(shard) if problem.data else Rows.of(shard)


def held_of(
    config: RunConfig, problem: BilevelProblem, data: ClientData, width: float, server_round: int, client: int
) -> Held:
    """What a client of this `width`, in (0, 1], holds in a round, of the problem as it fits its data."""
    own = problem.of_client(data) if problem.of_client else problem
    return Held.of(own, config.cohort.width_rule, width, server_round, client, config.seed)


def method_of(config: RunConfig, num_examples: int = 1, server_round: int = 1) -> Method:
    """The method of a client with so many examples in a round, from 1; FedNest's depends on the round.

    It makes local-steps, or as many as local-epochs make of its examples. The server asks for `gain` and `estimator`
    alone, which are the same for all.
    """
    chosen, rate = parse_bilevel(config.compression.scheme), config.training.learning_rate
    steps = Steps(config.training.outer_learning_rate, rate, config.training.multiplier_learning_rate or rate)
    num_steps = num_steps_of(config, num_examples)
    if chosen.name == "rabo":
        return Rabo(steps, chosen.estimator)
    if chosen.name == "fednest":
        return Fednest.of_round(server_round, num_steps, steps)
    return Rafbo(num_steps, steps, chosen.estimator)


def num_steps_of(config: RunConfig, num_examples: int) -> int:
    """Local steps of a client with so many examples: 1 of RABO, local-steps, or those of local-epochs."""
    if parse_bilevel(config.compression.scheme).name == "rabo":
        return 1
    return config.training.num_steps(num_examples)


@dataclass(frozen=True, eq=False)
class StateModel(Model):
    """What travels of x, y and v as the one vector that a strategy averages; no module has its shape."""

    start: Callable[[int], Tensor] = torch.zeros

    def initial(self, seed: int) -> Tensor:
        """The state before the first round, (size,) float32."""
        return self.start(seed)


def state_model(config: RunConfig, problem: BilevelProblem) -> StateModel:
    """The state of a run's problem as a model: what travels of x, y and v, one after the other, cut alike by tiers."""

    def build(units: Mapping[str, int]) -> torch.nn.Module:
        raise TypeError("the state of a bilevel problem is no module")

    held = Held.of(problem, "nested", 1.0)
    return StateModel(build, problem.state_spec, start=lambda seed: held.pack(first_point(config, problem, seed)))


def first_point(config: RunConfig, problem: BilevelProblem, seed: int) -> Point:
    """x (m,), y (n,) and v (n,) before the first round, float32; v as the run's estimator begins."""
    x, y = problem.start(seed)
    return Point(x, y, parse_bilevel(config.compression.scheme).estimator.first_multiplier(y))


def metrics(
    config: RunConfig, problem: BilevelProblem, state: Tensor, features: Tensor, labels: Tensor
) -> Mapping[str, float]:
    """What the problem makes of the test split; by default the outer loss and, if it predicts, the accuracy.

    `state` (size,) is the vector that travels, `features` (examples, *input shape) and `labels` (examples,) the split.
    Where y is personal, the metrics are those of a y fitted to a random half of these examples, on the other half.
    Nothing where the losses take data that only the problem can make.
    """
    held = Held.of(problem, "nested", 1.0)
    x, y, _ = held.unpack(state, first_point(config, problem, config.seed))
    if problem.evaluate:
        return problem.evaluate(x, y, features, labels)
    if problem.data and not problem.predict:
        return {}  # only the problem knows what its losses take
    if problem.lower == "personal" and problem.predict:
        rows = Rows.split(features, labels, stream(config.seed, "judged-rows"), 0.5, config.training.batch_size)
        return adapted(held, x, y, rows, num_steps=100, step=config.training.learning_rate)[1]
    with torch.no_grad():
        found = {"loss": float(held.outer_loss(x, y, Batch(features, labels)))}
    return found | ({"accuracy": held.accuracy(x, y, features, labels)} if problem.predict else {})
