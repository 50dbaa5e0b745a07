"""The strategy that all share: submodels by tier out, compressed updates back, a coverage-aware mean between."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from logging import INFO, WARNING

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from fl_mlmc.aggregation import Folding, Ledger, Mean, NotFiniteError, ServerOptimizer
from fl_mlmc.aggregation.fednova import StepNorm
from fl_mlmc.aggregation.ledger import RELEASES
from fl_mlmc.aggregation.server_step import LARGEST_UPDATE
from fl_mlmc.compression.compressors.base import Compressor
from fl_mlmc.models import Model
from fl_mlmc.own import references
from fl_mlmc.run.availability import NobodyError
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import RoundLog
from fl_mlmc.run.protocol import (
    ANCHOR,
    ARRAYS,
    CONFIG,
    MOVEMENT,
    PAYLOAD_STYPE,
    ProtocolError,
    TrainTask,
    reason_of,
)
from fl_mlmc.run.rng import stream
from fl_mlmc.run.sampling import Crowd, Drawn
from fl_mlmc.submodels import IndexPlan, plan
from fl_mlmc.submodels.coverage import CoverageWatch
from fl_mlmc.training.threads import threads

from .broadcast import Broadcaster
from .checkpoint import CHECKPOINT, ServerState, save_state
from .cohort import draw_cohort
from .device_grid import DeviceGrid
from .enough import BEST, Judge
from .held_out import HeldOut, check_metrics
from .order import in_client_order
from .replies import ClientFailed, read_update, sizes
from .roster import Roster
from .round import Answer, OpenRound, Reading, Row, Sent, Taken
from .rows import client_row, headline, round_row
from .scheme_server import SchemeServer
from .summing import Summed, Summing, SummingGrid
from .taking import counted
from .timeline import Timeline, the_first

Evaluate = Callable[[Tensor], Mapping[str, float]]
"""Metrics of a global model, given as a flat vector: loss, accuracy, …"""

MODEL = "model"
"""The key of the one array that holds the global model: flat, float32."""


LOSSES = "last-losses"
"""The name, in a checkpoint, of the training loss of each client when it was last heard."""
MEMORIES = "memories"
"""The folder of a run's directory where clients on this disk keep their memories."""


class QuorumError(RuntimeError):
    """A round got fewer good replies than the run config demands."""


