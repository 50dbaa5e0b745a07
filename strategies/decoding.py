"""`Decoding`: any strategy of Flower's, over clients that send compressed updates."""

from collections.abc import Callable, Iterable, Iterator
from logging import INFO
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.logger import log as say
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Result, Strategy
from rich.filesize import decimal

from fl_mlmc.run.coded import HINTS, SERVER_ROUND
from fl_mlmc.run.log import RoundLog
from fl_mlmc.run.npy import FLOATS
from fl_mlmc.run.protocol import MOST, reason_of
from fl_mlmc.submodels.cuts import Cuttable

from .decoded import Rules
from .decoded_round import DecodedRound, arrays_of
from .decoded_tiers import Tiers, coverage_row
from .round import Row

CLIPS_BEFORE = (
    "its clients clip an update before it is compressed, and an unbiased compressor makes longer ones of it, for which "
    "its noise is too small. Take DifferentialPrivacyServerSide…, which clips what was decoded"
)
TREES = "its clients send trees, and a tree has no update"
REFUSED: dict[type[Strategy], str] = {
    flower.DifferentialPrivacyClientSideFixedClipping: CLIPS_BEFORE,
    flower.DifferentialPrivacyClientSideAdaptiveClipping: CLIPS_BEFORE,
    flower.FedXgbBagging: TREES,
    flower.FedXgbCyclic: TREES,
}
"""Strategies of Flower's that do not go with compressed updates, and why."""

STEPS = ("summary", "configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate")

Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]


