"""A bilevel problem: minimise F(x) = mean f_i(x, y*(x)) where y*(x) minimises the strongly convex g_i(x, ·).

It is stated as two losses of named tensors. `lower = "global"`: one y for all clients, y* = argmin mean g_i.
`lower = "personal"`: every client has its own y_i* = argmin g_i, which never leaves it. `outer = "personal"`: every
client has its own x, such as a weight for each of its examples, and y alone is shared.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..submodels import IndexPlan, WidthSpec, plan

Tensors = Mapping[str, Tensor]
Loss = Callable[[Tensors, Tensors, Any], Tensor]
"""(x, y, batch) to a scalar."""


class Point(NamedTuple):
    """Outer x (m,), inner y (n,) and the multiplier v (n,), each flat; v solves ∇²_yy g · v = ∇_y f.

    The same three of a change, a step or a mean; of a client's own, cut part, (|m^x|,), (|m^y|,), (|m^y|,). All are of
    one dtype, float32 in federated runs.
    """

    x: Tensor
    y: Tensor
    v: Tensor


class ClientData(Protocol):
    """One client's examples: fresh minibatches for the two losses, in whatever form these take them."""

    @property
    def num_examples(self) -> int:
        """The client's weight in the mean of a federated run."""
        ...

    def inner(self, rng: np.random.Generator) -> Any:
        """A minibatch for the inner loss."""
        ...

    def outer(self, rng: np.random.Generator) -> Any:
        """A minibatch for the outer loss, of other examples where the problem divides them."""
        ...


class Shard(NamedTuple):
    """What a run gives one client: its examples, and what the run config says of sharing them out and drawing them.

    `features` (examples, *input shape) float32, `labels` (examples,) int64.
    """

    client: int
    """Its number, from 0."""
    features: Tensor
    labels: Tensor
    seed: int = 0
    outer_share: float = 0.5
    """The part of the examples that is for the outer loss."""
    batch_size: int = 32
    """Examples of a minibatch, of either loss."""


