"""What the text of `scheme` says of a bilevel run: "rabo", "rafbo(estimator=penalty)", "rabo(uploads=ef21)", "fednest".

Estimators: `finite_difference(epsilon=0.01)`, `penalty(delta=0.01)`, `exact`. `uploads` is the rule by which what is
found travels: any scheme of `fl_mlmc.schemes` that federated runs have, such as "ef21_sgdm" for a biased compressor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .. import own, registry
from ..schemes import SCHEMES, Scheme
from ..schemes.direct import Direct
from .hypergradient import Estimator, Exact, FiniteDifference, Penalty

ESTIMATORS: Mapping[str, Callable[..., Any]] = {
    "finite_difference": FiniteDifference,
    "penalty": Penalty,
    "exact": Exact,
}


@dataclass(frozen=True)
class BilevelScheme:
    """A bilevel method by name, its estimator, and the rule of its uploads.

    `name` is a key of `METHODS`. ValueError if `uploads` is no scheme, or `estimator` no estimator.
    """

    name: str
    uploads: Scheme = field(default_factory=Direct)
    estimator: Estimator = field(default_factory=FiniteDifference)

    def __post_init__(self) -> None:
        if not isinstance(self.uploads, Scheme):
            raise ValueError(f"uploads of {self.name} is a scheme ({', '.join(sorted(SCHEMES))}), got {self.uploads!r}")
        if not isinstance(self.estimator, tuple(ESTIMATORS.values())):  # type: ignore[arg-type]
            raise ValueError(f"estimator of {self.name} is one of {', '.join(ESTIMATORS)}, got {self.estimator!r}")


def _rabo(uploads: Any = None, estimator: Any = None) -> BilevelScheme:
    return BilevelScheme("rabo", uploads or Direct(), estimator or FiniteDifference())


def _rafbo(uploads: Any = None, estimator: Any = None) -> BilevelScheme:
    return BilevelScheme("rafbo", uploads or Direct(), estimator or FiniteDifference())


def _fednest() -> BilevelScheme:
    return BilevelScheme("fednest")


METHODS: Mapping[str, Callable[..., BilevelScheme]] = {"rabo": _rabo, "rafbo": _rafbo, "fednest": _fednest}


def is_bilevel(text: str) -> bool:
    """Whether the text of a scheme names a bilevel method."""
    return text.partition("(")[0].strip() in METHODS


def parse_bilevel(text: str) -> BilevelScheme:
    """The method that `text` names; ValueError on unknown names and options, with the known ones."""
    return _parsed(text, own.versions(text))


@lru_cache(maxsize=16)
def _parsed(text: str, versions: tuple[object, ...]) -> BilevelScheme:
    return registry.build(text, {**METHODS, **ESTIMATORS, **SCHEMES}, "scheme", Scheme, own.EVERY)
