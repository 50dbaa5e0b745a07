import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fl_mlmc.bilevel import Held, Rafbo, Steps, simulate
from fl_mlmc.bilevel.tasks import adapted, few_shot_tasks, meta_learning
from fl_mlmc.models.mlp import mlp


def test_new_tasks_are_easier_after_meta_learning() -> None:
    digits = load_digits()
    features, labels = torch.tensor(digits.images, dtype=torch.float32) / 8 - 1, torch.tensor(digits.target)
    rng = np.random.default_rng(0)
    tasks = few_shot_tasks(features[:1200], labels[:1200], 12, rng, num_shots=2)
    new = few_shot_tasks(features[1200:], labels[1200:], 10, rng, num_shots=2)
    problem = meta_learning(mlp((8, 8), 5, (32,)))
    trace = simulate(
        problem,
        tasks,
        Rafbo(5, Steps(0.3, 0.3, 0.3)),
        25,
        lambda server_round, client: Held.of(problem, "nested", (0.5, 1.0)[client % 2], server_round, client),
        dtype=torch.float32,
        cohort_size=6,
    )
    held, (before, head) = Held.of(problem, "nested", 1.0), problem.start(0)
    scores = [
        np.mean([adapted(held, x, torch.zeros_like(head), task)[1]["accuracy"] for task in new])
        for x in (before, trace.point.x)
    ]
    assert scores[1] > scores[0] + 0.05, scores


def test_shots_and_queries_are_different_examples_of_the_same_classes() -> None:
    labels = torch.arange(60) % 6
    (task,) = few_shot_tasks(
        torch.arange(60.0)[:, None], labels, 1, np.random.default_rng(0), num_ways=3, num_shots=2, num_queries=4
    )
    shots, queries = task.inner_rows, task.outer_rows
    assert shots.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(queries.labels) == 12
    assert not set(shots.features.flatten().tolist()) & set(queries.features.flatten().tolist())
    for way in range(3):
        classes = [set((rows.features[rows.labels == way].flatten() % 6).tolist()) for rows in (shots, queries)]
        assert classes[0] == classes[1]
        assert len(classes[0]) == 1


def test_too_few_examples_are_an_error() -> None:
    with pytest.raises(ValueError, match="1 classes have so many"):
        few_shot_tasks(torch.randn(30, 2), torch.zeros(30).long(), 1, np.random.default_rng(0))
