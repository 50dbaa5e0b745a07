import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fl_mlmc.bilevel import FiniteDifference, Held, Point, Rafbo, Steps, cut_only, simulate
from fl_mlmc.bilevel.tasks import Rows, hyper_representation
from fl_mlmc.models import Model
from fl_mlmc.models.cnn import cnn
from fl_mlmc.models.mlp import mlp
from fl_mlmc.models.resnet import resnet18

MODELS = [
    (mlp((1, 8, 8), 10, (16,)), (1, 8, 8)),
    (cnn((1, 8, 8), 10, (8, 8), 16, norm="group"), (1, 8, 8)),
    (cnn((1, 8, 8), 10, (8, 8), 16, norm="static", scaler=True), (1, 8, 8)),
]


def test_the_head_is_inner_and_all_else_outer() -> None:
    problem = hyper_representation(cnn((1, 8, 8), 10))
    assert list(problem.inner_spec.shapes) == ["head.weight", "head.bias"]
    assert "dense.weight" in problem.outer_spec.shapes
    assert problem.inner_spec.units == {"dense": 128, "classes": 10}


@pytest.mark.parametrize(("model", "shape"), MODELS)
@pytest.mark.parametrize("rule", ["nested", "rolling", "random"])
def test_losses_run_at_any_width(model: Model, shape: tuple[int, ...], rule: str) -> None:
    problem = hyper_representation(model)
    held = Held.of(problem, rule, 0.5, server_round=3, client=1)
    x, y = problem.start(0)
    point = held.gather(Point(x, y, torch.randn_like(y)))
    data = Rows.split(torch.randn(8, *shape), torch.arange(8), np.random.default_rng(0))
    seen = FiniteDifference().directions(held, point, data, np.random.default_rng(0))
    assert seen.outer.shape == point.x.shape
    assert seen.outer.any()
    assert seen.curvature > 0


def test_a_submodel_computes_what_the_full_model_does_with_all_else_at_zero() -> None:
    model = MODELS[0][0]
    problem = hyper_representation(model)
    held, full = Held.of(problem, "random", 0.5, client=2), Held.of(problem, "nested", 1.0)
    x, y = problem.start(1)
    point = Point(x, y, torch.randn_like(y))
    data = Rows.split(torch.randn(8, 64), torch.arange(8), np.random.default_rng(0))
    masks = [torch.zeros_like(part).index_fill(0, plan.indices, 1) for part, plan in ((x, held.outer), (y, held.inner))]
    zeroed = Point(x * masks[0], y * masks[1], point.v * masks[1])
    own = FiniteDifference().directions(held, held.gather(point), data, np.random.default_rng(0))
    whole = held.gather(Point(*FiniteDifference().directions(full, zeroed, data, np.random.default_rng(0))[:3]))
    for part, expected in zip(own[:3], whole, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-3, atol=1e-4)


def test_models_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(ValueError, match="backbone and a linear head"):
        hyper_representation(mlp((4,), 3, ()))
    with pytest.raises(ValueError, match="keeps statistics"):
        hyper_representation(resnet18((3, 8, 8), 3, norm="batch"))


def test_unequal_clients_learn_digits() -> None:
    digits = load_digits()
    features, labels = torch.tensor(digits.images, dtype=torch.float32) / 8 - 1, torch.tensor(digits.target)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    features, labels = features[order], labels[order]
    clients = [Rows.split(features[part], labels[part], rng) for part in np.array_split(np.arange(1400), 6)]
    problem = hyper_representation(mlp((8, 8), 10, (32,)))
    widths = [0.25, 0.5, 1.0] * 2
    trace = simulate(
        problem,
        clients,
        Rafbo(4, Steps(0.5, 0.5, 0.5)),
        25,
        lambda server_round, client: Held.of(problem, "nested", widths[client], server_round, client),
        dtype=torch.float32,
    )
    accuracy = Held.of(problem, "nested", 1.0).accuracy(trace.point.x, trace.point.y, features[1400:], labels[1400:])
    assert accuracy > 0.93
    assert trace.rows[-1].curvature >= problem.strong_convexity


def test_either_level_can_be_cut_alone() -> None:
    problem = hyper_representation(MODELS[0][0])
    outer, inner = (Held.of(cut_only(problem, which), "nested", 0.5) for which in ("outer", "inner"))
    both = Held.of(problem, "nested", 0.5)
    assert (outer.outer.size, outer.inner.size) == (both.outer.size, problem.inner_spec.size)
    assert (inner.outer.size, inner.inner.size) == (problem.outer_spec.size, both.inner.size)
    x, y = problem.start(0)
    data = Rows.split(torch.randn(8, 64), torch.arange(8), np.random.default_rng(0))
    for held in (outer, inner):
        point = held.gather(Point(x, y, torch.randn_like(y)))
        seen = FiniteDifference().directions(held, point, data, np.random.default_rng(0))
        assert seen.outer.shape == point.x.shape
        assert seen.system.shape == point.y.shape
