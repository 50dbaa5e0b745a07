import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from fl_mlmc.bilevel import Held, Rafbo, Steps, simulate
from fl_mlmc.bilevel.tasks import CleaningRows, Rows, detection_auc, hyper_cleaning, log_ridge
from fl_mlmc.bilevel.tasks.rows import Batch
from fl_mlmc.models.mlp import mlp


def test_learned_weights_tell_wrong_labels_from_right_ones() -> None:
    digits = load_digits()
    features, labels = torch.tensor(digits.images, dtype=torch.float32) / 8 - 1, torch.tensor(digits.target)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    features, labels = features[order], labels[order]
    num_noisy = 600
    is_wrong = torch.from_numpy(rng.random(num_noisy) < 0.4)
    shift = torch.from_numpy(rng.integers(1, 10, num_noisy))
    noisy = torch.where(is_wrong, (labels[:num_noisy] + shift) % 10, labels[:num_noisy])
    clean = np.array_split(np.arange(num_noisy, num_noisy + 200), 3)
    parts = [
        (Batch(features[own], noisy[own]), Batch(features[other], labels[other]))
        for own, other in zip(np.array_split(np.arange(num_noisy), 3), clean, strict=True)
    ]
    clients = CleaningRows.share_out(parts, batch_size=64)
    problem = hyper_cleaning(mlp((8, 8), 10, ()), num_noisy)
    trace = simulate(
        problem,
        clients,
        Rafbo(5, Steps(50.0, 0.3, 0.3)),
        50,
        lambda server_round, client: clients[client].held(problem, "nested", 1.0),
        dtype=torch.float32,
    )
    assert trace.rows[-1].coverage_outer_min == 1
    assert trace.rows[-1].uplink_values == num_noisy + 3 * 2 * 650
    assert detection_auc(trace.point.x, is_wrong) > 0.9


def test_the_auc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    weights, is_wrong = torch.from_numpy(rng.integers(0, 6, 50)), torch.from_numpy(rng.random(50) < 0.4)
    assert detection_auc(weights, is_wrong) == pytest.approx(roc_auc_score(~is_wrong, weights))


def test_weights_belong_to_the_client_that_has_the_examples() -> None:
    parts = [(Batch(torch.randn(size, 4), torch.zeros(size).long()),) * 2 for size in (3, 5)]
    clients = CleaningRows.share_out(parts)
    problem = hyper_cleaning(mlp((4,), 2, (6,)), 8)
    helds = [client.held(problem, "nested", 0.5) for client in clients]
    assert [held.outer.indices.tolist() for held in helds] == [[0, 1, 2], [3, 4, 5, 6, 7]]
    assert helds[0].inner.size == 3 * 4 + 3 + 2 * 3 + 2


def test_a_ridge_for_each_parameter_is_cut_along_with_it() -> None:
    problem = log_ridge(mlp((4,), 3, (8,)))
    rng = np.random.default_rng(0)
    clients = [Rows.split(torch.randn(20, 4), torch.from_numpy(rng.integers(0, 3, 20)), rng) for _ in range(2)]
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
    assert (trace.point.x != start).float().mean() > 0.9
