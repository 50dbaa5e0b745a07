"""RABO, RAFBO and their like over Flower: the tiered strategy on what travels of a bilevel problem's x, y and v.

Each client's part of it is one submodel, |m^x| + 2|m^y| values each way (|m^x| if y is personal, 2|m^y| if x is), so
sampling, compression and the coverage-aware mean are those of every run.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from logging import INFO, WARNING

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.logger import log
from torch import Tensor

from fl_mlmc.aggregation import Mean, ServerOptimizer
from fl_mlmc.bilevel import BilevelProblem, ConvexityWatch, Held, Point
from fl_mlmc.bilevel.run import method_of, num_steps_of
from fl_mlmc.bilevel.server_step import advance
from fl_mlmc.models import Model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import RoundLog
from fl_mlmc.run.protocol import CONFIG, ProtocolError, TrainFailure, TrainUpdate
from fl_mlmc.submodels.coverage import coverage_by_tensor

from .checkpoint import ServerState
from .replies import Sent
from .scheme_server import SchemeServer
from .tiered import Evaluate, QuorumError, Row, TieredStrategy, from_arrays

WAS_HELD = "outer-was-held"
NOTHING = Point(torch.empty(0), torch.empty(0), torch.empty(0))


class FedBilevel(TieredStrategy):
    """Averages what clients say of x, y and v, and steps them: by the step sizes (RABO) or by the mean (RAFBO).

    Logs C_x* and C_y* of each round, the fewest clients that held a coordinate of x and of y, and how many coordinates
    of x no client has held yet. NotStronglyConvexError ends a run whose inner problem has no solution to speak of.
    """

    def __init__(
        self,
        config: RunConfig,
        problem: BilevelProblem,
        model: Model,
        round_log: RoundLog,
        data: str = "",
        evaluate_model: Evaluate | None = None,
        data_meta: str = "",
    ) -> None:
        super().__init__(config, model, round_log, data, evaluate_model, data_meta)
        self._held = Held.of(problem, "nested", 1.0)
        is_personal = not all(problem.travels)
        self._scheme = SchemeServer(config, model.spec.size, lambda client: self._plan(client, 1), is_personal)
        self._optimizer: _BilevelStep = _BilevelStep(config, self._held)
        self._convexity = ConvexityWatch(problem)
        self._was_held = torch.zeros(problem.outer_spec.size if problem.outer == "global" else 0, dtype=torch.bool)
        self._curvatures: list[float] = []
        self._diverged: list[float] = []

    def summary(self) -> None:
        """Say what this run is, and what travels in it."""
        sent = " + ".join(name for name, travels in zip("xyv", self._held.problem.travels, strict=True) if travels)
        log(
            INFO,
            "\t└──> problem %s by %s, %s shared",
            self.config.training.problem,
            self.config.compression.scheme,
            sent,
        )
        super().summary()

    def restore(self, state: ServerState) -> None:
        """Go on after the round of `state`."""
        scheme = dict(state.scheme)
        self._was_held = scheme.pop(WAS_HELD)
        super().restore(replace(state, scheme=scheme))

    def _kept(self) -> dict[str, Tensor]:
        return {**super()._kept(), WAS_HELD: self._was_held}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As every run, then a look at whether the inner problem can be solved."""
        self._curvatures, self._diverged = [], []
        self._optimizer.begin()
        try:
            stepped, metrics = super().aggregate_train(server_round, replies)
        except QuorumError as error:
            if self._diverged:
                seen = [curvature for curvature in self._diverged if math.isfinite(curvature)]
                raise self._convexity.diverged(server_round, min(seen, default=math.nan)) from error
            raise
        if stepped is not None:
            self._convexity.add(server_round, self._curvature, self._held.unpack(from_arrays(stepped), NOTHING))
        if server_round == self.config.num_rounds:
            self._report_uncovered()
        return stepped, metrics

    def _fold(self, sent: Sent, reply: Message | None) -> Row:
        row = super()._fold(sent, reply)
        if row["status"] == "ok":
            alike = self._scheme.scheme.has_memory or self.config.aggregation.weighting == "clients"
            weight = 1 if alike else row["num_examples"]
            self._optimizer.count(num_steps_of(self.config, row["num_examples"]), weight)
        elif (curvature := _curvature_of_failure(reply)) is not None:
            self._diverged.append(curvature)
        return row

    def _client_row(self, update: TrainUpdate) -> Row:
        if math.isfinite(update.curvature):
            self._curvatures.append(update.curvature)
        return {"curvature": update.curvature}

    def _round_row(self, result: Mean) -> Row:
        outer, inner, _ = self._held.unpack(result.coverage, NOTHING)
        self._was_held = self._was_held | (outer > 0)
        return {
            "coverage_outer_min": int(outer.min()) if len(outer) else None,
            "coverage_inner_min": int(inner.min()) if len(inner) else None,
            "outer_never_held": int((~self._was_held).sum()),
            "curvature": self._curvature,
        }

    @property
    def _curvature(self) -> float:
        return sum(self._curvatures) / len(self._curvatures) if self._curvatures else math.nan

    def _report_uncovered(self) -> None:
        if self._was_held.all():
            return
        held = coverage_by_tensor(self._held.outer.spec, self._was_held.int())
        missing = [name for name, coverage in held.items() if coverage.least == 0]
        log(WARNING, "outer coordinates that no client held in the whole run, in %s", ", ".join(missing))


class _BilevelStep(ServerOptimizer):
    """The server optimizer on the mean times the gain of x, of y and of v; v is kept in its ball."""

    def __init__(self, config: RunConfig, held: Held) -> None:
        super().__init__(
            config.aggregation.server_optimizer, config.aggregation.server_learning_rate, held.problem.state_spec.size
        )
        self._held = held
        self._method = method_of(config)
        self.begin()

    def begin(self) -> None:
        """A new round."""
        self._num_steps = self._weight = 0.0

    def count(self, num_steps: int, weight: float) -> None:
        """A client of the mean, with its local steps: the mean of updates is a step's, and their number its factor."""
        self._num_steps += weight * num_steps
        self._weight += weight

    def step(self, vector: Tensor, mean: Mean) -> Tensor:
        held = self._held
        num_steps = self._num_steps / self._weight if self._weight else 0.0  # a quorum of 0 may be met by nobody
        add = super().step

        def optimized(point: Point, change: Point) -> Point:
            return held.unpack(add(held.pack(point), Mean(held.pack(change), mean.coverage)), NOTHING)

        point, update = (held.unpack(part, NOTHING) for part in (vector, mean.update))
        return held.pack(advance(self._method, held.problem, point, update, num_steps, optimized))


def _curvature_of_failure(reply: Message | None) -> float | None:
    """What a client whose steps diverged saw along v, NaN if nothing; None for any other reply."""
    if reply is None or not reply.has_content():
        return None
    config = dict(reply.content).get(CONFIG)
    if not isinstance(config, ConfigRecord) or "failure" not in config:
        return None
    try:
        curvature = TrainFailure.from_config(config).curvature
    except ProtocolError:
        return None
    return None if math.isinf(curvature) else curvature