class TieredStrategy(Strategy):
    """Every round: sample a cohort, send each client the submodel of its tier, decode and average the updates.

    Replies that break a rule are dropped and logged with the reason; the round goes on. Fewer good replies than the
    quorum end the run (`QuorumError`), as does a step that would make the model infinite (`NotFiniteError`): what was
    before the round is then the checkpoint. Pass `evaluate` to `start` as `evaluate_fn`: it also closes a round's log.

    Parameters
    ----------
    config : RunConfig
        What decides the run. The strategy reads the seed, the number of rounds and the sections cohort, compression,
        aggregation, privacy, time and output; clients get the same config from Flower.
    model : Model
        The global model: its builder, and the spec by which tiers cut it. It has `model.spec.size` coordinates, and
        the strategy holds it as one flat float32 vector of that shape, in the array "model" of Flower's records.
    round_log : RoundLog
        Where every sampled client and every round gets its row. Checkpoints, the memories of clients on this disk and
        the ledger of a private run lie in the same folder, `round_log.directory`.
    data : str (default: "")
        Where the prepared data lies, for clients that share the server's disk: the path of its partition directory.
        Empty: every client has its own `data-path`.
    evaluate_model : Callable[[Tensor], Mapping[str, float]] | None (default: None)
        Metrics of a model, given as its flat float32 vector: loss, accuracy, … It is called every `evaluate-every`
        rounds and after the last. None: the log has no metrics, and `evaluate` does nothing.
    data_meta : str (default: "")
        What the run's data set is (shape and kind of an example, classes, means), as JSON, for devices that bring
        examples of their own. Empty: all clients read the data directory.
    remembers : bool (default: False)
        Whether clients keep something from round to round that the scheme does not ask for, such as the personal part
        of a bilevel problem. Clients with a scheme's memory keep it anyway.
    num_examples : Sequence[int] (default: ())
        The examples that each client trains on, where the server knows them: for `sampling` by size or by deadline.

    Examples
    --------
    ::

        strategy = TieredStrategy(config, model, RoundLog.create(Path("runs/mine"), {}), str(prepare_data(config)))
        grid = LocalGrid(client_app, config.cohort.num_clients, config.to_flower())
        result = strategy.start(grid, to_arrays(model.initial(config.seed)), config.num_rounds)
        model_vector = from_arrays(result.arrays)
    """

    def __init__(
        self,
        config: RunConfig,
        model: Model,
        round_log: RoundLog,
        data: str = "",
        evaluate_model: Evaluate | None = None,
        data_meta: str = "",
        remembers: bool = False,
        num_examples: Sequence[int] = (),
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
        self._held_out = HeldOut.of(config)
        self._named = references(config.compression.compressor)
        self._optimizer = ServerOptimizer(
            config.aggregation.server_optimizer, config.aggregation.server_learning_rate, model.spec.size
        )
        self._step_norm = StepNorm(config.training) if config.aggregation.weighting == "fednova" else None
        self._private = config.privacy.of(config.cohort)
        self._ledger = Ledger(round_log.directory / RELEASES) if self._private else None
        self._scheme = SchemeServer(
            config.compression,
            config.cohort,
            config.seed,
            Folding(config.aggregation.parsed_rule, model.spec.size, self._private, self._ledger, LARGEST_UPDATE),
            lambda client: self._plan(client, 1),
            remembers,
        )
        self._summing = Summing(config, model.spec)
        self._broadcaster = Broadcaster(config.compression, config.seed)
        self._timeline = Timeline(config)
        self._sampling, self._num_examples = config.cohort.parsed_sampling, num_examples
        if (self._sampling.asks_sizes or self._sampling.asks_seconds) and not num_examples:
            raise ValueError(f"sampling {config.cohort.sampling!r} draws by clients' examples: give their num_examples")
        self._losses = torch.full((config.cohort.num_clients,), float("inf"), dtype=torch.float64)
        self._bytes: dict[tuple[str, int], float] = {}
        self._judge = Judge(config.output.stop_rule, config.output.keep_best, self._is_better_high)
        self._open: OpenRound | None = None
        self._cumulative_uplink_bytes = 0
        self._rounds_done = 0
        self._round_saved = 0

    @property
    def num_messages(self) -> int:
        """Payloads of an update, as the scheme counts them."""
        return self._scheme.scheme.num_messages

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
        """Flower's loop of rounds with checkpoints in between, from the round after `restore`.

        Parameters
        ----------
        grid : Grid
            Reaches the nodes: simulated ones, or a `DeviceGrid` of real ones, which keeps deadlines.
        initial_arrays : ArrayRecord
            The first model, as `to_arrays` makes it; after `restore`, that of the checkpoint.
        num_rounds : int (default: 3)
            The last round's number; the rounds before it that a restored run has done count.
        timeout : float (default: 3600)
            Seconds to wait for the replies of a round.
        train_config, evaluate_config : ConfigRecord | None (default: None)
            Not used: clients get the run config. They are Flower's.
        evaluate_fn : Callable[[int, ArrayRecord], MetricRecord | None] | None (default: None)
            Called with the round and its model; `evaluate`, wherever there is an `evaluate_model`.

        Returns
        -------
        Result
            The last model, and what `evaluate_fn` said of each round.

        Raises
        ------
        QuorumError
            A round got too few good replies.
        NotFiniteError
            A step would have made the model infinite.
        RosterError
            The federation has too few clients.
        """
        self.summary()
        result = Result(arrays=initial_arrays)
        for server_round in range(self._rounds_done + 1, num_rounds + 1):
            if self._judge.reason:
                break
            log(INFO, "[ROUND %s/%s]", server_round, num_rounds)
            before = self._state_after(server_round - 1, from_arrays(result.arrays))
            try:
                messages = self.configure_train(server_round, result.arrays, train_config or ConfigRecord(), grid)
                replies = self._replies(grid, messages, timeout)
                stepped, _ = self.aggregate_train(server_round, replies)
            except (QuorumError, NotFiniteError, NobodyError):
                self._save(before)
                raise
            result.arrays = stepped or result.arrays
            if evaluate_fn and (metrics := evaluate_fn(server_round, result.arrays)):
                result.evaluate_metrics_serverapp[server_round] = metrics
            is_last = server_round == num_rounds or bool(self._judge.reason)
            if server_round % self.config.output.checkpoint_every == 0 or is_last:
                self._save(self._state_after(server_round, from_arrays(result.arrays)))
        if reason := self._judge.reason:
            log(INFO, "stopped early: %s", reason)
            self.round_log.update({"stopped": reason})
        return result

    def _replies(self, grid: Grid, messages: Iterable[Message], timeout: float) -> Iterable[Message | Summed]:
        if not isinstance(grid, DeviceGrid):
            self._opened.wanted = self.config.cohort.clients_per_round if self.config.cohort.over_sampling else 0
            if isinstance(grid, SummingGrid) and self._may_be_summed(self._opened):
                groups = self._opened.gathering.groups
                return grid.sum_and_receive(messages, groups, self._summing, timeout=timeout)
            return grid.send_and_receive(messages, timeout=timeout)
        if not self.config.time.is_always:
            raise ValueError(
                f"availability {self.config.time.availability!r} is for simulations: real devices come and go by "
                "themselves. Leave it at 'always'"
            )
        if self._sampling.asks_sizes or self._sampling.asks_seconds:
            raise ValueError(
                f"sampling {self.config.cohort.sampling!r} is for simulations: the server does not know the sizes and "
                "speeds of real devices. Leave it at 'uniform'"
            )
        self._opened.num_late = grid.take_late()
        return grid.collect(
            messages, timeout, self.config.cohort.clients_per_round if self.config.cohort.over_sampling else 0
        )

    def _may_be_summed(self, opened: OpenRound) -> bool:
        """Whether workers may sum the round's replies: the server alone knows whose time is over, and odd chances."""
        is_timed = opened.wanted or opened.deadline < math.inf or not self.config.time.is_always
        counts_alike = all(factor == 1 for factor in opened.factors.values())
        return not is_timed and counts_alike and self._scheme.sums_elsewhere(opened.gathering)

    def restore(self, state: ServerState) -> None:
        """Go on after the round of `state`; pass its vector to `start`."""
        self._rounds_done = self._round_saved = state.server_round
        self._cumulative_uplink_bytes = state.cumulative_uplink_bytes
        self._timeline.now = state.simulated_seconds
        self._optimizer.restore(state.optimizer)
        self._scheme.restore(state.scheme)
        self._broadcaster.restore(state.scheme)
        self._losses = state.scheme.get(LOSSES, self._losses).clone()
        self._judge.restore(self.round_log.directory, state.server_round)

    def _kept(self) -> dict[str, Tensor]:
        """What must outlive the process beside the model and the optimizer."""
        losses = {LOSSES: self._losses.clone()} if self._sampling.asks_losses else {}
        return {**self._scheme.state(), **self._broadcaster.state(), **losses}

    def _state_after(self, server_round: int, vector: Tensor) -> ServerState:
        """All that the next round depends on; that round changes nothing of it."""
        written, uplink_bytes = self.round_log.written(), self._cumulative_uplink_bytes
        optimizer, scheme = self._optimizer.state(), self._kept()
        num_releases = 0 if self._ledger is None else len(self._ledger)
        now = self._timeline.now
        return ServerState(server_round, vector, optimizer, uplink_bytes, written, scheme, num_releases, now)

    def _save(self, state: ServerState) -> None:
        """Make `state` the checkpoint, unless it is already, or nothing has been done yet."""
        if state.server_round == self._round_saved:
            return
        self.round_log.sync()  # first: a checkpoint counts on its rows
        save_state(self.round_log.directory / CHECKPOINT, self.model.spec, state, self.config.output.durable)
        self._round_saved = state.server_round
        self._scheme.saved()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Draw the round's cohort and begin its broadcast; a message for each client, in ascending order.

        Messages are encoded as they are taken from the result, which can be gone through once.
        """
        started = time.perf_counter()
        self._meet_clients(grid)
        self._optimizer.learning_rate = self.config.aggregation.server_learning_rate_in(server_round)
        vector = from_arrays(arrays)
        present, waited = self._timeline.present(self.roster.clients, self._least)
        drawn = self._draw(server_round, present)
        cohort = self._scheme.active(drawn)
        gathering = self._scheme.begin(server_round, cohort, vector)
        broadcast = self._broadcaster.begin(server_round, gathering.points)
        quorum = self.config.cohort.least_replies(min(len(cohort), self.config.cohort.clients_per_round))
        self._open = OpenRound(
            *(server_round, started, vector, tuple(cohort), gathering, broadcast, quorum),
            factors=drawn,
            deadline=self._sampling.deadline,
            waited_seconds=waited,
        )
        return map(partial(self._message, self._open), cohort)  # an engine may ask for them one by one

    def _meet_clients(self, grid: Grid) -> None:
        """Ask nodes that are new which clients they host, and wait until there are enough of them."""
        if self.roster.is_empty:
            # A memory's share counts all clients; other runs begin without devices that are down.
            is_real = isinstance(grid, DeviceGrid)
            least = self._least if is_real and not self._scheme.scheme.has_memory else None
            self.roster.wait(grid, least, max(60.0, self.config.cohort.round_timeout) if is_real else 60.0)
            self._scheme.meet(self.roster.clients, lambda client: self.roster.seat(client).tier)
        self.roster.refresh(grid)
        if len(self.roster.clients) < self._least:
            self.roster.wait(grid, self._least, self.config.cohort.round_timeout)

    @property
    def _least(self) -> int:
        return self.config.cohort.least_replies(self.config.cohort.clients_per_round)

    @property
    def _opened(self) -> OpenRound:
        if self._open is None:
            raise RuntimeError("no round is under way: configure_train begins one")
        return self._open

    def _draw(self, server_round: int, clients: Sequence[int]) -> Drawn:
        cohort, seed = self.config.cohort, self.config.seed
        if not self._sampling.is_uniform:
            crowd = self._crowd(server_round, clients)
            return self._sampling.draw(crowd, cohort.num_asked, stream(seed, "cohort", server_round))
        is_private, plan_of = self._private is not None, partial(self._plan, server_round=server_round)
        return dict.fromkeys(draw_cohort(cohort, is_private, seed, server_round, clients, plan_of), 1.0)

    def _crowd(self, server_round: int, clients: Sequence[int]) -> Crowd:
        """What the server knows of `clients` before a round, as far as the run's sampling asks for it."""
        numbers = np.asarray(clients, np.int64)
        sizes, seconds = np.ones(len(numbers)), np.zeros(len(numbers))
        if self._sampling.asks_sizes:
            sizes = np.array([self._num_examples[client] for client in clients], np.float64)
        if self._sampling.asks_seconds:
            seconds = np.array([self._expected_seconds(client, server_round) for client in clients])
        return Crowd(numbers, sizes, self._losses[numbers].numpy(), seconds)

    def _expected_seconds(self, client: int, server_round: int) -> float:
        """What a client's tier needs for a round, by the formulas of the compressors."""
        tier, own = self.roster.seat(client, server_round).tier, self._plan(client, server_round)
        num_steps, compression = self.config.training.num_steps(self._num_examples[client]), self.config.compression
        down, up = (self._expected_bytes(kind, own.size) for kind in (compression.downlink, compression.uplink))
        return tier.pace(own.size).seconds(num_steps, up, down)

    def _expected_bytes(self, compressor: Compressor, size: int) -> float:
        key = (repr(compressor), size)
        if key not in self._bytes:
            self._bytes[key] = compressor.compress(torch.ones(size), np.random.default_rng(0)).expected_bits / 8
        return self._bytes[key]

    def _message(self, opened: OpenRound, client: int) -> Message:
        """The message that asks `client` for its part in the round; from here on a reply to it is awaited."""
        task = self._task(opened, client)
        payloads = dict(opened.broadcast.arrays(task.plan))
        if moved := self._scheme.movement(client):
            payloads[MOVEMENT] = moved
        opened.sent[client] = replace(
            task,
            downlink_bytes=sum(map(len, payloads.values())),
            anchor_bytes=len(payloads.get(ANCHOR, b"")),
        )
        shape = (task.plan.size,)
        arrays = {name: Array("float32", shape, PAYLOAD_STYPE, payload) for name, payload in payloads.items()}
        content = RecordDict({ARRAYS: ArrayRecord(arrays), CONFIG: ConfigRecord(task.task.to_config())})
        return Message(
            content,
            dst_node_id=task.seat.node_id,
            message_type=MessageType.TRAIN,
            group_id=opened.group_id(client),
            ttl=2 * self.config.cohort.round_timeout,  # what is late is counted, if it is not later than this
        )

    def _task(self, opened: OpenRound, client: int) -> Sent:
        """A client's task in a round, before anything was sent."""
        seat = self.roster.seat(client, opened.number)
        task = TrainTask(
            opened.number,
            client,
            seat.tier.name,
            seat.tier.width,
            self._data,
            str(self.round_log.directory / MEMORIES) if self._scheme.remembers else "",
            data_meta=self._data_meta,
            uplink_budget=seat.tier.uplink_budget,
            base=self.model.base_digest(),
            **self._scheme.task_fields(opened.gathering, client),
        )
        return Sent(task, seat, self._plan(client, opened.number))

    def _plan(self, client: int, server_round: int) -> IndexPlan:
        width = self.roster.seat(client, server_round).tier.width
        return plan(self.model.spec, self.config.cohort.width_rule, width, server_round, client, self.config.seed)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message | Summed]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the good updates and step the model; every sampled client gets its row in the log.

        QuorumError if too few are good, NotFiniteError if the model would not stay finite; both leave a row, too.
        """
        opened = self._opened
        with threads():  # an engine's clients compute meanwhile, on all processors
            waiting: list[Reading] = []
            for client, reply in in_client_order(opened, replies):
                start = time.perf_counter()
                if isinstance(reply, Taken):  # where it arose
                    self._pass(opened, self._count(opened, opened.sent[client], reply))
                    opened.aggregate_seconds += time.perf_counter() - start
                    continue
                reading = self._read(opened, client, reply)
                if opened.wanted:
                    waiting.append(reading)  # who is among the first is known when all are in
                else:
                    self._take(opened, reading)
                opened.aggregate_seconds += time.perf_counter() - start
            for reading in the_first(waiting, opened.wanted):
                self._take(opened, reading)
        start, is_over = time.perf_counter(), True
        try:
            opened.mean = self._scheme.estimate(opened.gathering, opened.vector)
            if self._step_norm:
                counts = [update.num_examples for update in opened.taken]
                steps = self._step_norm.effective(counts, opened.number)
                opened.mean = replace(opened.mean, update=opened.mean.update * steps)
            self._check_quorum(opened)
            stepped = self._step(opened, opened.mean)
            is_over = self._evaluate_model is None
        finally:
            opened.aggregate_seconds += time.perf_counter() - start
            self._log(opened, is_over)
        return to_arrays(stepped), None

    def _read(self, opened: OpenRound, client: int, reply: Message | None) -> Reading:
        """What a client's reply says, and how long it took; the reason why it says nothing, if it breaks a rule."""
        if client not in opened.sent:
            return Reading(Answer(self._task(opened, client), reason="the round was over before it was asked"))
        answer, aggregation = Answer(opened.sent[client]), self.config.aggregation
        try:
            payload_bytes, message_bytes = sizes(reply)
            answer = replace(answer, payload_bytes=payload_bytes, message_bytes=message_bytes)
            update, payloads = read_update(reply, answer.sent, aggregation, self.num_messages, self._named)
            stay = self._timeline.stay(answer.sent, update.num_steps, payload_bytes, opened.deadline)
            answer = replace(answer, simulated_seconds=stay.seconds, begins=self._timeline.now)
            if stay.reason:
                raise ProtocolError(stay.reason)
            if self._held_out or update.held_out_metrics:
                check_metrics(update, self._held_out)
            return Reading(replace(answer, update=update), payloads)
        except Exception as error:  # a reply is of somebody else's making: whatever it raises costs it alone
            return Reading(self._dropped(answer, error))

    def _take(self, opened: OpenRound, reading: Reading) -> None:
        """Add the next reply of the cohort to the means."""
        self._pass(opened, self._add(opened, reading))

    def _pass(self, opened: OpenRound, answer: Answer) -> None:
        """Take note of what came of the cohort's next client."""
        opened.answers.append(answer)
        self._scheme.passed(opened.gathering, answer.sent.task.client, opened.sums)

    def _count(self, opened: OpenRound, sent: Sent, taken: Taken) -> Answer:
        """What came of a client whose reply was taken where it arose: it is in a sum, or was dropped there."""
        client, update, answer = sent.task.client, taken.update, Answer.of(sent, taken)
        if taken.num_steps is not None:
            stay = self._timeline.stay(sent, taken.num_steps, taken.payload_bytes, opened.deadline)
            answer = replace(answer, simulated_seconds=stay.seconds, begins=self._timeline.now)
        if update is None:
            trace = f"\n{taken.trace}" if taken.trace else ""
            log(WARNING, "client %d dropped in round %d: %s%s", client, opened.number, taken.reason, trace)
            return answer
        self._scheme.count(opened.gathering, client, sent.plan, *counted(update, self.config.aggregation))
        self._losses[client] = update.train_loss
        return answer

    def _add(self, opened: OpenRound, reading: Reading) -> Answer:
        """What came of a client's task: what its reply says is in the means, if that can be."""
        answer, payloads, update = reading.answer, reading.payloads, reading.answer.update
        if update is None:
            return answer
        client, aggregation = update.client, self.config.aggregation
        try:
            labels = update.labels if aggregation.average_by_label else None
            if self._step_norm:
                norm = self._step_norm.of(update.num_examples, opened.number)
                payloads = [payload.scaled(1 / norm) for payload in payloads]
            weight: float = 1 if aggregation.weighting == "clients" else update.num_examples
            weight *= opened.factors.get(client, 1.0)
            self._scheme.add(opened.gathering, client, answer.sent.plan, payloads, weight, labels)
        except Exception as error:
            return self._dropped(answer, error)
        self._losses[client] = update.train_loss
        return answer

    def _dropped(self, answer: Answer, error: Exception) -> Answer:
        """The answer of a client whose reply raised `error`, which is logged."""
        task, reason = answer.sent.task, reason_of(error)
        trace = None if isinstance(error, ValueError) else error  # nobody foresaw it: it may be a fault of ours
        log(WARNING, "client %d dropped in round %d: %s", task.client, task.server_round, reason, exc_info=trace)
        failure = error.failure if isinstance(error, ClientFailed) else None
        return replace(answer, update=None, reason=reason, failure=failure)

    def _check_quorum(self, opened: OpenRound) -> None:
        num_taken = len(opened.taken)
        if num_taken < opened.quorum:
            reasons = sorted({f"dropped: {answer.reason}" for answer in opened.answers if answer.update is None})
            raise QuorumError(
                f"round {opened.number} has {num_taken} good replies of {len(opened.answers)}, the quorum is "
                f"{opened.quorum}: " + ("; ".join(reasons[:3]) or "no client was sampled")
            )

    def _step(self, opened: OpenRound, mean: Mean) -> Tensor:
        """The model after the round, flat float32."""
        return self._optimizer.step(opened.vector, mean)

    def _log(self, opened: OpenRound, is_over: bool) -> None:
        """Write the clients' rows, and the round's unless its evaluation is to come."""
        compressor = self.config.compression.compressor
        rows = [client_row(answer, compressor) | self._client_row(answer) for answer in opened.answers]
        self.round_log.append_clients(rows)
        if opened.mean is None:
            return
        self._close_clock(opened)
        opened.row = self._round_row(opened, opened.mean, rows)
        self._cumulative_uplink_bytes = opened.row["cumulative_uplink_bytes"]
        self._warn_of_uncovered(opened.mean.coverage, opened.number)
        opened.row |= {
            "seconds": time.perf_counter() - opened.started,
            "aggregate_seconds": opened.aggregate_seconds,
        }
        if is_over:
            self.round_log.append_round(opened.row)

    def _close_clock(self, opened: OpenRound) -> None:
        """Have the simulated clock go on to the round's end."""
        self._timeline.advance(opened.simulated_seconds - opened.waited_seconds)

    def _client_row(self, answer: Answer) -> Row:
        """What goes beside the columns of every run; a strategy of its own may add to it."""
        return self._held_out.client_columns(answer.update) if self._held_out else {}

    def _round_row(self, opened: OpenRound, mean: Mean, client_rows: list[Row]) -> Row:
        """The round's row before it is evaluated; a strategy of its own may add to it."""
        uplink_bytes, now = self._cumulative_uplink_bytes, self._timeline.now
        row = round_row(opened, mean, self.model.spec, client_rows, uplink_bytes, now)
        if self._private and self._ledger is not None:
            row["epsilon"] = self._ledger.epsilon(self._private.delta)
        if self._held_out:
            row |= self._held_out.round_columns(opened.taken)
        return row

    def _warn_of_uncovered(self, coverage: Tensor, server_round: int) -> None:
        if not (window := self.config.cohort.coverage_warning):
            return
        self._watch.add(coverage, server_round)
        if server_round % window == 0 and (stale := self._watch.uncovered(server_round, window)):
            tensors = ", ".join(f"{name} ({count})" for name, count in stale.items())
            log(WARNING, "coordinates that no client held in the last %d rounds: %s", window, tensors)

    def evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Evaluate the global model, every `evaluate-every` rounds and at the end, and close the round's row."""
        if self._evaluate_model is None or server_round == 0:
            return None
        training = self.config.training
        names = ("loss", "accuracy") if training.is_bilevel else training.metric_names
        metrics = dict.fromkeys(names, float("nan"))
        if self.config.output.is_evaluated(server_round, self.config.num_rounds):
            metrics |= self._evaluate_model(from_arrays(arrays))
        row = self._opened.row | metrics
        self.round_log.append_round(row)
        if self._judge.add(row):
            state = self._state_after(server_round, from_arrays(arrays))
            save_state(self.round_log.directory / BEST, self.model.spec, state, self.config.output.durable)
        log(INFO, "\t└──> %s", headline(row))
        return MetricRecord(dict(metrics))

    def _is_better_high(self, metric: str) -> bool:
        if self.config.training.is_bilevel:
            return metric != "loss"
        return self.config.training.parsed_objective.is_better_higher(metric)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No federated evaluation: the server evaluates on the test split."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing was asked."""
        return None


def to_arrays(vector: Tensor) -> ArrayRecord:
    """A flat model as the ArrayRecord that Flower passes around."""
    return ArrayRecord({MODEL: Array(vector.numpy())})


def from_arrays(arrays: ArrayRecord) -> Tensor:
    """The flat model in an ArrayRecord."""
    return torch.from_numpy(arrays[MODEL].numpy())
