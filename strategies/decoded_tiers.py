"""Tiers of `Decoding`: each client trains a submodel, and a coordinate is averaged over the clients that hold it.

A strategy of Flower's averages whole models. So every reply is made whole: where a client holds nothing, it is said to
have found the mean of what those found who do, by their weights. The mean over all replies is then the coverage mean,
    Σ_holders wᵢ uᵢ + Σ_others w_j ū = Σ_all w · ū,   with ū = Σ_holders wᵢ uᵢ / Σ_holders wᵢ,
and zero where nobody holds the coordinate (HeteroFL, arXiv 2010.01264, section 3).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg, Strategy
from torch import Tensor

from fl_mlmc.aggregation import CoverageMean, Mean
from fl_mlmc.compression.blocks import DenseBlock, Payload
from fl_mlmc.run.coded import HINTS, TIER, TIERS, WIDTH
from fl_mlmc.run.protocol import ProtocolError
from fl_mlmc.submodels import IndexPlan
from fl_mlmc.submodels.cuts import Cuttable, cut_of, holds, parse_widths, stored, vector_of

from .decoded import NUMPY, Decoded, Sent

NOT_MEANS: tuple[type[Strategy], ...] = (
    flower.Bulyan,
    flower.FedMedian,
    flower.FedTrimmedAvg,
    flower.Krum,
    flower.MultiKrum,
    flower.QFedAvg,
)


class Tiers:
    """The tiers of a run, and the width of each node as far as it is known.

    `text` is "phone:0.5,gateway:1.0", name:width; `model` as in `cut_of`. ValueError on a strategy that takes no mean.
    """

    def __init__(self, text: str, model: Cuttable, strategy: Strategy) -> None:
        if not isinstance(strategy, FedAvg) or isinstance(strategy, NOT_MEANS):
            raise ValueError(
                f"tiers do not go with {type(strategy).__name__}: what a client does not hold is filled in with "
                "the mean of those that do, which is right for strategies that average: FedAvg, FedProx, FedAvgM, "
                "FedAdagrad, FedAdam and FedYogi"
            )
        self._text, self._model = text, model
        self._names = {width: name for name, width in parse_widths(text).items()}
        for width in self._names:
            cut_of(model, width)
        self._known: dict[int, float] = {}

    def prepare(self, messages: Iterable[Message]) -> None:
        """Tell clients of the tiers; a client whose width is known is sent its own submodel, the others the model."""
        made: dict[tuple[int, float | None], tuple[RecordDict, RecordDict]] = {}
        for message in messages:
            content, width = message.content, self._known.get(message.metadata.dst_node_id)
            key = (id(content), width)
            if key not in made:
                hints = {**content.config_records.get(HINTS, {}), TIERS: self._text}
                records = dict(content) if width is None else _cut_records(content, cut_of(self._model, width))
                made[key] = content, RecordDict({**records, HINTS: ConfigRecord(hints)})
            message.content = made[key][1]

    def received(self, reply: Message, node: int, sent: Sent) -> tuple[float, Sent]:
        """The width that a client trained, and the arrays that it trained from; its note of it leaves the reply.

        `sent` is the whole model, or what `prepare` made of it. ProtocolError on a width that is none of the tiers'.
        """
        told = reply.content.pop(TIER, None)
        known = self._known.get(node)
        width = known or 1.0
        if told is not None:
            said = told.get(WIDTH)
            if not isinstance(said, float) or said not in self._names:
                raise ProtocolError(f"it trained at width {said!r}, the tiers are {self._text}")
            width = said
        if known is None:
            return width, {name: _cut(record, cut_of(self._model, width)) for name, record in sent.items()}
        if width != known:
            raise ProtocolError(f"it trained at width {width}, and was sent a submodel of width {known}")
        return width, sent

    def placed(self, decoded: Decoded, width: float, sent: Sent, whole: Sent) -> "Placed":
        """Where in the model a decoded update lies; ProtocolError if it is not all of a submodel's."""
        plan = cut_of(self._model, width)
        for name, record in decoded.content.array_records.items():
            before = sent.get(name, next(iter(sent.values())))
            full = whole.get(name, next(iter(whole.values())))
            if holds(record, plan.own_spec) and holds(before, plan.own_spec):
                update = vector_of(record, plan.own_spec) - vector_of(before, plan.own_spec)
                decoded.content[name] = ArrayRecord(dict(record) | {key: full[key] for key in plan.spec.shapes})
                return Placed(name, width, plan, update, full)
        raise ProtocolError(f"none of its records holds all arrays of the submodel of width {width:g}")

    def fill(self, outcomes: Iterable[tuple[int, Decoded, "Placed"]]) -> Mean | None:
        """Make the replies whole, each of a node, and give the mean of their updates; None if there are none."""
        taken = list(outcomes)
        if not taken:
            return None
        fold = CoverageMean(taken[0][2].plan.spec.size)
        for _, decoded, placed in taken:
            block = DenseBlock(placed.update.float())
            fold.add(placed.plan, Payload(placed.plan.size, (block,)), decoded.num_examples or 1.0)
        mean = fold.result()
        for node, decoded, placed in taken:
            self._known[node] = placed.width
            update = mean.update.to(placed.update.dtype, copy=True)
            update[placed.plan.indices] = placed.update
            arrays = stored(vector_of(placed.whole, placed.plan.spec) + update, placed.plan.spec, placed.whole)
            record = decoded.content.array_records[placed.record]
            decoded.content[placed.record] = ArrayRecord(dict(record) | _arrays(arrays))
        return mean

    def forget(self, node: int) -> None:
        """Send a node the whole model again: its submodel, or its tier, may be another now."""
        self._known.pop(node, None)

    def name(self, width: float) -> str:
        """The tier of that width; "full" of clients that cut nothing."""
        return self._names.get(width, "full")


@dataclass(frozen=True)
class Placed:
    """A submodel's update: in which record of the reply, and where in the model that the strategy sent."""

    record: str
    width: float
    plan: IndexPlan
    update: Tensor
    """Flat, shape (plan.size,)."""
    whole: Mapping[str, Array]
    """The model's arrays as the strategy sent them."""


def coverage_row(mean: Mean | None) -> dict[str, int | float]:
    """How many clients held a coordinate, the fewest and the mean, as the log has it; nothing without tiers."""
    if mean is None:
        return {}
    return {"coverage_min": int(mean.coverage.min()), "coverage_mean": float(mean.coverage.double().mean())}


def _cut_records(records: RecordDict, plan: IndexPlan) -> dict[str, ArrayRecord | MetricRecord | ConfigRecord]:
    return {
        name: ArrayRecord(_cut(record, plan)) if isinstance(record, ArrayRecord) else record
        for name, record in records.items()
    }


def _cut(arrays: Mapping[str, Array], plan: IndexPlan) -> dict[str, Array]:
    """The arrays with those of the model cut; as they are where they are not the model's."""
    if not holds(arrays, plan.spec):
        return dict(arrays)
    return dict(arrays) | _arrays(stored(plan.gather(vector_of(arrays, plan.spec)), plan.own_spec, arrays))


def _arrays(parts: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> dict[str, Array]:
    return {name: Array(dtype, shape, NUMPY, data) for name, (dtype, shape, data) in parts.items()}
