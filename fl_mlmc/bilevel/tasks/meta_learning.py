"""Few-shot meta-learning: every client is a task with its own head; the backbone learns to make them easy.

Hyper-representation with a personal lower problem: y_i is fitted to the few labelled examples of task i, f_i judges it
on others (Franceschi et al. 2018, arXiv 1806.04910, section 5.3). A new task is met by fitting a new head.
"""

import numpy as np
import torch
from torch import Tensor

from ...models import Model
from ..problem import BilevelProblem, Held
from .hyper_representation import hyper_representation
from .rows import Batch, Rows


def meta_learning(model: Model, strong_convexity: float = 0.1) -> BilevelProblem:
    """`model` has as many classes as a task."""
    return hyper_representation(model, strong_convexity, lower="personal")


def few_shot_tasks(
    features: Tensor,
    labels: Tensor,
    num_tasks: int,
    rng: np.random.Generator,
    num_ways: int = 5,
    num_shots: int = 5,
    num_queries: int = 15,
) -> list[Rows]:
    """Tasks of `num_ways` classes, numbered anew; `num_shots` inner and `num_queries` outer examples of each."""
    groups = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    groups = [group for group in groups if len(group) >= num_shots + num_queries]
    if len(groups) < num_ways:
        raise ValueError(
            f"tasks of {num_ways} classes with {num_shots + num_queries} examples each cannot be made: "
            f"{len(groups)} classes have so many"
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


def adapted(
    held: Held, x: Tensor, y: Tensor, task: Rows, num_steps: int = 50, step: float = 0.5
) -> tuple[Tensor, float]:
    """A head fitted to the task's inner examples by gradient steps, and its accuracy on the outer ones."""
    rng = np.random.default_rng(0)  # tasks are small: every minibatch is the whole task
    for _ in range(num_steps):
        leaf = y.detach().requires_grad_()
        y = y - step * torch.autograd.grad(held.inner_loss(x, leaf, task.inner(rng)), leaf)[0]
    return y, held.accuracy(x, y, *task.outer_rows)
