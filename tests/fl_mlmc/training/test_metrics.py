"""Metrics agree with scikit-learn's, however the rows are cut into batches."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from torch import Tensor, nn

from fl_mlmc.data.spec import DataSpec
from fl_mlmc.training.metrics import AUC
from fl_mlmc.training.objectives import bce, parse_objective

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


class Share(nn.Module):
    """A metric as torchmetrics makes them: a module, with sums of its own, that wants whole numbers for flags."""

    higher_is_better = True

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.register_buffer("right", torch.zeros(()))
        self.register_buffer("all", torch.zeros(()))

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        if targets.is_floating_point():
            raise ValueError("expected whole numbers")
        self.right += ((outputs > self.threshold) == targets).sum()
        self.all += targets.numel()

    def compute(self) -> Tensor:
        return self.right / self.all


@pytest.mark.parametrize("size", [1, 100])
def test_those_of_ones_own_are_made_as_torchmetrics_are(size: int) -> None:
    outputs, flags = torch.randn(60, 3), torch.randint(0, 2, (60, 3)).float()
    plain = bce()
    mine = replace(plain, metrics={**plain.metrics, "share": partial(Share, threshold=0.0)})
    mine.check(DataSpec((4,), 3, ("a", "b", "c"), "vector", "flags"))
    got = mine.score(zip(outputs.split(size), flags.split(size), strict=True), mine.chosen("share,accuracy"))
    assert got["share"] == pytest.approx(got["accuracy"])
    assert mine.is_better_higher("share")


def test_torchmetrics_own_agree_with_ours() -> None:
    theirs = pytest.importorskip("torchmetrics", reason="an extra: fl-mlmc[metrics]")
    outputs, classes, flags = torch.randn(60, 4), torch.randint(0, 4, (60,)), torch.randint(0, 2, (60, 4)).float()
    kinds = {"num_classes": 4, "average": "macro"}
    metrics = {
        "cross_entropy": {"f1": partial(theirs.F1Score, "multiclass", **kinds)}
        | {"auc": partial(theirs.AUROC, "multiclass", **kinds)},
        "bce": {"auc": partial(theirs.AUROC, "multilabel", num_labels=4)},
        "mse": {"mae": theirs.MeanAbsoluteError},
    }
    for name, targets in (("cross_entropy", classes), ("bce", flags), ("mse", torch.randn(60, 4))):
        batches = list(zip(outputs.split(7), targets.split(7), strict=True))
        ours = parse_objective(name)
        got = replace(ours, metrics=metrics[name], usual=None).score(batches, tuple(metrics[name]))
        assert got == pytest.approx(ours.score(batches, tuple(metrics[name])), rel=1e-5)


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