@dataclass(frozen=True, eq=False)
class BilevelProblem:
    """Two losses, and how their tensors are cut to a width.

    Hidden dimensions of the same name in both specs are one: the inputs of an inner head follow the outer backbone's
    outputs. With `sliced` the losses get tensors of the submodel's shapes; without, full shapes that are zero outside
    of the submodel, for losses that cannot be evaluated otherwise. ValueError if options are out of range, contradict
    each other, or the specs disagree on a hidden dimension's units.
    """

    outer_loss: Loss
    """f_i, of x and y by tensor name and a minibatch of `ClientData.outer`, to a scalar; differentiable once."""
    inner_loss: Loss
    """g_i, likewise, on a minibatch of `ClientData.inner`."""
    outer_spec: WidthSpec
    """The tensors of x, m coordinates in all."""
    inner_spec: WidthSpec
    """The tensors of y, n coordinates in all; v has the same."""
    strong_convexity: float = 0.0
    """λ: (λ/2)‖y‖² is added to `inner_loss`, which makes a convex one λ-strongly convex. 0: it is so by itself."""
    lower: Literal["global", "personal"] = "global"
    """Whether all clients share y and v, or each has its own."""
    outer: Literal["global", "personal"] = "global"
    """Likewise of x."""
    outer_gradient_bound: float = math.inf
    """A bound B on ‖∇_y f‖: v is kept in the ball of radius B / λ, where its solution lies."""
    sliced: bool = True
    initial: Callable[[int], tuple[Tensor, Tensor]] | None = None
    """The flat x and y at the start, from a seed; zeros if not given."""
    predict: Callable[[Tensors, Tensors, Tensor], Tensor] | None = None
    """(x, y, features) to logits, for tasks that are evaluated by accuracy."""
    data: Callable[[Shard], ClientData] | None = None
    """A client's data in a run; its examples split in two (`tasks.Rows`) if not given."""
    of_client: Callable[[Any], "BilevelProblem"] | None = None
    """The same problem with a personal x that fits this client's data, if its size depends on them."""
    evaluate: Callable[[Tensor, Tensor, Tensor, Tensor], Mapping[str, float]] | None = None
    """(x, y, features, labels) of the test split to metrics, for a run's log; loss and accuracy if not given."""
    num_clients: int = 0
    """How many clients the problem is stated for; 0: any number."""

    def __post_init__(self) -> None:
        for name in ("lower", "outer"):
            if (value := getattr(self, name)) not in ("global", "personal"):
                raise ValueError(f"{name} is 'global' or 'personal', got {value!r}")
        if self.lower == self.outer == "personal":
            raise ValueError("lower and outer are both 'personal': clients would share nothing; make one 'global'")
        if not 0 <= self.strong_convexity < math.inf:
            raise ValueError(f"strong_convexity is a number of at least 0, got {self.strong_convexity}")
        if not self.outer_gradient_bound > 0:
            raise ValueError(f"outer_gradient_bound is positive, got {self.outer_gradient_bound}")
        for name in self.outer_spec.units.keys() & self.inner_spec.units.keys():
            outer, inner = self.outer_spec.units[name], self.inner_spec.units[name]
            if outer != inner:
                raise ValueError(f"hidden dimension {name!r} has {outer} units in x and {inner} in y; they are one")

    @property
    def multiplier_bound(self) -> float:
        """The radius of the ball that v is kept in; infinite where nothing is known."""
        return self.outer_gradient_bound / self.strong_convexity if self.strong_convexity else math.inf

    @property
    def travels(self) -> tuple[bool, bool, bool]:
        """Whether x, y and v are shared; what is personal stays with its client."""
        return self.outer == "global", self.lower == "global", self.lower == "global"

    @cached_property
    def state_spec(self) -> WidthSpec:
        """The spec of what travels, in one vector: x, y and v, or x alone, or y and v."""
        specs = self.outer_spec, self.inner_spec, self.inner_spec
        parts = {name: spec for name, spec, sent in zip("xyv", specs, self.travels, strict=True) if sent}
        return WidthSpec(
            {**self.inner_spec.units, **self.outer_spec.units},
            {f"{part}.{name}": shape for part, spec in parts.items() for name, shape in spec.shapes.items()},
            {f"{part}.{name}": axes for part, spec in parts.items() for name, axes in spec.axes.items()},
            {f"{part}.{name}": need for part, spec in parts.items() for name, need in spec.needs.items()},
        )

    def start(self, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """x (m,) and y (n,) before the first round, flat, in `dtype`; `seed` decides what is drawn."""
        if self.initial is None:
            return torch.zeros(self.outer_spec.size, dtype=dtype), torch.zeros(self.inner_spec.size, dtype=dtype)
        x, y = self.initial(seed)
        return x.to(dtype), y.to(dtype)


@dataclass(frozen=True, eq=False)
class Held:
    """What one client holds in one round, as plans for x and for y (and v).

    Below m and n are the sizes of the full x and y, |m^x| and |m^y| those of the client's parts.
    """

    problem: BilevelProblem
    outer: IndexPlan
    """Of x: |m^x| of m coordinates."""
    inner: IndexPlan
    """Of y and of v: |m^y| of n coordinates."""

    @classmethod
    def of(
        cls, problem: BilevelProblem, rule: str, width: float, server_round: int = 0, client: int = 0, seed: int = 0
    ) -> "Held":
        """By a width rule, at a `width` in (0, 1]; ValueError if `rule` is unknown.

        Units of a dimension are drawn by its name, so x and y keep the same ones.
        """
        specs = problem.outer_spec, problem.inner_spec
        return cls(problem, *(plan(spec, rule, width, server_round, client, seed) for spec in specs))

    @property
    def plans(self) -> tuple[IndexPlan, IndexPlan, IndexPlan]:
        """Those of x, y and v."""
        return self.outer, self.inner, self.inner

    @property
    def num_values(self) -> int:
        """What a client uploads in a round: |m^x| + 2|m^y| values, |m^x| if y is personal, 2|m^y| if x is."""
        return sum(plan.size for plan, sent in zip(self.plans, self.problem.travels, strict=True) if sent)

    def gather(self, point: Point) -> Point:
        """The client's part of a full point: (m,), (n,), (n,) to (|m^x|,), (|m^y|,), (|m^y|,)."""
        return Point(*(plan.gather(part) for plan, part in zip(self.plans, point, strict=True)))

    def scatter(self, point: Point) -> Point:
        """A client's part in its places of a full point, zeros around it: the adjoint of `gather`."""
        full = Point(*(part.new_zeros(own.spec.size) for own, part in zip(self.plans, point, strict=True)))
        for own, part, out in zip(self.plans, point, full, strict=True):
            own.scatter_add(out, part)
        return full

    def pack(self, point: Point) -> Tensor:
        """What travels of a client's part, as one vector (num_values,): x, y and v, x alone, or y and v."""
        return torch.cat([part for part, sent in zip(point, self.problem.travels, strict=True) if sent])

    def unpack(self, vector: Tensor, own: Point) -> Point:
        """What `pack` packed, with the parts of `own` that do not travel; RuntimeError unless it is (num_values,)."""
        sizes = [plan.size if sent else 0 for plan, sent in zip(self.plans, self.problem.travels, strict=True)]
        parts = zip(vector.split(sizes), own, self.problem.travels, strict=True)
        return Point(*(part if sent else mine for part, mine, sent in parts))

    def inner_loss(self, x: Tensor, y: Tensor, batch: Any) -> Tensor:
        """g_i at the client's own x (|m^x|,) and y (|m^y|,), (λ/2)‖y‖² included: a scalar for autograd."""
        loss = self.problem.inner_loss(*self._tensors(x, y), batch)
        return loss + 0.5 * self.problem.strong_convexity * y.square().sum() if self.problem.strong_convexity else loss

    def outer_loss(self, x: Tensor, y: Tensor, batch: Any) -> Tensor:
        """f_i at the client's own x (|m^x|,) and y (|m^y|,): a scalar for autograd."""
        return self.problem.outer_loss(*self._tensors(x, y), batch)

    def accuracy(self, x: Tensor, y: Tensor, features: Tensor, labels: Tensor) -> float:
        """The share of examples, in [0, 1], that the problem's `predict` gets right.

        `features` (examples, *input shape), `labels` (examples,). ValueError if the problem predicts nothing.
        """
        if self.problem.predict is None:
            raise ValueError("this problem has no `predict`, so there is no accuracy")
        with torch.no_grad():
            logits = self.problem.predict(*self._tensors(x, y), features)
        return float((logits.argmax(1) == labels).double().mean())

    def _tensors(self, x: Tensor, y: Tensor) -> tuple[Tensors, Tensors]:
        if self.problem.sliced:
            return named(self._specs[0], x), named(self._specs[1], y)
        full = (
            part if plan.is_full else part.new_zeros(plan.spec.size).index_copy(0, places, part)
            for part, plan, places in zip((x, y), (self.outer, self.inner), self._places, strict=True)
        )
        return named(self.outer.spec, next(full)), named(self.inner.spec, next(full))

    @cached_property
    def _specs(self) -> tuple[WidthSpec, WidthSpec]:
        return self.outer.own_spec, self.inner.own_spec

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        return self.outer.indices, self.inner.indices


def named(spec: WidthSpec, vector: Tensor) -> dict[str, Tensor]:
    """Views of a flat vector (spec.size,) as the tensors of `spec`, by name; RuntimeError at another size."""
    parts = vector.split([math.prod(shape) for shape in spec.shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(spec.shapes.items(), parts, strict=True)}


def cut_only(problem: BilevelProblem, which: Literal["outer", "inner"]) -> BilevelProblem:
    """The ablation in which clients cut x alone ("outer"), or y alone ("inner"), and hold the other whole."""
    spec = problem.inner_spec if which == "outer" else problem.outer_spec
    whole = WidthSpec({}, spec.shapes, {name: (None,) * len(shape) for name, shape in spec.shapes.items()})
    changed = {"inner_spec" if which == "outer" else "outer_spec": whole}
    return replace(problem, sliced=False, **changed)  # type: ignore[arg-type]
