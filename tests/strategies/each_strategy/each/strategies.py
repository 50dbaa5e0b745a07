"""Strategies of Flower's that `Decoding` wraps, each made for five clients that all take part."""

from collections.abc import Callable

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping as ServerSideFixed
from flwr.serverapp.strategy import FedAvg, Strategy

ALL = {"fraction_train": 1.0, "fraction_evaluate": 1.0}
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "FedAvg": lambda: FedAvg(**ALL),
    "FedProx": lambda: flower.FedProx(**ALL, proximal_mu=0.1),
    "FedAvgM": lambda: flower.FedAvgM(**ALL, server_momentum=0.5),
    "FedAdagrad": lambda: flower.FedAdagrad(**ALL, eta=0.1),
    "FedAdam": lambda: flower.FedAdam(**ALL, eta=0.1),
    "FedYogi": lambda: flower.FedYogi(**ALL, eta=0.1),
    "QFedAvg": lambda: flower.QFedAvg(client_learning_rate=0.1, **ALL),
    "Krum": lambda: flower.Krum(**ALL, num_malicious_nodes=1),
    "MultiKrum": lambda: flower.MultiKrum(**ALL, num_nodes_to_select=2),
    "Bulyan": lambda: flower.Bulyan(**ALL),
    "FedMedian": lambda: flower.FedMedian(**ALL),
    "FedTrimmedAvg": lambda: flower.FedTrimmedAvg(**ALL),
    "DP, fixed": lambda: ServerSideFixed(FedAvg(**ALL), 0.0, 0.5, 5),
    "DP, adaptive": lambda: flower.DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(**ALL), 0.0, 5, clipped_count_stddev=0.25
    ),
}
