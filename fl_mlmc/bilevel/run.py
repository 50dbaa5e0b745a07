"""What a run config says about a bilevel task, for both sides of a federated run."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..config import RunConfig
from ..models import Model, build_model
from ..spec import parse_call
from .problem import BilevelProblem, Held, Point, load_problem
from .rabo import Rabo, Steps
from .rafbo import Rafbo
from .tasks import hyper_representation, log_ridge
from .tasks.rows import Batch

PROBLEMS: Mapping[str, Callable[..., BilevelProblem]] = {
    "hyper_representation": hyper_representation,
    "log_ridge": log_ridge,
}
"""The problems that a run can name; each takes the run's model first."""


def problem_of(config: RunConfig, input_shape: tuple[int, ...], num_classes: int) -> BilevelProblem:
    """The run's problem. Equal arguments give the same object; ValueError if a run cannot have it."""
    return _problem(config.problem, config.model, input_shape, num_classes)


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
    if problem.lower != "global":
        raise ValueError(
            f"problem {text!r} has a personal lower problem, whose y would have to outlive a round on its client. "
            "Federated runs have no such memory yet: use lower='global', or fl_mlmc.bilevel.simulate"
        )
    return problem


def scheme_of(config: RunConfig, num_examples: int = 1) -> Rabo | Rafbo:
    """RABO, or RAFBO with local-steps; without these, as many steps as local-epochs make of so many examples."""
    rate = config.learning_rate
    steps = Steps(config.outer_learning_rate, rate, config.multiplier_learning_rate or rate)
    if config.scheme == "rabo":
        return Rabo(steps)
    return Rafbo(config.local_steps or config.local_epochs * math.ceil(num_examples / config.batch_size), steps)


@dataclass(frozen=True, eq=False)
class StateModel(Model):
    """x, y and v as the one vector that a strategy averages; no module has their shape."""

    start: Callable[[int], Tensor] = torch.zeros

    def initial(self, seed: int) -> Tensor:
        """The state before the first round."""
        return self.start(seed)


def state_model(problem: BilevelProblem) -> StateModel:
    """The state of a problem: its x, its y and v = 0, one after the other."""

    def build(units: Mapping[str, int]) -> torch.nn.Module:
        raise TypeError("the state of a bilevel problem is no module")

    def start(seed: int) -> Tensor:
        x, y = problem.start(seed)
        return torch.cat((x, y, torch.zeros_like(y)))

    return StateModel(build, problem.state_spec, start=start)


def split_state(held: Held, state: Tensor) -> Point:
    """x, y and v out of the vector that travels."""
    return Point(*state.split([held.outer.size, held.inner.size, held.inner.size]))


def metrics(problem: BilevelProblem, state: Tensor, features: Tensor, labels: Tensor) -> Mapping[str, float]:
    """The outer loss on these examples and, if the problem predicts, the accuracy."""
    held = Held.of(problem, "nested", 1.0)
    x, y, _ = split_state(held, state)
    with torch.no_grad():
        found = {"loss": float(held.outer_loss(x, y, Batch(features, labels)))}
    return found | ({"accuracy": held.accuracy(x, y, features, labels)} if problem.predict else {})
