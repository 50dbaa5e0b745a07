"""The FedAvg task of benchmarks/engines.py in pfl 0.6, on the same clients' data and the same module.

    python -m venv pfl && pfl/bin/pip install pfl==0.6.0 .       # an environment of its own
    python benchmarks/engines.py fedavg --pfl pfl/bin/python     # starts this script by torch.distributed.run

One process a processor, a thread each, as the Ray engine has it. Prints the seconds of a round.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.models import build_model

ROUNDS, COHORT = 12, 50


class Network(nn.Module):
    """The CNN with what pfl wants of a module: its loss and metrics."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, inputs: Tensor, labels: Tensor, eval: bool = False) -> Tensor:
        self.network.train(not eval)
        return nn.functional.cross_entropy(self.network(inputs), labels)

    @torch.no_grad()
    def metrics(self, inputs: Tensor, labels: Tensor) -> dict[str, Any]:
        return {"loss": Weighted(float(self.loss(inputs, labels, eval=True)) * len(labels), len(labels))}


class Clock(TrainingProcessCallback):
    """The seconds from the end of one round to the end of the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_central_iteration(self, metrics: Metrics, model: Any, *, central_iteration: int) -> tuple[bool, Metrics]:
        self.ends.append(time.perf_counter())
        return False, Metrics()


def main() -> None:
    torch.set_num_threads(1)
    data = FederatedData.open(Path(sys.argv[1]))
    model = build_model("cnn(conv=(32, 64), dense=128)", data.spec.input_shape, data.spec.num_classes)
    network = Network(model.build(model.spec.units))

    def dataset(client: int) -> PyTorchTensorDataset:
        features, labels = map(torch.from_numpy, data.client(client))
        return PyTorchTensorDataset((features, labels))

    clients = FederatedDataset(dataset, get_user_sampler("random", list(range(data.num_clients))))
    central = torch.optim.SGD(network.parameters(), 1.0)
    clock = Clock()
    FederatedAveraging().run(
        NNAlgorithmParams(ROUNDS, evaluation_frequency=ROUNDS + 1, train_cohort_size=COHORT, val_cohort_size=0),
        SimulatedBackend(clients, clients),
        PyTorchModel(network, torch.optim.SGD, central),
        NNTrainHyperParams(local_batch_size=10, local_num_epochs=1, local_learning_rate=0.1),
        callbacks=[clock],
    )
    rounds = [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)]
    if os.environ.get("RANK", "0") == "0":
        print("round seconds", min(rounds))


if __name__ == "__main__":
    main()
