"""What clients hold out: the same rows in every round, never trained on, and told of in log and rows."""

import math

import numpy as np
import pytest
import torch

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.clients.finder import Finder
from fl_mlmc.clients.held_out import Division
from fl_mlmc.models import build_model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.protocol import ProtocolError, TrainTask, TrainUpdate
from fl_mlmc.simulations.app.launch import run
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.strategies.held_out import HeldOut, check_metrics
from fl_mlmc.submodels.flat import load_vector
from fl_mlmc.training.objectives import parse_objective


@pytest.mark.parametrize(("num_examples", "share"), [(1, 0.5), (2, 0.01), (10, 0.2), (10, 0.99), (237, 0.3)])
def test_a_division_is_of_all_examples_and_leaves_one_to_train_on(num_examples: int, share: float) -> None:
    division = Division.draw(num_examples, share, seed=3, client=5)
    together = np.concatenate([division.training, division.held_out])
    assert np.array_equal(np.sort(together), np.arange(num_examples))
    assert len(division.training) >= 1
    assert len(division.held_out) == min(max(1, round(share * num_examples)), num_examples - 1)
    again = Division.draw(num_examples, share, seed=3, client=5)
    assert np.array_equal(division.held_out, again.held_out)


def test_without_a_share_all_examples_are_trained_on_in_order() -> None:
    division = Division.draw(9, 0.0, 0, 0)
    assert division.training.tolist() == list(range(9))
    assert division.held_out.tolist() == []


def test_clients_and_seeds_hold_other_examples_out() -> None:
    drawn = {tuple(Division.draw(100, 0.2, seed, client).held_out) for seed in range(3) for client in range(3)}
    assert len(drawn) == 9


def test_a_client_evaluates_on_what_it_does_not_train_on(small: RunConfig) -> None:
    config = small.changed(evaluate_clients=0.25)
    data = FederatedData.open(prepare_data(config))
    finder = Finder(TrainTask(1, 2, "full", 1.0, ""), config, data)
    features, labels = data.client(2)
    division = Division.draw(len(labels), 0.25, config.seed, 2)
    assert finder.labels.tolist() == labels[division.training].tolist()
    assert finder.held_out.tolist() == labels[division.held_out].tolist()
    model = build_model(config.training.model, data.spec.input_shape, data.spec.num_classes)
    vector, module = model.initial(0), model.build(model.spec.units)
    load_vector(module, vector)
    outputs = module(torch.from_numpy(features[division.held_out])).detach()
    wanted = parse_objective("cross_entropy").score([(outputs, finder.held_out)], ("accuracy",))
    assert finder.evaluate(vector) == pytest.approx(wanted, rel=1e-5)
    assert Finder(TrainTask(1, 2, "full", 1.0, ""), small, data).evaluate(vector) == {}


def update(*values: float) -> TrainUpdate:
    return TrainUpdate(
        1,
        0,
        "",
        5,
        1,
        0.0,
        0.0,
        0.0,
        0.0,
        [],
        [],
        [],
        held_out_examples=4 * bool(values),
        held_out_metrics=list(values),
    )


def test_the_worst_tenth_is_where_the_metric_is_worst() -> None:
    held_out = HeldOut(parse_objective("cross_entropy"), ("loss", "accuracy"))
    row = held_out.round_columns([*(update(number, number / 20) for number in range(20)), update()])
    assert row["clients_evaluated"] == 20
    assert (row["clients_loss"], row["clients_loss_worst"]) == (9.5, 18.5)
    assert (row["clients_accuracy"], row["clients_accuracy_worst"]) == pytest.approx((0.475, 0.025))
    assert row["clients_loss_spread"] == pytest.approx(np.std(range(20)))


def test_what_is_no_number_is_left_out() -> None:
    held_out = HeldOut(parse_objective("bce"), ("loss", "auc"))
    row = held_out.round_columns([update(1.0, math.nan), update(3.0, 0.75)])
    assert (row["clients_auc"], row["clients_auc_worst"], row["clients_auc_spread"]) == (0.75, 0.75, 0.0)
    assert math.isnan(held_out.round_columns([])["clients_auc"])


def test_a_reply_with_other_metrics_breaks_a_rule() -> None:
    held_out = HeldOut(parse_objective("cross_entropy"), ("loss", "accuracy"))
    check_metrics(update(), None)
    check_metrics(update(), held_out)
    check_metrics(update(1.0, 0.5), held_out)
    for odd, rule in ((update(1.0), held_out), (update(1.0, 0.5, 0.5), held_out), (update(1.0), None)):
        with pytest.raises(ProtocolError, match="metrics of 4 examples held out, expected"):
            check_metrics(odd, rule)


def test_a_run_tells_of_each_client_and_of_the_worst(small: RunConfig) -> None:
    plain = run(None, quiet=True, **{**small.to_flower(), "run-name": "plain"})
    told = run(None, quiet=True, **{**small.to_flower(), "run-name": "told", "evaluate-clients": 0.2, "metrics": "f1"})
    new = {
        "clients_evaluated",
        *(f"clients_{name}{end}" for name in ("loss", "f1") for end in ("", "_worst", "_spread")),
    }
    assert set(told.rounds.columns) - set(plain.rounds.columns) == new | {"f1"}
    assert set(told.clients.columns) - set(plain.clients.columns) == {
        *("held_out_examples", "held_out_loss", "held_out_f1"),
    }
    last = told.clients[told.clients["round"] == 2]
    assert told.rounds["clients_f1"].iloc[-1] == pytest.approx(last["held_out_f1"].mean())
    assert told.rounds["clients_f1_worst"].iloc[-1] == last["held_out_f1"].min()
    assert (last["num_examples"] + last["held_out_examples"]).isin([239, 240]).all()
