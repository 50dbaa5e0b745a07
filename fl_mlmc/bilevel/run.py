"""What a run config says about a bilevel task, for both sides of a federated run."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from ..models import Model, build_model
from ..registry import parse_call
from ..run.config import RunConfig
from ..run.rng import stream
from .base import Method, Steps
from .fednest import Fednest
from .method import parse_bilevel
from .problem import BilevelProblem, ClientData, Held, Point, Shard, load_problem
from .quadratic import quadratic
from .rabo import Rabo
from .rafbo import Rafbo
from .tasks import Rows, adapted, hyper_cleaning, hyper_representation, log_ridge, meta_learning
from .tasks.rows import Batch


def _quadratic(
    model: Model,
    num_clients: int = 8,
    size: int = 12,
    heterogeneity: float = 1.0,
    separable: bool = False,
    lower: Literal["global", "personal"] = "global",
    noise: float = 0.0,
    seed: int = 0,
) -> BilevelProblem:
    return quadratic(num_clients, size, heterogeneity, separable, lower, noise, seed=seed).problem


PROBLEMS: Mapping[str, Callable[..., BilevelProblem]] = {
    "hyper_representation": hyper_representation,
    "hyper_cleaning": hyper_cleaning,
    "log_ridge": log_ridge,
    "meta_learning": meta_learning,
    "quadratic": _quadratic,
}
"""The problems that a run can name; each takes the run's model first."""


def problem_of(config: RunConfig, input_shape: tuple[int, ...], num_classes: int) -> BilevelProblem:
    """The run's problem. Equal arguments give the same object; ValueError if a run cannot have it."""
    problem = _problem(config.problem, config.model, input_shape, num_classes)
    if problem.num_clients not in (0, config.num_clients):
        raise ValueError(
            f"problem {config.problem!r} is stated for {problem.num_clients} clients, num-clients is "
            f"{config.num_clients}; make them equal"
        )
    if not all(problem.travels) and parse_bilevel(config.scheme).name == "fednest":
        raise ValueError(f"scheme fednest takes turns on a shared x and y; problem {config.problem!r} has its own")
    return problem


@lru_cache(maxsize=4)
def _problem(text: str, model_text: str, input_shape: tuple[int, ...], num_classes: int) -> BilevelProblem:
    model = build_model(model_text, input_shape, num_classes)
    if ":" in text:
        found = load_problem(text)
        problem = found(model) if callable(found) else found
    else:
        call = parse_call(text, PROBLEMS, "problem", given=1)
        problem = PROBLEMS[call.name](model, *call.args, **call.options)
    if not isinstance(problem, BilevelProblem):
        raise ValueError(f"problem {text!r} is a {type(problem).__name__}, expected a BilevelProblem or what makes one")
    return problem


def data_of(problem: BilevelProblem, shard: Shard) -> ClientData:
    """A client's data, as the problem wants them."""
    return problem.data(shard) if problem.data else Rows.of(shard)


def held_of(
    config: RunConfig, problem: BilevelProblem, data: ClientData, width: float, server_round: int, client: int
) -> Held:
    """What a client holds in a round, of the problem as it fits its data."""
    own = problem.of_client(data) if problem.of_client else problem
    return Held.of(own, config.width_rule, width, server_round, client, config.seed)


def method_of(config: RunConfig, num_examples: int = 1, server_round: int = 1) -> Method:
    """The method of a client with so many examples, who makes local-steps, or as many as local-epochs make of them."""
    chosen, rate = parse_bilevel(config.scheme), config.learning_rate
    steps = Steps(config.outer_learning_rate, rate, config.multiplier_learning_rate or rate)
    num_steps = num_steps_of(config, num_examples)
    if chosen.name == "rabo":
        return Rabo(steps, chosen.estimator)
    if chosen.name == "fednest":
        return Fednest.of_round(server_round, num_steps, steps)
    return Rafbo(num_steps, steps, chosen.estimator)


def num_steps_of(config: RunConfig, num_examples: int) -> int:
    """Local steps of a client with so many examples."""
    if parse_bilevel(config.scheme).name == "rabo":
        return 1
    return config.local_steps or config.local_epochs * math.ceil(num_examples / config.batch_size)


@dataclass(frozen=True, eq=False)
class StateModel(Model):
    """What travels of x, y and v as the one vector that a strategy averages; no module has its shape."""

    start: Callable[[int], Tensor] = torch.zeros

    def initial(self, seed: int) -> Tensor:
        """The state before the first round."""
        return self.start(seed)


def state_model(config: RunConfig, problem: BilevelProblem) -> StateModel:
    """The state of a run's problem: what travels, one after the other."""

    def build(units: Mapping[str, int]) -> torch.nn.Module:
        raise TypeError("the state of a bilevel problem is no module")

    held = Held.of(problem, "nested", 1.0)
    return StateModel(build, problem.state_spec, start=lambda seed: held.pack(first_point(config, problem, seed)))


def first_point(config: RunConfig, problem: BilevelProblem, seed: int) -> Point:
    """x, y and v before the first round."""
    x, y = problem.start(seed)
    return Point(x, y, parse_bilevel(config.scheme).estimator.first_multiplier(y))


def metrics(
    config: RunConfig, problem: BilevelProblem, state: Tensor, features: Tensor, labels: Tensor
) -> Mapping[str, float]:
    """What the problem makes of the test split; by default the outer loss and, if it predicts, the accuracy.

    Where y is personal, those of a y fitted to a random half of these examples, on the other half.
    """
    held = Held.of(problem, "nested", 1.0)
    x, y, _ = held.unpack(state, first_point(config, problem, config.seed))
    if problem.evaluate:
        return problem.evaluate(x, y, features, labels)
    if problem.data and not problem.predict:
        return {}  # only the problem knows what its losses take
    if problem.lower == "personal" and problem.predict:
        rows = Rows.split(features, labels, stream(config.seed, "judged-rows"), 0.5, config.batch_size)
        return adapted(held, x, y, rows, num_steps=100, step=config.learning_rate)[1]
    with torch.no_grad():
        found = {"loss": float(held.outer_loss(x, y, Batch(features, labels)))}
    return found | ({"accuracy": held.accuracy(x, y, features, labels)} if problem.predict else {})
