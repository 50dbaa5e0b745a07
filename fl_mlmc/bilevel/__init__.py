"""Bilevel learning with both levels cut to the client: RABO and RAFBO, from first-order gradients only."""

from .base import Steps
from .convexity import ConvexityWatch, DivergenceError, NotStronglyConvexError
from .fednest import Fednest
from .hypergradient import Directions, Estimator, Exact, FiniteDifference, Penalty
from .problem import BilevelProblem, ClientData, Held, Point, Shard, cut_only
from .rabo import Rabo
from .rafbo import Rafbo
from .simulate import Trace, simulate

__all__ = [
    "BilevelProblem",
    "ClientData",
    "ConvexityWatch",
    "Directions",
    "DivergenceError",
    "Estimator",
    "Exact",
    "Fednest",
    "FiniteDifference",
    "Held",
    "NotStronglyConvexError",
    "Penalty",
    "Point",
    "Rabo",
    "Rafbo",
    "Shard",
    "Steps",
    "Trace",
    "cut_only",
    "simulate",
]
