"""The strategy that all share: submodels by tier out, compressed updates back, a coverage-aware mean between."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from logging import INFO, WARNING
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from fl_mlmc.aggregation import Ledger, Mean, NotFiniteError, ServerOptimizer
from fl_mlmc.aggregation.ledger import RELEASES
from fl_mlmc.aggregation.private import secret_generator
from fl_mlmc.models import Model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import RoundLog
from fl_mlmc.run.protocol import ANCHOR, ARRAYS, CONFIG, MOVEMENT, PAYLOAD_STYPE, TrainTask, TrainUpdate, printable
from fl_mlmc.run.rng import stream
from fl_mlmc.submodels import IndexPlan, plan
from fl_mlmc.submodels.coverage import CoverageWatch, coverage_by_tensor, guarded_cohort
from fl_mlmc.submodels.tier import Tier
from fl_mlmc.training.threads import threads

from .broadcast import Broadcast
from .checkpoint import CHECKPOINT, ServerState, save_state
from .device_grid import DeviceGrid
from .replies import Sent, blank_row, in_client_order, read_update, sizes
from .roster import Roster
from .scheme_server import SchemeServer

Row = dict[str, Any]
Evaluate = Callable[[Tensor], Mapping[str, float]]
"""Metrics of a global model, given as a flat vector: loss, accuracy, …"""

MODEL = "model"
"""The key of the one array that holds the global model: flat, float32."""


MEMORIES = "memories"
"""The folder of a run's directory where clients on this disk keep their memories."""


class QuorumError(RuntimeError):
    """A round got fewer good replies than the run config demands."""


