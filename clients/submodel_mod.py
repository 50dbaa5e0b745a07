"""The client mod `submodel`: a Flower ClientApp gets the part of the model that its device can carry."""

from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fl_mlmc.run.coded import HINTS, TIER, TIERS, WIDTH
from fl_mlmc.submodels import IndexPlan
from fl_mlmc.submodels.cuts import Cuttable, cut_of, holds, parse_widths, stored, vector_of

Width = float | Callable[[Context], float]


def submodel(model: Cuttable, width: Width | None = None) -> "Submodel":
    """A mod that cuts the model out of what comes, for a server whose strategy is `Decoding(…, tiers=…, model=…)`.

    ::

        app = ClientApp(mods=[submodel(Net), compressed("MLMC(TopK(fraction=0.05))")])

    `model` builds it at a width, `Net(0.5)`, or is its `WidthSpec`, as on the server. `width` is the client's, or tells
    it from the client's context; without one, it is that of the `tier` in its node's config. The app reads it in every
    config record, `msg.content["config"]["width"]`, and gets arrays that fit `Net(width)`.
    """
    return Submodel(model, width)


@dataclass(frozen=True)
class Submodel:
    """The mod that `submodel` makes."""

    model: Cuttable
    width: Width | None = None

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """The app's reply to the `message` cut to its width, with a note of that width.

        Messages without arrays pass. ValueError where the width is not known, or the arrays are not those of the model.
        """
        if not message.content.array_records:
            return call_next(message, context)
        hints = message.content.config_records.get(HINTS, ConfigRecord())
        width = self._width(context, str(hints.get(TIERS, "")))
        plan = cut_of(self.model, width)
        records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {}
        for name, record in message.content.items():
            if isinstance(record, ArrayRecord):
                records[name] = _cut(record, plan)
            elif isinstance(record, ConfigRecord):
                records[name] = ConfigRecord({**record, WIDTH: width})
            else:
                records[name] = record
        if not any(isinstance(record, ArrayRecord) and holds(record, plan.own_spec) for record in records.values()):
            raise ValueError(
                f"no record of the message holds the model's arrays, such as {next(iter(plan.spec.shapes.items()))}: "
                "submodel and the server's initial arrays are of one model"
            )
        message.content = RecordDict(records)
        reply = call_next(message, context)
        if reply.has_content():
            reply.content[TIER] = ConfigRecord({WIDTH: width})
        return reply

    def _width(self, context: Context, tiers: str) -> float:
        if self.width is not None:
            return float(self.width(context) if callable(self.width) else self.width)
        widths, tier = parse_widths(tiers), str(context.node_config.get("tier", ""))
        if tier not in widths:
            raise ValueError(
                f"this node's config has tier {tier!r}, the run has {', '.join(widths) or 'none'}: start the node "
                "with --node-config 'tier=\"…\"', or give submodel a width"
            )
        return widths[tier]


def _cut(record: ArrayRecord, plan: IndexPlan) -> ArrayRecord:
    """The record with the arrays of the model cut; itself where they are cut already, or others."""
    if not holds(record, plan.spec):
        return record
    own = stored(plan.gather(vector_of(record, plan.spec)), plan.own_spec, record)
    return ArrayRecord(
        dict(record) | {name: Array(*parts[:2], "numpy.ndarray", parts[2]) for name, parts in own.items()}
    )
