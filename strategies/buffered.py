"""FedBuff on the simulated clock: no rounds to wait for, a step whenever enough updates are in.

Clients start with the newest model and are in when their tier's pace says so. Each arrival goes into a buffer, times
s(τ) for the τ steps that the model has made since; after `goal` of them the server steps, and that is a round of the
log. A free place is taken at once by another client, drawn uniformly among those that are on and not at work. What is
on its way is a queue by time, ties by client number; so a run is a function of its config, and goes on from a
checkpoint with equal bytes. Nguyen et al., AISTATS 2022, arXiv 2106.06639, Algorithm 1.
"""

import heapq
import time
from collections.abc import Callable, Iterable, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from torch import Tensor

from fl_mlmc.aggregation import Mean
from fl_mlmc.models import Model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import RoundLog
from fl_mlmc.run.protocol import ARRAYS, TrainTask, payload_name
from fl_mlmc.run.rhythm import Buffered
from fl_mlmc.run.rng import stream
from fl_mlmc.training.threads import threads

from .checkpoint import ServerState
from .device_grid import DeviceGrid
from .flight import Flight, unpacked
from .round import Answer, OpenRound, Reading, Row, Sent
from .summing import Summed
from .tiered import Evaluate, TieredStrategy, from_arrays

FLIGHT_PREFIX = "flight/"
"""What stands before a number in the names of a checkpoint: an update that was on its way."""