class TieredStrategy(Strategy):
    """Every round: sample a cohort, send each client the submodel of its tier, decode and average the updates.

    Replies that break a rule are dropped and logged with the reason; the round goes on. Fewer good replies than the
    quorum end the run (`QuorumError`), as does a step that would make the model infinite (`NotFiniteError`): what was
    before the round is then the checkpoint. Pass `evaluate` to `start` as `evaluate_fn`: it also closes a round's log.
    """

    def __init__(
        self,
        config: RunConfig,
        model: Model,
        round_log: RoundLog,
        data: str = "",
        evaluate_model: Evaluate | None = None,
        data_meta: str = "",
    ) -> None:
        self.config = config
        self.model = model
        self.round_log = round_log
        self.roster = Roster(
            config.cohort.tier_list,
            config.cohort.num_clients,
            config.seed,
            config.cohort.tier_assignment,
            data,
            data_meta,
            round_log.append_refused,
        )
        self._watch = CoverageWatch(model.spec)
        self._data, self._data_meta = data, data_meta
        self._evaluate_model = evaluate_model
        self._optimizer = ServerOptimizer(
            config.aggregation.server_optimizer, config.aggregation.server_learning_rate, model.spec.size
        )
        self._private = config.privacy.of(config.cohort)
        self._ledger = Ledger(round_log.directory / RELEASES) if self._private else None
        self._scheme = SchemeServer(config, model.spec.size, lambda client: self._plan(client, 1), ledger=self._ledger)
        self._broadcast = Broadcast(config.compression, config.seed)
        self._vector = torch.empty(0)
        self._sent: dict[int, Sent] = {}
        self._row: Row = {}
        self._started = 0.0
        self._cumulative_uplink_bytes = 0
        self._rounds_done = 0
        self._round_saved = 0
        self._num_late = 0

    def summary(self) -> None:
        """Say what this run is."""
        cohort, compression = self.config.cohort, self.config.compression
        for line in (
            f"model {self.config.training.model}: {self.model.spec.size:,} parameters",
            f"clients {cohort.num_clients}, {cohort.clients_per_round} a round, tiers {cohort.tiers}",
            f"compressor {compression.compressor}",
            f"downlink {compression.downlink_scheme} {compression.downlink_compressor}",
            f"scheme {self._scheme.scheme!r}",
            f"log {self.round_log.directory}",
        ):
            log(INFO, "\t└──> %s", line)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Flower's loop of rounds with a checkpoint at the end of each, from the one after `restore`."""
        self.summary()
        result = Result(arrays=initial_arrays)
        for server_round in range(self._rounds_done + 1, num_rounds + 1):
            log(INFO, "[ROUND %s/%s]", server_round, num_rounds)
            before = self._state_after(server_round - 1, from_arrays(result.arrays))
            try:
                messages = self.configure_train(server_round, result.arrays, train_config or ConfigRecord(), grid)
                replies = self._replies(grid, messages, timeout)
                stepped, _ = self.aggregate_train(server_round, replies)
            except (QuorumError, NotFiniteError):
                self._save(before)
                raise
            result.arrays = stepped or result.arrays
            if evaluate_fn and (metrics := evaluate_fn(server_round, result.arrays)):
                result.evaluate_metrics_serverapp[server_round] = metrics
            if server_round % self.config.output.checkpoint_every == 0 or server_round == num_rounds:
                self._save(self._state_after(server_round, from_arrays(result.arrays)))
        return result

    def _replies(self, grid: Grid, messages: Iterable[Message], timeout: float) -> Iterable[Message]:
        if not isinstance(grid, DeviceGrid):
            if self.config.cohort.over_sampling:
                raise ValueError("over-sampling is for real devices, of which some get lost; a simulation loses none")
            return grid.send_and_receive(messages, timeout=timeout)
        self._num_late = grid.take_late()
        return grid.collect(
            messages, timeout, self.config.cohort.clients_per_round if self.config.cohort.over_sampling else 0
        )

    def restore(self, state: ServerState) -> None:
        """Go on after the round of `state`; pass its vector to `start`."""
        self._rounds_done = self._round_saved = state.server_round
        self._cumulative_uplink_bytes = state.cumulative_uplink_bytes
        self._optimizer.restore(state.optimizer)
        self._scheme.restore(state.scheme)
        self._broadcast.restore(state.scheme)

    def _kept(self) -> dict[str, Tensor]:
        """What must outlive the process beside the model and the optimizer."""
        return {**self._scheme.state(), **self._broadcast.state()}

    def _state_after(self, server_round: int, vector: Tensor) -> ServerState:
        """All that the next round depends on; that round changes nothing of it."""
        sizes, uplink_bytes = self.round_log.sizes(), self._cumulative_uplink_bytes
        optimizer, scheme = self._optimizer.state(), self._kept()
        num_releases = 0 if self._ledger is None else len(self._ledger)
        return ServerState(server_round, vector, optimizer, uplink_bytes, sizes, scheme, num_releases)

    def _save(self, state: ServerState) -> None:
        """Make `state` the checkpoint, unless it is already, or nothing has been done yet."""
        if state.server_round == self._round_saved:
            return
        save_state(self.round_log.directory / CHECKPOINT, self.model.spec, state)
        self._round_saved = state.server_round
        self._scheme.saved()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """A message for each client of the round's cohort, in ascending order of client number."""
        self._started = time.perf_counter()
        self._vector = from_arrays(arrays)
        if self.roster.is_empty:
            # A memory's share counts all clients; other runs begin without devices that are down.
            is_real = isinstance(grid, DeviceGrid)
            least = self._least if is_real and not self._scheme.scheme.has_memory else None
            self.roster.wait(grid, least, max(60.0, self.config.cohort.round_timeout) if is_real else 60.0)
            self._scheme.meet(self.roster.clients, lambda client: self.roster.seat(client).tier)
        self.roster.refresh(grid)
        if len(self.roster.clients) < self._least:
            self.roster.wait(grid, self._least, self.config.cohort.round_timeout)
        self._sent = {}
        return self._messages(server_round)

    @property
    def _least(self) -> int:
        return self.config.cohort.least_replies(self.config.cohort.clients_per_round)

    def _messages(self, server_round: int) -> Iterator[Message]:
        cohort = self._scheme.active(self._cohort(server_round))
        self._broadcast.start(server_round, self._scheme.start(server_round, cohort, self._vector))
        for client in cohort:
            seat = self.roster.seat(client, server_round)
            own = self._plan(client, server_round)
            payloads = dict(self._broadcast.arrays(own))
            if moved := self._scheme.movement(client):
                payloads[MOVEMENT] = moved
            task = self._task(client, seat.tier, server_round)
            downlink_bytes = sum(map(len, payloads.values()))
            self._sent[client] = Sent(task, seat, own, downlink_bytes, len(payloads.get(ANCHOR, b"")))
            arrays = {name: Array("float32", (own.size,), PAYLOAD_STYPE, payload) for name, payload in payloads.items()}
            content = RecordDict({ARRAYS: ArrayRecord(arrays), CONFIG: ConfigRecord(task.to_config())})
            yield Message(
                content,
                dst_node_id=seat.node_id,
                message_type=MessageType.TRAIN,
                group_id=f"{server_round}/{client}",  # comes back on error replies too
                ttl=2 * self.config.cohort.round_timeout,  # what is late is counted, if it is not later than this
            )

    def _task(self, client: int, tier: Tier, server_round: int) -> TrainTask:
        state = str(self.round_log.directory / MEMORIES) if self._scheme.remembers else ""
        turn = self._scheme.turn(client)
        meta = self._data_meta
        return TrainTask(server_round, client, tier.name, tier.width, self._data, state, data_meta=meta, **turn)

    def _cohort(self, server_round: int) -> list[int]:
        clients = self.roster.clients
        count = min(self.config.cohort.num_asked, len(clients))
        if self._private:
            # From all, wherever they are: the privacy of a sample counts on its being uniform, and a secret.
            drawn = secret_generator().choice(
                self.config.cohort.num_clients, self.config.cohort.clients_per_round, replace=False
            )
            return sorted(set(drawn.tolist()).intersection(clients))
        rng = stream(self.config.seed, "cohort", server_round)
        if self.config.cohort.least_coverage == 0:
            return sorted(clients[index] for index in rng.choice(len(clients), count, replace=False))
        order = [clients[index] for index in rng.permutation(len(clients))]
        return guarded_cohort(
            order, count, lambda client: self._plan(client, server_round), self.config.cohort.least_coverage
        )

    def _plan(self, client: int, server_round: int) -> IndexPlan:
        width = self.roster.seat(client, server_round).tier.width
        return plan(self.model.spec, self.config.cohort.width_rule, width, server_round, client, self.config.seed)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the good updates and step the model; every sampled client gets its row in the log."""
        rows: list[Row] = []
        aggregating = _Stopwatch()
        with threads():  # an engine's clients compute meanwhile, on all processors
            for client, reply in in_client_order(self._sent, replies):
                with aggregating:
                    rows.append(self._fold(self._sent[client], reply))
        self.round_log.append_clients(rows)
        num_ok = sum(row["status"] == "ok" for row in rows)
        with aggregating:
            result = self._scheme.estimate(self._vector)
        uplink_bytes = sum(row["payload_bytes"] for row in rows)
        self._cumulative_uplink_bytes += uplink_bytes
        self._row = {
            "round": server_round,
            "num_sampled": len(rows),
            "num_ok": num_ok,
            "num_late": self._num_late,
            "coverage_min": int(result.coverage.min()),
            "coverage_mean": int(result.coverage.sum()) / result.coverage.numel(),
            "uplink_bytes": uplink_bytes,
            "downlink_bytes": sum(row["downlink_bytes"] for row in rows),
            "cumulative_uplink_bytes": self._cumulative_uplink_bytes,
            "simulated_seconds": max((row["simulated_seconds"] or 0.0 for row in rows), default=None),
            "update_norm": float(torch.linalg.vector_norm(result.update, dtype=torch.float64)),
            "coverage_by_tensor": {
                name: [held.least, held.mean]
                for name, held in coverage_by_tensor(self.model.spec, result.coverage).items()
            },
        }
        if self._private and self._ledger is not None:
            self._row["epsilon"] = self._ledger.epsilon(self._private.delta)
        self._row |= self._round_row(result)
        self._warn_of_uncovered(result.coverage, server_round)
        needed = self.config.cohort.least_replies(min(len(rows), self.config.cohort.clients_per_round))
        if num_ok < needed:
            self._close_round(aggregating)
            reasons = sorted({row["status"] for row in rows if row["status"] != "ok"})
            raise QuorumError(
                f"round {server_round} has {num_ok} good replies of {len(rows)}, the quorum is {needed}: "
                + ("; ".join(reasons[:3]) or "no client was sampled")
            )
        try:
            with aggregating:
                stepped = self._optimizer.step(self._vector, result)
        except NotFiniteError:
            self._close_round(aggregating)
            raise
        self._close_round(aggregating, done=self._evaluate_model is None)
        return to_arrays(stepped), None

    def _warn_of_uncovered(self, coverage: Tensor, server_round: int) -> None:
        if not (window := self.config.cohort.coverage_warning):
            return
        self._watch.add(coverage, server_round)
        if server_round % window == 0 and (stale := self._watch.uncovered(server_round, window)):
            tensors = ", ".join(f"{name} ({count})" for name, count in stale.items())
            log(WARNING, "coordinates that no client held in the last %d rounds: %s", window, tensors)

    def _close_round(self, aggregating: "_Stopwatch", done: bool = True) -> None:
        self._row |= {"seconds": time.perf_counter() - self._started, "aggregate_seconds": aggregating.seconds}
        if done:
            self.round_log.append_round(self._row)

    def _fold(self, sent: Sent, reply: Message | None) -> Row:
        """Add one reply to the means, if it keeps the rules; its row in the log."""
        row = blank_row(sent, self.config.compression.compressor)
        try:
            row |= sizes(reply)
            update, payloads = read_update(reply, sent, self.config.aggregation, self._scheme.scheme.num_messages)
            labels = update.labels if self.config.aggregation.average_by_label else None
            weight = 1 if self.config.aggregation.weighting == "clients" else update.num_examples
            self._scheme.add(sent.task.client, sent.plan, payloads, weight, labels)
        except ValueError as error:
            reason = printable(error)
            log(WARNING, "client %d dropped in round %d: %s", sent.task.client, sent.task.server_round, reason)
            return row | {"status": f"dropped: {reason}"}
        return row | {
            "num_examples": update.num_examples,
            "compressor": update.compressor or self.config.compression.compressor,
            "level": _one_or_all(update.levels),
            "probability": _one_or_all(update.probabilities),
            "expected_bits": update.expected_bits,
            "train_seconds": update.train_seconds,
            "encode_seconds": update.encode_seconds,
            "simulated_seconds": self._simulated_seconds(sent, update.num_steps, row["payload_bytes"]),
            "train_loss": update.train_loss,
            **self._client_row(update),
        }

    def _simulated_seconds(self, sent: Sent, num_steps: int, uplink_bytes: int) -> float:
        downlink_bytes = sent.downlink_bytes - sent.anchor_bytes  # an anchor was fetched before the round began
        return sent.seat.tier.pace(sent.plan.size).seconds(num_steps, uplink_bytes, downlink_bytes)

    def _client_row(self, update: TrainUpdate) -> Row:
        """What a strategy of its own adds to a client's row."""
        return {}

    def _round_row(self, result: Mean) -> Row:
        """What a strategy of its own adds to a round's row."""
        return {}

    def evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Evaluate the global model, every `evaluate-every` rounds and at the end, and close the round's row."""
        if self._evaluate_model is None or server_round == 0:
            return None
        metrics: dict[str, float] = {"loss": float("nan"), "accuracy": float("nan")}
        if server_round % self.config.output.evaluate_every == 0 or server_round == self.config.num_rounds:
            metrics |= self._evaluate_model(from_arrays(arrays))
        self.round_log.append_round(self._row | metrics)
        return MetricRecord(dict(metrics))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No federated evaluation: the server evaluates on the test split."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing was asked."""
        return None


class _Stopwatch:
    """Adds up the seconds spent inside its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *reason: object) -> None:
        self.seconds += time.perf_counter() - self._start


def to_arrays(vector: Tensor) -> ArrayRecord:
    """A flat model as the ArrayRecord that Flower passes around."""
    return ArrayRecord({MODEL: Array(vector.numpy())})


def from_arrays(arrays: ArrayRecord) -> Tensor:
    """The flat model in an ArrayRecord."""
    return torch.from_numpy(arrays[MODEL].numpy())


def _one_or_all(values: list[Any]) -> Any:
    """A single draw is logged as a plain number, several as a list, none as null."""
    return values if len(values) > 1 else next(iter(values), None)
