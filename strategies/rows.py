"""The rows that a round leaves in the log: one for each client of its cohort, and its own."""

from collections.abc import Container, Mapping
from typing import Any

import torch
from rich.filesize import decimal

from fl_mlmc.aggregation import Mean
from fl_mlmc.submodels import WidthSpec
from fl_mlmc.submodels.coverage import coverage_by_tensor

from .round import Answer, OpenRound, Row


def client_row(answer: Answer, compressor: str) -> Row:
    """A client's row; what only an update tells is None where none was taken. `compressor`: the run's own, as text."""
    sent, update = answer.sent, answer.update
    row: Row = {
        "round": sent.task.server_round,
        "client": sent.task.client,
        "node": sent.seat.node,
        "tier": sent.task.tier,
        "width": sent.task.width,
        "num_examples": None,
        "num_parameters": sent.plan.size,
        "compressor": compressor,
        "level": None,
        "probability": None,
        "payload_bytes": answer.payload_bytes,
        "message_bytes": answer.message_bytes,
        "downlink_bytes": sent.downlink_bytes,
        "anchor_bytes": sent.anchor_bytes,
        "expected_bits": None,
        "train_seconds": None,
        "encode_seconds": None,
        "simulated_seconds": answer.simulated_seconds,
        "train_loss": None,
        "status": "ok",
    }
    if update is None:
        return row | {"status": f"dropped: {answer.reason}"}
    return row | {
        "num_examples": update.num_examples,
        "compressor": update.compressor or compressor,
        "level": one_or_all(update.levels),
        "probability": one_or_all(update.probabilities),
        "expected_bits": update.expected_bits,
        "train_seconds": update.train_seconds,
        "encode_seconds": update.encode_seconds,
        "train_loss": update.train_loss,
    }


def round_row(
    opened: OpenRound, mean: Mean, spec: WidthSpec, client_rows: list[Row], uplink_bytes_before: int, now: float
) -> Row:
    """The round's row before it is evaluated, with the `mean` of updates of `spec`'s model.

    `uplink_bytes_before`: those of all earlier rounds. `now`: what the simulated clock reads after the round, seconds.
    """
    held = coverage_by_tensor(spec, mean.coverage)
    uplink_bytes = sum(row["payload_bytes"] for row in client_rows)
    return {
        "round": opened.number,
        "num_sampled": len(client_rows),
        "num_ok": len(opened.taken),
        "num_late": opened.num_late,
        "coverage_min": int(mean.coverage.min()),
        "coverage_mean": int(mean.coverage.sum()) / mean.coverage.numel(),
        "uplink_bytes": uplink_bytes,
        "downlink_bytes": sum(row["downlink_bytes"] for row in client_rows),
        "cumulative_uplink_bytes": uplink_bytes_before + uplink_bytes,
        "simulated_seconds": opened.simulated_seconds,
        "waited_seconds": opened.waited_seconds,
        "cumulative_simulated_seconds": now,
        "update_norm": float(torch.linalg.vector_norm(mean.update, dtype=torch.float64)),
        "coverage_by_tensor": {name: [part.least, part.mean] for name, part in held.items()},
    }


def judged_by(columns: Container[str]) -> str:
    """The column that tells best how good a model is, of those that there are; "loss" if no metric is known."""
    return next((name for name in ("accuracy", "f1", "auc", "mae", "perplexity") if name in columns), "loss")


def counted(number: int, what: str) -> str:
    """ "1 round", "20 rounds"."""
    return f"{number} {what}{'s' * (number != 1)}"


def headline(row: Mapping[str, Any]) -> str:
    """What a person wants to know of a round while a run goes on: "accuracy 0.812  loss 0.613  uplink 12.3 kB".

    Beside the loss it is the metric by which `judged_by` judges.

    `row` is one of rounds.jsonl; what it has not, or was not evaluated, is left out. The uplink is that of all rounds.
    """
    shown = {key: row.get(key) for key in (judged_by(row), "loss")}
    figures = [f"{key} {value:.3f}" for key, value in shown.items() if value is not None and value == value]
    return "  ".join([*figures, f"uplink {decimal(row['cumulative_uplink_bytes'])}"])


def one_or_all(values: list[Any]) -> Any:
    """A single draw is logged as a plain number, several as a list, none as null."""
    return values if len(values) > 1 else next(iter(values), None)
