"""Metrics agree with scikit-learn's, however the rows are cut into batches."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from torch import Tensor

from fl_mlmc.training.metrics import AUC
from fl_mlmc.training.objectives import parse_objective

RNG = np.random.default_rng(0)


def scored(objective: str, outputs: Tensor, targets: Tensor, size: int) -> dict[str, float]:
    known = parse_objective(objective)
    return known.score(zip(outputs.split(size), targets.split(size), strict=True), tuple(known.metrics))


@pytest.mark.parametrize("size", [1, 7, 100])
def test_those_of_classes(size: int) -> None:
    outputs = torch.from_numpy(RNG.normal(size=(60, 4)).round(1)).float()  # with ties
    targets = torch.from_numpy(RNG.integers(0, 4, 60))
    got = scored("cross_entropy", outputs, targets, size)
    said, scores = outputs.argmax(1).numpy(), outputs.softmax(1).numpy()
    assert got["accuracy"] == pytest.approx(sklearn.accuracy_score(targets, said))
    assert got["f1"] == pytest.approx(sklearn.f1_score(targets, said, average="macro"))
    assert got["auc"] == pytest.approx(sklearn.roc_auc_score(targets, scores, multi_class="ovr"))
    assert got["loss"] == pytest.approx(sklearn.log_loss(targets, outputs.double().softmax(1).numpy()), rel=1e-5)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_those_of_flags(size: int) -> None:
    outputs, flags = RNG.normal(size=(60, 3)).round(1), RNG.integers(0, 2, (60, 3))
    got = scored("bce", torch.from_numpy(outputs).float(), torch.from_numpy(flags).float(), size)
    assert got["accuracy"] == pytest.approx((flags == (outputs > 0)).mean())
    assert got["f1"] == pytest.approx(sklearn.f1_score(flags, outputs > 0, average="macro"))
    assert got["auc"] == pytest.approx(sklearn.roc_auc_score(flags, outputs.astype(np.float32), average="macro"))


@pytest.mark.parametrize("size", [1, 7, 100])
def test_those_of_numbers(size: int) -> None:
    outputs, targets = RNG.normal(size=(2, 60, 2)).astype(np.float32)
    got = scored("mse", torch.from_numpy(outputs), torch.from_numpy(targets), size)
    assert got["mae"] == pytest.approx(sklearn.mean_absolute_error(targets, outputs), rel=1e-5)
    assert got["rmse"] == pytest.approx(math.sqrt(sklearn.mean_squared_error(targets, outputs)), rel=1e-5)
    assert got["loss"] == pytest.approx(got["rmse"] ** 2, rel=1e-5)


def test_perplexity_is_the_exponential_of_the_loss_a_token() -> None:
    outputs, tokens = torch.randn(20, 5, 9), torch.randint(0, 9, (20, 5))
    got = scored("next_token", outputs, tokens, 6)
    probabilities = outputs.softmax(2).gather(2, tokens[:, :, None])[..., 0][tokens != 0]
    assert got["perplexity"] == pytest.approx(float(probabilities.log().mean().neg().exp()), rel=1e-4)
    assert got["loss"] == pytest.approx(math.log(got["perplexity"]), rel=1e-5)
    assert got["accuracy"] == pytest.approx(float((outputs.argmax(2) == tokens)[tokens != 0].float().mean()))


def test_classes_of_one_kind_have_no_auc_and_are_left_out_of_the_mean() -> None:
    def scores(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return outputs, targets > 0

    metric = AUC(scores)
    metric.update(torch.tensor([[0.1, 0.5], [0.9, 0.2]]), torch.tensor([[0, 1], [1, 1]]))
    assert metric.compute() == 1.0
    metric = AUC(scores)
    metric.update(torch.tensor([[0.1], [0.9]]), torch.tensor([[1], [1]]))
    assert math.isnan(metric.compute())
    assert math.isnan(AUC(scores).compute())


def test_nothing_has_no_values() -> None:
    for name in ("cross_entropy", "mse", "bce", "next_token"):
        known = parse_objective(name)
        assert all(map(math.isnan, known.score([], tuple(known.metrics)).values()))
