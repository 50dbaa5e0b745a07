"""Few-shot meta-learning: every client is a task with its own head; the backbone learns to make them easy.

Hyper-representation with a personal lower problem: y_i is fitted to the few labelled examples of task i, f_i judges it
on others (Franceschi et al. 2018, arXiv 1806.04910, section 5.3). A new task is met by fitting a new head.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...models import Model
from ...run.rng import stream
from ..problem import BilevelProblem, Held, Shard, Tensors
from .adapt import adapted, mean_of
from .hyper_representation import hyper_representation
from .rows import Batch, Rows


def meta_learning(
    model: Model,
    strong_convexity: float = 0.1,
    num_ways: int = 5,
    num_shots: int = 5,
    num_queries: int = 15,
    num_new_tasks: int = 20,
) -> BilevelProblem:
    """In a run each client draws its task from its own examples, once for all rounds; `num_ways` ≤ the model's classes.

    A task has `num_shots` examples of each class for the inner loss and `num_queries` for the outer. Evaluated on
    `num_new_tasks` tasks out of the test split, each met with a head trained from zero.
    """
    base = hyper_representation(model, strong_convexity, lower="personal")
    assert base.predict is not None
    logits = base.predict

    def predict(x: Tensors, y: Tensors, features: Tensor) -> Tensor:
        return logits(x, y, features)[:, :num_ways]  # the head's other rows are nobody's

    def loss(x: Tensors, y: Tensors, batch: Any) -> Tensor:
        return cross_entropy(predict(x, y, batch.features), batch.labels)

    def tasks(features: Tensor, labels: Tensor, count: int, rng: np.random.Generator) -> list[Rows]:
        return few_shot_tasks(features, labels, count, rng, num_ways, num_shots, num_queries)

    def data(shard: Shard) -> Rows:
        return tasks(shard.features, shard.labels, 1, stream(shard.seed, "few-shot-task", shard.client))[0]

    def evaluate(x: Tensor, y: Tensor, features: Tensor, labels: Tensor) -> Mapping[str, float]:
        held = Held.of(problem, "nested", 1.0)
        new = tasks(features, labels, num_new_tasks, stream(0, "new-tasks"))
        return mean_of([adapted(held, x, torch.zeros_like(y), task)[1] for task in new])

    problem = replace(base, outer_loss=loss, inner_loss=loss, predict=predict, data=data, evaluate=evaluate)
    return problem


def few_shot_tasks(
    features: Tensor,
    labels: Tensor,
    num_tasks: int,
    rng: np.random.Generator,
    num_ways: int = 5,
    num_shots: int = 5,
    num_queries: int = 15,
) -> list[Rows]:
    """Tasks of `num_ways` classes, numbered anew; `num_shots` inner and `num_queries` outer examples of each.

    ValueError if too few classes of `labels` (examples,) have so many.
    """
    groups = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    groups = [group for group in groups if len(group) >= num_shots + num_queries]
    if len(groups) < num_ways:
        raise ValueError(
            f"tasks of {num_ways} classes with {num_shots + num_queries} examples each cannot be made: "
            f"{len(groups)} classes have so many. Give a client more examples, or a task fewer ways, shots or queries"
        )
    tasks = []
    for _ in range(num_tasks):
        shots, queries = [], []
        for number in rng.choice(len(groups), num_ways, replace=False):
            picked = groups[number][torch.from_numpy(rng.permutation(len(groups[number])))]
            shots.append(picked[:num_shots])
            queries.append(picked[num_shots : num_shots + num_queries])
        names = torch.arange(num_ways)
        tasks.append(
            Rows(
                Batch(features[torch.cat(shots)], names.repeat_interleave(num_shots)),
                Batch(features[torch.cat(queries)], names.repeat_interleave(num_queries)),
                num_ways * max(num_shots, num_queries),
            )
        )
    return tasks
