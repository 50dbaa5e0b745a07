"""RABO, RAFBO and their like over Flower: the tiered strategy on what travels of a bilevel problem's x, y and v.

Each client's part of it is one submodel, |m^x| + 2|m^y| values each way (|m^x| if y is personal, 2|m^y| if x is), so
sampling, compression and the coverage-aware mean are those of every run.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from logging import INFO, WARNING

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.common.logger import log
from torch import Tensor

from fl_mlmc.aggregation import Mean
from fl_mlmc.bilevel import BilevelProblem, ConvexityWatch, Held, Point
from fl_mlmc.bilevel.run import method_of, num_steps_of
from fl_mlmc.bilevel.server_step import advance
from fl_mlmc.models import Model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import RoundLog
from fl_mlmc.submodels.coverage import coverage_by_tensor

from .checkpoint import ServerState
from .round import Answer, OpenRound, Row
from .summing import Summed
from .tiered import Evaluate, QuorumError, TieredStrategy, from_arrays

WAS_HELD = "outer-was-held"
NOTHING = Point(torch.empty(0), torch.empty(0), torch.empty(0))


class FedBilevel(TieredStrategy):
    """Averages what clients say of x, y and v, and steps them: by the step sizes (RABO) or by the mean (RAFBO).

    Logs C_x* and C_y* of each round, the fewest clients that held a coordinate of x and of y, and how many coordinates
    of x no client has held yet. NotStronglyConvexError ends a run whose inner problem has no solution to speak of.

    Parameters
    ----------
    config : RunConfig
        As in `TieredStrategy`, of task "bilevel": scheme and problem say which method steps what.
    problem : BilevelProblem
        The outer and the inner loss, and which of x, y and v travel; what does not is kept by clients.
    model : Model
        The state of the problem: what travels of x, y and v, one after the other, as `state_model` makes it.
    round_log, data, evaluate_model, data_meta
        As in `TieredStrategy`; `evaluate_model` gets the state's flat vector.
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
        is_personal = not all(problem.travels)
        super().__init__(config, model, round_log, data, evaluate_model, data_meta, remembers=is_personal)
        self._held = Held.of(problem, "nested", 1.0)
        self._method = method_of(config)
        self._convexity = ConvexityWatch(problem, config.cohort.num_clients)
        self._was_held = torch.zeros(problem.outer_spec.size if problem.outer == "global" else 0, dtype=torch.bool)

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
        self, server_round: int, replies: Iterable[Message | Summed]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As every run, then a look at whether the inner problem can be solved."""
        try:
            stepped, metrics = super().aggregate_train(server_round, replies)
        except QuorumError as error:
            missing = [answer for answer in self._opened.answers if answer.update is None]
            failures = [answer.failure for answer in missing if answer.failure is not None]
            diverged = [failure.curvature for failure in failures if not math.isinf(failure.curvature)]
            if 2 * len(diverged) > len(missing):  # otherwise it is not what ends the run
                raise self._convexity.diverged(server_round, diverged) from error
            raise
        if stepped is not None:
            point = self._held.unpack(from_arrays(stepped), NOTHING)
            seen = {update.client: update.curvature for update in self._opened.taken}
            self._convexity.add(server_round, seen, point)
        if server_round == self.config.num_rounds:
            self._report_uncovered()
        return stepped, metrics

    def _step(self, opened: OpenRound, mean: Mean) -> Tensor:
        """The server optimizer on the mean times the gain of x, of y and of v; v is kept in its ball."""
        held = self._held

        def optimized(point: Point, change: Point) -> Point:
            packed = Mean(held.pack(change), mean.coverage)
            return held.unpack(self._optimizer.step(held.pack(point), packed), NOTHING)

        point, update = (held.unpack(part, NOTHING) for part in (opened.vector, mean.update))
        return held.pack(advance(self._method, held.problem, point, update, self._num_steps(opened), optimized))

    def _num_steps(self, opened: OpenRound) -> float:
        """Local steps of the mean's clients, weighted as their updates are."""
        alike = self._scheme.scheme.has_memory or self.config.aggregation.weighting == "clients"
        counts = [update.num_examples for update in opened.taken]
        weights = [1 if alike else count for count in counts]
        total = sum(weight * num_steps_of(self.config, count) for weight, count in zip(weights, counts, strict=True))
        return total / sum(weights) if counts else 0.0  # a quorum of 0 may be met by nobody

    def _client_row(self, answer: Answer) -> Row:
        if answer.update is not None:
            return {"curvature": answer.update.curvature}
        if answer.failure is not None and not math.isinf(answer.failure.curvature):  # its steps diverged
            return {"curvature": answer.failure.curvature}
        return {}

    def _round_row(self, opened: OpenRound, mean: Mean, client_rows: list[Row]) -> Row:
        outer, inner, _ = self._held.unpack(mean.coverage, NOTHING)
        self._was_held = self._was_held | (outer > 0)
        measured = [update.curvature for update in opened.taken if math.isfinite(update.curvature)]
        return super()._round_row(opened, mean, client_rows) | {
            "coverage_outer_min": int(outer.min()) if len(outer) else None,
            "coverage_inner_min": int(inner.min()) if len(inner) else None,
            "outer_never_held": int((~self._was_held).sum()),
            "curvature": sum(measured) / len(measured) if measured else math.nan,
        }

    def _report_uncovered(self) -> None:
        if self._was_held.all():
            return
        held = coverage_by_tensor(self._held.outer.spec, self._was_held.int())
        missing = [name for name, coverage in held.items() if coverage.least == 0]
        log(WARNING, "outer coordinates that no client held in the whole run, in %s", ", ".join(missing))
