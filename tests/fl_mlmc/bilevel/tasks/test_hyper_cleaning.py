import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from fl_mlmc.bilevel import Held, Rafbo, Shard, Steps, simulate
from fl_mlmc.bilevel.tasks import CleaningRows, Rows, detection_auc, hyper_cleaning, log_ridge, with_wrong_labels
from fl_mlmc.bilevel.tasks.rows import Batch
from fl_mlmc.models.mlp import mlp


def test_learned_weights_tell_wrong_labels_from_right_ones() -> None:
    digits = load_digits()
    features, labels = torch.tensor(digits.images, dtype=torch.float32) / 8 - 1, torch.tensor(digits.target)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    features, labels = features[order], labels[order]
    clients = []
    for number, part in enumerate(np.array_split(np.arange(800), 3)):
        shard = Shard(number, features[part], labels[part], outer_share=0.25, batch_size=64)
        clients.append(CleaningRows.of(shard, 0.4, 10))
    problem = hyper_cleaning(mlp((8, 8), 10, ()))
    assert problem.of_client is not None
    own = [problem.of_client(client) for client in clients]
    trace = simulate(
        problem,
        clients,
        Rafbo(5, Steps(50.0, 0.3, 0.3)),
        50,
        lambda server_round, client: Held.of(own[client], "nested", 1.0),
        dtype=torch.float32,
    )
    row = trace.rows[-1]
    assert (row.coverage_outer_min, row.coverage_inner_min, row.uplink_values) == (None, 3, 3 * 2 * 650)
    weights = [trace.personal[number].x for number in range(3)]
    assert [len(each) for each in weights] == [len(client.noisy.labels) for client in clients] == [200, 200, 200]
    is_wrong = torch.cat([client.is_wrong for client in clients if client.is_wrong is not None])
    assert 0.3 < float(is_wrong.float().mean()) < 0.5
    assert detection_auc(torch.cat(weights), is_wrong) > 0.9


def test_wrong_labels_are_of_other_classes_and_the_others_stay() -> None:
    labels = torch.arange(1000) % 5
    noisy, is_wrong = with_wrong_labels(labels, 0.4, 5, np.random.default_rng(0))
    assert torch.equal(noisy != labels, is_wrong)
    assert set(noisy.tolist()) == set(range(5))
    assert float(is_wrong.float().mean()) == pytest.approx(0.4, abs=0.05)


def test_the_auc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    weights, is_wrong = torch.from_numpy(rng.integers(0, 6, 50)), torch.from_numpy(rng.random(50) < 0.4)
    assert detection_auc(weights, is_wrong) == pytest.approx(roc_auc_score(~is_wrong, weights))


def test_a_tier_cuts_the_model_and_none_of_the_weights() -> None:
    clients = [CleaningRows(*(Batch(torch.randn(size, 4), torch.zeros(size).long()),) * 2) for size in (3, 5)]
    problem = hyper_cleaning(mlp((4,), 2, (6,)))
    assert problem.of_client is not None
    helds = [Held.of(problem.of_client(client), "nested", 0.5) for client in clients]
    assert [held.outer.size for held in helds] == [3, 5]
    assert helds[0].inner.size == 3 * 4 + 3 + 2 * 3 + 2
    assert helds[0].num_values == 2 * helds[0].inner.size


def test_a_ridge_for_each_parameter_is_cut_along_with_it() -> None:
    problem = log_ridge(mlp((4,), 3, (8,)))
    rng = np.random.default_rng(0)
    clients = [
        Rows.split(torch.from_numpy(rng.normal(size=(20, 4))).float(), torch.from_numpy(rng.integers(0, 3, 20)), rng)
        for _ in range(2)
    ]
    start, _ = problem.start(0)
    trace = simulate(
        problem,
        clients,
        Rafbo(2, Steps(1.0, 0.2, 0.2)),
        5,
        lambda server_round, client: Held.of(problem, "nested", (0.5, 1.0)[client], server_round, client),
        dtype=torch.float32,
    )
    assert trace.rows[-1].coverage_outer_min == 1
    assert trace.uncovered == {}
    assert (trace.point.x != start).float().mean() > 0.7  # but for units that never fire