class Decoding(Strategy):
    """A strategy of Flower's, whose clients send compressed updates: `ClientApp(mods=[compressed(…)])`.

    ::

        strategy = Decoding(FedAvg(fraction_train=0.5), log="runs/mine")
        result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=3)

    The strategy inside is asked for messages and gets replies as it would without: the arrays that a client was sent
    plus its decoded update, and its metrics. A client without the mod is taken as it is. A reply that breaks a rule, or
    whose arrays and metrics are not those of most replies, reaches the strategy as one with an error. Where other
    strategies wrap each other, such as differential privacy over FedAvg, this one is the outermost.

    Parameters
    ----------
    strategy : Strategy
        FedAvg, or any other whose clients reply with the arrays that they were sent, trained. ValueError on those that
        cannot be (`REFUSED`).
    log : str | Path | None (default: None)
        A folder for the run's log, which `fl_mlmc.frames` reads; FileExistsError where it holds a run already. It is
        made when the first round begins. None: no log.
    max_update_norm : float (default: 0.0)
        The longest update that is taken; 0: any.
    max_examples : float (default: 2147483648)
        The most examples that a client may say to have; they are its weight.
    tiers : str (default: "")
        "phone:0.5,gateway:1.0", name:width: clients train submodels, `ClientApp(mods=[submodel(Net), compressed(…)])`,
        and a coordinate is averaged over those that hold it. ValueError on strategies that do not average.
    model : WidthSpec | Callable[[float], nn.Module] | None (default: None)
        With tiers: what builds the model at a width, as clients have it in `submodel`.
    """

    def __init__(
        self,
        strategy: Strategy,
        log: str | Path | None = None,
        max_update_norm: float = 0.0,
        max_examples: float = MOST,
        tiers: str = "",
        model: Cuttable | None = None,
    ) -> None:
        self.strategy = strategy
        layers = list(_layers(strategy))
        for layer in layers:
            if why := next((why for kind, why in REFUSED.items() if isinstance(layer, kind)), None):
                raise ValueError(f"Decoding does not go with {type(layer).__name__}: {why}")
        # `start` puts methods of ours in place of these.
        self._inner: dict[str, Callable[..., Any]] = {name: getattr(strategy, name) for name in STEPS}
        self._rules = Rules(
            next((layer.weighted_by_key for layer in layers if hasattr(layer, "weighted_by_key")), ""),
            next((layer.train_loss_key for layer in layers if hasattr(layer, "train_loss_key")), ""),
            max_examples,
            max_update_norm,
        )
        if bool(tiers) != (model is not None):
            raise ValueError('tiers and model go together: Decoding(…, tiers="phone:0.5,gateway:1.0", model=Net)')
        self._tiers = Tiers(tiers, model, strategy) if model is not None else None
        self._directory = None if log is None else Path(log).resolve()
        self._log: RoundLog | None = None
        self._open: DecodedRound | None = None
        self._evaluates = False
        # Not whole numbers, such as the count of batch norm: after a round, a mean of them is floating point.
        self._weights: set[str] | None = None
        self._uplink_bytes = self._sent_bytes = self._plain_bytes = 0

    def summary(self) -> None:
        """Say what the strategy inside says, and where the log goes."""
        self._inner["summary"]()
        say(INFO, "\t└──> Decoding compressed updates, log: %s", self._directory or "none")

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Evaluate | None = None,
        **more: Any,
    ) -> Result:
        """The rounds, as the strategy inside runs them: its own `start`, with our methods in place of its own.

        Parameters and result are those of its `start`. NotFiniteError if the model would not stay finite.
        """
        self._evaluates = evaluate_fn is not None
        mine = {name: getattr(self, name) for name in STEPS}
        vars(self.strategy).update(mine)  # a strategy of the user's own may bring a `start` of its own
        status = "failed: interrupted"
        try:
            result = self.strategy.start(
                grid,
                initial_arrays,
                num_rounds=num_rounds,
                timeout=timeout,
                train_config=train_config,
                evaluate_config=evaluate_config,
                evaluate_fn=self._heard(evaluate_fn) if evaluate_fn else None,
                **more,
            )
            status = "completed"
        except Exception as error:
            status = f"failed: {reason_of(error)}"
            raise
        finally:
            for name in mine:
                del vars(self.strategy)[name]
            self._close_round()
            if self._log is not None:
                self._log.finish(status)
        say(INFO, "uplink of all rounds: %s", _compared(self._sent_bytes, self._plain_bytes))
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The messages of the strategy inside; what each client is sent is remembered.

        ValueError if two of them cannot be told apart.
        """
        self._close_round()
        if self._directory is not None and self._log is None:
            self._log = RoundLog.create(self._directory, {"strategy": type(self.strategy).__name__})
        if self._weights is None:
            self._weights = {key for key, array in arrays.items() if array.dtype in FLOATS}
        self._open = opened = DecodedRound(server_round, {key: arrays[key] for key in arrays if key in self._weights})
        messages = list(self._inner["configure_train"](server_round, arrays, config, grid))
        for message in messages:
            if not any(SERVER_ROUND in record for record in message.content.config_records.values()):
                message.content[HINTS] = ConfigRecord({SERVER_ROUND: server_round})
        wholes = [arrays_of(message) for message in messages]
        if self._tiers:
            self._tiers.prepare(messages)
        for message, whole in zip(messages, wholes, strict=True):
            opened.remember(message, whole)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What the strategy inside makes of the replies, decoded; every client that was asked gets its row in the log.

        NotFiniteError if that is a model with numbers that are not finite.
        """
        if self._open is None:
            raise RuntimeError("no round is under way: configure_train begins one")
        opened = self._open
        outcomes = opened.take(replies, self._rules, self._tiers)
        rows = [outcome.row(server_round, self._tiers) for outcome in outcomes]
        if self._log is not None:
            self._log.append_clients(rows)
        opened.row = self._round_row(server_round, rows) | coverage_row(opened.mean)
        say(INFO, "\t└──> %d of %d replies, uplink %s", opened.row["num_ok"], len(rows), self._count(rows))
        told = [message for outcome in outcomes if (message := outcome.told()) is not None]
        arrays, metrics = self._inner["aggregate_train"](server_round, told)
        opened.metrics |= dict(metrics or {})
        opened.close(arrays)
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The messages of the strategy inside, cut to tiers where the run has any."""
        messages = list(self._inner["configure_evaluate"](server_round, arrays, config, grid))
        if self._tiers:
            self._tiers.prepare(messages)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """What the strategy inside makes of the replies; it goes into the round's row."""
        metrics = self._inner["aggregate_evaluate"](server_round, replies)
        self._hear(metrics, is_last=not self._evaluates)
        return metrics

    def _heard(self, evaluate: Evaluate) -> Evaluate:
        def heard(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            metrics = evaluate(server_round, arrays)
            self._hear(metrics, is_last=True)
            return metrics

        return heard

    def _hear(self, metrics: MetricRecord | None, is_last: bool) -> None:
        if self._open is not None:
            self._open.metrics |= dict(metrics or {})
            if is_last:
                self._close_round()

    def _close_round(self) -> None:
        """Write the round's row, which is complete."""
        opened, self._open = self._open, None
        if opened is not None and opened.row and self._log is not None:
            self._log.append_round({**opened.metrics, **opened.row})

    def _count(self, rows: list[Row]) -> str:
        """What the replies that were taken came to, and would have come to."""
        taken = [row for row in rows if row["plain_bytes"] is not None]
        sent, plain = (sum(row[key] for row in taken) for key in ("message_bytes", "plain_bytes"))
        self._sent_bytes += sent
        self._plain_bytes += plain
        return _compared(sent, plain)

    def _round_row(self, server_round: int, rows: list[Row]) -> Row:
        num_ok = sum(row["status"] == "ok" for row in rows)
        uplink_bytes = sum(row["payload_bytes"] for row in rows)
        self._uplink_bytes += uplink_bytes
        return {
            "round": server_round,
            "num_sampled": len(rows),
            "num_ok": num_ok,
            "coverage_min": num_ok,
            "coverage_mean": float(num_ok),
            "uplink_bytes": uplink_bytes,
            "downlink_bytes": sum(row["downlink_bytes"] for row in rows),
            "cumulative_uplink_bytes": self._uplink_bytes,
        }


def _layers(strategy: Strategy) -> Iterator[Strategy]:
    """The strategy, and those that it wraps: differential privacy has FedAvg in its `strategy`."""
    while isinstance(strategy, Strategy):
        yield strategy
        strategy = getattr(strategy, "strategy", None)  # type: ignore[assignment]


def _compared(sent: int, plain: int) -> str:
    """Bytes as a person reads them: "12.3 kB, 18.4 times less than 226.0 kB"."""
    if sent >= plain:
        return f"{decimal(sent)}, none of it compressed" if sent else "none"
    return f"{decimal(sent)}, {plain / sent:.1f} times less than {decimal(plain)}"
