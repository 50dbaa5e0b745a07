"""The problems that a run can name: "hyper_cleaning", "quadratic(size=12)", or one's own as file.py:object."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Literal

from .. import own
from ..models import Model, build_model
from ..registry import Call, parse_call
from .problem import BilevelProblem
from .quadratic import quadratic
from .tasks import hyper_cleaning, hyper_representation, log_ridge, meta_learning


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


def check_problem(text: str) -> None:
    """ValueError if `text` names no problem: none of `PROBLEMS`, nor one of the user's own by "file.py:object"."""
    _parse(text)


def build_problem(text: str, model_text: str, input_shape: tuple[int, ...], num_classes: int) -> BilevelProblem:
    """The problem that `text` names, over the model that `model_text` names.

    `input_shape` is that of an example, such as (1, 8, 8). Equal arguments give the same object, until the file of a
    part of the user's own changes. ValueError if there is no such problem, or what is found is none.
    """
    return _build(text, model_text, input_shape, num_classes, own.versions(text) + own.versions(model_text))


@lru_cache(maxsize=4)
def _build(
    text: str, model_text: str, input_shape: tuple[int, ...], num_classes: int, versions: tuple[object, ...]
) -> BilevelProblem:
    problem = _parse(text)(build_model(model_text, input_shape, num_classes))
    if not isinstance(problem, BilevelProblem):
        raise ValueError(f"problem {text!r} is a {type(problem).__name__}, expected a BilevelProblem or what makes one")
    return problem


def _parse(text: str) -> Call:
    return parse_call(text, PROBLEMS, "problem", given=1, follow=own.EVERY)
