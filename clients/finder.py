"""What a client finds at a point of the model: its update by local training, or the gradient of a minibatch."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_mlmc.models import Model, build_model
from fl_mlmc.models.norms import fill_statistics, has_static_statistics, pieces
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.protocol import TrainTask
from fl_mlmc.run.rng import stream
from fl_mlmc.submodels import IndexPlan, plan
from fl_mlmc.submodels.flat import gradient_vector, load_vector, to_vector
from fl_mlmc.training.local import Trained, TrainingError, batches, device_named, drawing, least_batch, train
from fl_mlmc.training.tier_losses import Loss, local_loss, masked_cross_entropy, present_classes

from .data import LocalData
from .held_out import Division


class Finder:
    """Looks at points with one client's own examples, and keeps count of what that takes.

    `update`, `gradient` and `step` take a point and the number of a sample: equal numbers see the same minibatches.
    TrainingError where what they find is not finite.
    """

    def __init__(self, task: TrainTask, config: RunConfig, data: LocalData) -> None:
        self.model = build_model(config.training.model, data.spec.input_shape, data.spec.num_classes)
        _check_base(self.model, task)
        width, server_round, client = task.width, task.server_round, task.client
        self.own: IndexPlan = plan(self.model.spec, config.cohort.width_rule, width, server_round, client, config.seed)
        self.device = device_named(config.engine.device)
        self.objective = config.training.parsed_objective
        labels = torch.from_numpy(data.client_labels(client))
        division = Division.draw(len(labels), config.data.evaluate_clients, config.seed, client)
        self.labels = labels[division.training].to(self.device)
        self.held_out = labels[division.held_out]
        self.present = present_classes(self.labels, data.spec)
        self.trained: list[Trained] = []
        self.features = Features(data, client, self.device, division.training)
        self._held_out_features = Features(data, client, self.device, division.held_out)
        self.server_round = server_round
        self._module = _module(self.model, tuple(self.own.units.items()), self.device)
        self._task, self._config = task, config
        self._known: tuple[Tensor, Tensor, Trained] | None = None
        self.seconds_ahead = 0.0
        """Seconds of training that were spent before anyone asked."""

    def update(self, point: Tensor, sample: int = 0) -> Tensor:
        """After − before of local training that starts at `point`; both float32 (size,) of the submodel."""
        if self._known is not None and sample == 0 and point is self._known[0]:
            _, found, trained = self._known
            self._known = None
        else:
            load_vector(self._module, point)
            rng, loss = self._rng("batches", sample), self._loss(sample)
            with drawing(self._rng("layers", sample)):
                trained = train(
                    self._module, self.features, self.labels, self._config.training, rng, loss, self.server_round
                )
            found = to_vector(self._module).sub_(point)
        self.trained.append(trained)
        return _checked(found)

    def know(self, point: Tensor, update: Tensor, trained: Trained) -> None:
        """Have the update of sample 0 at `point` before it is asked for: others were trained along with it."""
        self._known, self.seconds_ahead = (point, update, trained), trained.seconds

    def minibatches(self) -> Iterator[Tensor]:
        """Those of sample 0, each int64 (batch,): places among the client's examples."""
        return self._batches(0)

    def gradient(self, point: Tensor, sample: int = 0) -> Tensor:
        """∇f_i at `point`, shaped as it, on one minibatch; on all examples if batch-size is as large."""
        load_vector(self._module, point)
        start = time.perf_counter()
        self._module.train()
        self._module.zero_grad()
        batch = next(self._batches(sample))
        with drawing(self._rng("layers", sample)):
            loss = self._loss(sample)(self.features[batch], self.labels[batch])
            loss.backward()
        self.trained.append(Trained(float(loss.detach()), 1, time.perf_counter() - start))
        return _checked(gradient_vector(self._module))

    def step(self, point: Tensor, sample: int = 0) -> Tensor:
        """The update, shaped as `point`, of one step of plain SGD on one minibatch."""
        return -self._config.training.learning_rate * self.gradient(point, sample)

    def evaluate(self, point: Tensor) -> dict[str, float]:
        """The loss and the run's metrics of the model `point` on the examples held out; empty if there are none.

        Normalisation that never sends its statistics takes those of the client's training examples.
        """
        if not len(self.held_out):
            return {}
        load_vector(self._module, point)
        self._module.eval()
        if has_static_statistics(self._module):
            fill_statistics(
                self._module, (self.features[rows] for rows in pieces(torch.arange(len(self.labels)), 1024))
            )
        with torch.inference_mode():
            batches = (
                (self._module(self._held_out_features[rows]), self.held_out[rows].to(self.device))
                for rows in torch.arange(len(self.held_out)).split(1024)
            )
            return self.objective.score(batches, self._config.training.metric_names[1:])

    def _batches(self, sample: int) -> Iterator[Tensor]:
        rng = self._rng("batches", sample)
        return batches(len(self.labels), self._config.training, rng, least_batch(self._module))

    def _loss(self, sample: int) -> Loss:
        config, task = self._config, self._task
        masked = config.training.masked_cross_entropy
        return local_loss(
            self.model,
            self._module,
            config.cohort.width_rule,
            task.width,
            self.server_round,
            self._rng("widths", sample),
            [tier.width for tier in config.cohort.tier_list],
            masked_cross_entropy(self.present) if masked else self.objective.criterion,
            config.training.distill,
        )

    def _rng(self, purpose: str, sample: int) -> np.random.Generator:
        which = [sample] if sample else []
        return stream(self._config.seed, purpose, self.server_round, self._task.client, *which)


@dataclass(frozen=True)
class Features:
    """A client's features, read when they are asked for: a round of a few steps needs few of them."""

    data: LocalData
    client: int
    device: torch.device
    places: NDArray[np.int64]
    """Those of the examples that count, among all of the client's."""

    def __getitem__(self, rows: Tensor) -> Tensor:
        chosen = self.places[rows.numpy()]
        return torch.from_numpy(self.data.client_features(self.client, chosen)).to(self.device)


@lru_cache(maxsize=8)
def _module(model: Model, units: tuple[tuple[str, int], ...], device: torch.device) -> nn.Module:
    # One a process and tier: building draws initial weights that the broadcast then replaces.
    return model.build(dict(units)).to(device)


def _check_base(model: Model, task: TrainTask) -> None:
    """ValueError unless what does not travel of the model is here what it is at the server."""
    if task.base != (here := model.base_digest()):
        raise ValueError(
            f"the model's base is another one here: SHA-256 {here[:12] or 'of none'}…, the server's is "
            f"{task.base[:12] or 'of none'}…; put the server's weights here, and name their folder by the node's "
            "`weights`"
        )


def _checked(found: Tensor) -> Tensor:
    # One number that is not finite spoils any sum. Finite ones may spoil it in float32, in a tenth of the time.
    if not (math.isfinite(float(found.sum())) or math.isfinite(float(found.sum(dtype=torch.float64)))):
        raise TrainingError("the update holds values that are not finite")
    return found
