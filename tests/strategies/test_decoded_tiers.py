"""Clients of several widths in a Flower app of one's own: each coordinate is averaged over those that hold it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg
from torch import nn

from fl_mlmc.clients import compressed, submodel
from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.simulations.engines.local import LocalGrid
from fl_mlmc.simulations.engines.simulated import identify_process
from fl_mlmc.strategies import Decoding
from fl_mlmc.submodels import Axis, WidthSpec
from fl_mlmc.submodels.cuts import cut_of, parse_widths

TIERS = "phone:0.5,gateway:1.0"
WIDTHS = {0: 0.5, 1: 1.0, 2: 0.5, 3: 1.0}


class Net(nn.Sequential):
    """A convolution, a norm with statistics, a flattened axis, and a head."""

    def __init__(self, width: float = 1.0) -> None:
        units = round(4 * width)
        super().__init__(nn.Conv2d(1, units, 3), nn.BatchNorm2d(units), nn.Flatten(), nn.Linear(4 * units, 3))


def width_of(context: Context) -> float:
    return WIDTHS[int(context.node_config["partition-id"])]


def app_of(mods: list[Any]) -> ClientApp:
    app = ClientApp(mods=mods)

    def loaded(message: Message, context: Context) -> nn.Module:
        net = Net(message.content["config"]["width"])
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        return net

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client, net = int(context.node_config["partition-id"]), loaded(message, context)
        with torch.no_grad():
            for tensor in net.state_dict().values():
                tensor.add_(client + 1)
        metrics = MetricRecord({"num-examples": client + 1})
        content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        loaded(message, context)
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "ok": 1.0})}), reply_to=message)

    return app


class Grid(LocalGrid):
    """Replies in a list, as Flower gives them; notes the bytes that each node is sent to train."""

    downlink: list[tuple[int, int]]

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        sent = list(messages)
        train = [message for message in sent if message.metadata.message_type == "train"]
        sizes = [(m.metadata.dst_node_id, sum(len(a.data) for a in m.content["arrays"].values())) for m in train]
        self.downlink = [*getattr(self, "downlink", []), *sizes]
        return list(super().send_and_receive(sent, timeout=timeout))


def run(strategy: Any, app: ClientApp, rounds: int = 2, model: Any = Net, **options: Any) -> tuple[Grid, ArrayRecord]:
    torch.manual_seed(0)
    grid = Grid(app, 4, {})
    decoding = Decoding(strategy, tiers=TIERS, model=model, **options)
    return grid, decoding.start(grid=grid, initial_arrays=ArrayRecord(Net().state_dict()), num_rounds=rounds).arrays


@pytest.mark.parametrize("mods", [[], [compressed("Identity()")]], ids=["plain", "compressed"])
def test_a_coordinate_is_averaged_over_those_that_hold_it(mods: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = Net().state_dict()
    grid, arrays = run(FedAvg(), app_of([submodel(Net, width_of), *mods]), rounds=2, log=tmp_path / "run")
    after = arrays.to_torch_state_dict()
    all_four, wide = (1 + 4 + 9 + 16) / 10, (4 + 16) / 6  # updates client + 1, weights client + 1
    moved = {name: (after[name] - before[name]) / 2 for name in before}
    for name in ("0.weight", "0.bias", "1.weight", "1.running_var"):
        assert moved[name][:2].numpy() == pytest.approx(all_four, rel=1e-5)
        assert moved[name][2:].numpy() == pytest.approx(wide, rel=1e-5)
    assert moved["3.weight"][:, :8].numpy() == pytest.approx(all_four, rel=1e-5)
    assert moved["3.weight"][:, 8:].numpy() == pytest.approx(wide, rel=1e-5)
    clients, rounds = read_clients(tmp_path / "run"), read_rounds(tmp_path / "run")
    assert clients["status"].eq("ok").all()
    by_tier = clients.groupby("tier")
    assert dict(by_tier["width"].first()) == {"gateway": 1.0, "phone": 0.5}
    assert dict(by_tier["num_parameters"].first()) == {"gateway": 40 + 16 + 51, "phone": 20 + 8 + 27}
    assert rounds["coverage_min"].tolist() == [2, 2]
    assert rounds["coverage_mean"].between(2, 4).all()
    # the first message has the whole model; once a node's tier is known, it is sent its own submodel
    sizes = {node: [size for other, size in grid.downlink if other == node] for node in (1, 2)}
    assert sizes[1][0] == sizes[2][0] == sizes[2][1] > sizes[1][1]


@pytest.mark.parametrize("strategy", [flower.FedAdam(), flower.FedYogi(), flower.FedAvgM(), flower.FedProx()])
def test_strategies_that_average_take_tiers(strategy: FedAvg) -> None:
    _, arrays = run(strategy, app_of([submodel(Net, width_of), compressed("MLMC(TopK(fraction=0.2))")]))
    assert all(np.isfinite(array.numpy()).all() for array in arrays.values())
    assert arrays["3.weight"].shape == (3, 16)


@pytest.mark.parametrize("strategy", [flower.FedMedian(), flower.Krum(), flower.QFedAvg(0.1)])
def test_strategies_that_do_not_average_are_refused(strategy: FedAvg) -> None:
    with pytest.raises(ValueError, match="tiers do not go with"):
        Decoding(strategy, tiers=TIERS, model=Net)


def test_a_spec_says_what_shapes_cannot() -> None:
    module = nn.Linear(2, 6)  # three heads of two units each: half of it is the first of each head
    rows = Axis("head", outer=3)
    spec = WidthSpec.of(module, {"head": 2}, {"weight": [rows, None], "bias": [rows]})
    assert cut_of(spec, 0.5).gather(torch.arange(18.0))[-3:].tolist() == [12, 14, 16]


def test_the_gates_of_a_recurrent_layer_are_cut_one_by_one() -> None:
    plan = cut_of(lambda width: nn.LSTM(3, round(4 * width)), 0.5)
    rows = plan.gather(torch.arange(float(plan.spec.size)))[: 8 * 3].reshape(8, 3)[:, 0] / 3
    assert rows.tolist() == [0, 1, 4, 5, 8, 9, 12, 13]


def test_a_width_or_a_model_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"array '0.weight' has shape \(8, 4\) at width 1 and \(12, 4\) at width 0.5"):
        cut_of(lambda width: nn.Sequential(nn.Linear(4, 8 if width == 1 else 12, bias=False)), 0.5)
    with pytest.raises(ValueError, match="tier 'phone' is not of the form name:width"):
        parse_widths("phone")
    with pytest.raises(ValueError, match="tier 'phone:2' is not of"):
        parse_widths("phone:2")
    with pytest.raises(ValueError, match="tiers and model go together"):
        Decoding(FedAvg(), tiers=TIERS)


def one_round(tmp_path: Path, *mods: Any) -> str:
    """What became of client 1 of three, which has these mods, or a reply of its own."""
    app = app_of([submodel(Net, lambda context: 0.5), compressed("Identity()")])
    odd = app_of(list(mods))

    class Nodes(Grid):
        def _answer(self, message: Message) -> Message:
            if message.metadata.dst_node_id == 1:
                self._client_app = odd
            reply = super()._answer(message)
            self._client_app = app
            return reply

    decoding = Decoding(FedAvg(fraction_evaluate=0.0), tiers=TIERS, model=Net, log=tmp_path / "run")
    grid = Nodes(app, 3, {})
    decoding.start(grid=grid, initial_arrays=ArrayRecord(Net().state_dict()), num_rounds=1)
    rows = read_clients(tmp_path / "run").set_index("node")
    assert rows["status"].drop("1").tolist() == ["ok"] * 2
    return str(rows["status"]["1"])


def lying(**facts: Any) -> Any:
    def mod(message: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(message, context)
        reply.content["fl_mlmc.tier"] = ConfigRecord(facts)
        return reply

    return mod


@pytest.mark.parametrize(
    ("mods", "why"),
    [
        ([submodel(Net)], "config has tier .*, the run has phone, gateway"),
        ([submodel(Net, 0.25)], "trained at width 0.25, the tiers are phone:0.5,gateway:1.0"),
        ([compressed("Identity()"), submodel(Net, 0.5)], "stands before compressed in the list"),
        ([lying(width=[1.0]), submodel(Net, 0.5)], r"trained at width \[1.0\]"),
        ([lying(), submodel(Net, 0.5)], "trained at width None"),
        ([lying(width=1.0), submodel(Net, 0.5), compressed("Identity()")], "expected .* and"),
        ([submodel(lambda width: nn.Linear(3, 3), 1.0)], "no record of the message holds the model's arrays"),
    ],
)
def test_a_client_that_breaks_a_rule_costs_itself_only(tmp_path: Path, mods: list[Any], why: str) -> None:
    status = one_round(tmp_path, *mods)
    assert re.search(f"^dropped: .*({why})", status), status


def test_the_width_of_a_tier_is_the_nodes_own() -> None:
    identify_process()
    message = Message(
        RecordDict({
            "arrays": ArrayRecord(Net().state_dict()), "fl_mlmc": ConfigRecord({"tiers": TIERS}),
            "config": ConfigRecord({"lr": 0.1}), "m": MetricRecord({"a": 1}),
        }), dst_node_id=1, message_type="train",
    )  # fmt: skip
    message.metadata.__dict__["_message_id"] = "1"
    seen: list[Message] = []

    def app(message: Message, context: Context) -> Message:
        seen.append(message)
        return Message(RecordDict({"extra": ArrayRecord({"x": Array(np.ones(2))})}), reply_to=message)

    reply = submodel(Net)(message, Context(1, 1, {"tier": "phone"}, RecordDict(), {}), app)
    assert seen[0].content["config"]["width"] == 0.5
    assert seen[0].content["arrays"]["3.weight"].shape == (3, 8)
    assert reply.content["fl_mlmc.tier"]["width"] == 0.5