class BufferedStrategy(TieredStrategy):
    """The tiered strategy without rounds: submodels, compression and the coverage-aware mean are those of every run.

    A client's row says the `version` of the model that it started from (0: the first), its `staleness` in steps, and
    `begins`, when that was. A round's row says `staleness_mean`, `staleness_max`, and `in_flight`, the clients at work.
    A client starts at most once from each version. Where all that are on have, and nobody is at work, the round ends
    with what is in the buffer, if that is the quorum.

    Parameters
    ----------
    config : RunConfig
        As in `TieredStrategy`, with `pace = "buffered(…)"`.
    model, round_log, data, evaluate_model, data_meta
        As in `TieredStrategy`.
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
        super().__init__(config, model, round_log, data, evaluate_model, data_meta)
        rhythm = config.time.parsed_pace
        if not isinstance(rhythm, Buffered):
            raise ValueError(f"BufferedStrategy is for pace 'buffered(…)', got {config.time.pace!r}")
        self._rhythm = rhythm
        self._flights: list[Flight] = []
        self._packed: list[Tensor] = []
        self._grid: Grid | None = None
        self._timeout = config.cohort.round_timeout
        self._began = 0.0

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
        """As `TieredStrategy.start`; ValueError on real devices, whose clock is not simulated."""
        if isinstance(grid, DeviceGrid):
            raise ValueError(
                f"pace {self.config.time.pace!r} goes by the simulated clock; real devices take pace 'rounds', with "
                "over-sampling against slow ones"
            )
        self._timeout = timeout
        return super().start(grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Begin the broadcast of a new version. No messages: clients start one by one in `aggregate_train`."""
        started, self._grid = time.perf_counter(), grid
        self._meet_clients(grid)
        self._flights += [unpacked(packed, self._sent_in) for packed in self._packed]
        self._packed = []
        heapq.heapify(self._flights)
        vector, goal = from_arrays(arrays), self._rhythm.goal
        gathering = self._scheme.begin(server_round, list(self.roster.clients), vector)
        broadcast = self._broadcaster.begin(server_round, gathering.points)
        quorum = min(self.config.cohort.least_replies(goal), goal)
        self._open = OpenRound(server_round, started, vector, (), gathering, broadcast, quorum)
        self._began = self._timeline.now
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message | Summed]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Run the clock until the buffer is full, then step the model; there are no `replies`."""
        with threads():
            self._fill(self._opened)
        return super().aggregate_train(server_round, ())

    def restore(self, state: ServerState) -> None:
        """Go on after the round of `state`, with the updates that were on their way."""
        super().restore(state)
        self._packed = [packed for name, packed in sorted(state.scheme.items()) if name.startswith(FLIGHT_PREFIX)]

    def _kept(self) -> dict[str, Tensor]:
        packed = [*self._packed, *(flight.packed() for flight in sorted(self._flights))]
        return {**super()._kept(), **{f"{FLIGHT_PREFIX}{number:09d}": each for number, each in enumerate(packed)}}

    def _fill(self, opened: OpenRound) -> None:
        """Take updates in as they arrive until there are `goal`, and keep clients at work meanwhile."""
        goal, most_lost = self._rhythm.goal, self._rhythm.goal + self._rhythm.concurrency
        while len(opened.taken) < goal:
            self._start_clients(opened)
            if not self._flights:
                return  # everyone who is on has had a turn
            flight = heapq.heappop(self._flights)
            self._timeline.now = flight.arrives
            opened.answers.append(self._land(opened, flight))
            if len(opened.answers) - len(opened.taken) >= most_lost and len(opened.taken) < opened.quorum:
                return  # which the check of the quorum refuses

    def _start_clients(self, opened: OpenRound) -> None:
        """Have clients start from the newest model in all free places, as far as there are clients."""
        at_work = {flight.client for flight in self._flights} | opened.sent.keys()
        idle: Sequence[int] = [client for client in self.roster.clients if client not in at_work]
        free = self._rhythm.concurrency - len(self._flights)
        if not (idle and free > 0):
            return
        if not self._flights and len(opened.taken) < max(1, opened.quorum):
            self._timeline.present(idle, 1)  # else time would stand still
        idle = self._timeline.on(idle)
        rng = stream(self.config.seed, "cohort", opened.number, len(opened.sent))
        chosen = sorted(idle[place] for place in rng.choice(len(idle), min(free, len(idle)), replace=False))
        for flight in self._fly(opened, chosen):
            heapq.heappush(self._flights, flight)

    def _fly(self, opened: OpenRound, clients: Sequence[int]) -> Iterable[Flight]:
        """What becomes of `clients` that start now; all is computed at once, and is in when their pace says so."""
        if self._grid is None:
            raise RuntimeError("no round is under way: configure_train begins one")
        messages = [self._message(opened, client) for client in clients]
        awaited = {opened.group_id(client): client for client in clients}
        replies: dict[int, Message] = {}
        for reply in self._grid.send_and_receive(messages, timeout=self._timeout):
            client = awaited.get(reply.metadata.group_id)
            if client is not None and opened.sent[client].seat.node_id == reply.metadata.src_node_id:
                replies.setdefault(client, reply)
        for client in clients:
            reading = self._read(opened, client, replies.get(client))
            arrives = self._timeline.now + (reading.answer.simulated_seconds or 0.0)
            names = [payload_name(number) for number in range(self.num_messages)] if reading.answer.update else []
            data = tuple(replies[client].content.array_records[ARRAYS][name].data for name in names)
            yield Flight(arrives, reading, data)

    def _land(self, opened: OpenRound, flight: Flight) -> Answer:
        """What comes of an arrival: its update counts the less the older it is."""
        scale = self._rhythm.scale(opened.number - flight.begun_in)
        payloads = [payload if scale == 1 else payload.scaled(scale) for payload in flight.reading.payloads]
        return self._add(opened, Reading(flight.reading.answer, payloads))

    def _sent_in(self, client: int, server_round: int) -> Sent:
        """The task that a client was given in an earlier round."""
        seat, own = self.roster.seat(client, server_round), self._plan(client, server_round)
        return Sent(TrainTask(server_round, client, seat.tier.name, seat.tier.width, self._data), seat, own)

    def _client_row(self, answer: Answer) -> Row:
        number, begun_in = self._opened.number, answer.sent.task.server_round
        return super()._client_row(answer) | {
            "round": number,
            "version": begun_in - 1,
            "staleness": number - begun_in,
            "begins": answer.begins,
        }

    def _round_row(self, opened: OpenRound, mean: Mean, client_rows: list[Row]) -> Row:
        ages = [row["staleness"] for row in client_rows if row["status"] == "ok"]
        return super()._round_row(opened, mean, client_rows) | {
            "simulated_seconds": self._timeline.now - self._began,
            "staleness_mean": sum(ages) / len(ages) if ages else None,
            "staleness_max": max(ages, default=None),
            "in_flight": len(self._flights),
        }

    def _close_clock(self, opened: OpenRound) -> None:
        """Time has passed with the arrivals already."""
