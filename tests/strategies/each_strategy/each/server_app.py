"""The ServerApp: two rounds of each strategy."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fl_mlmc.strategies import Decoding

from .net import Net, accuracy, examples
from .strategies import STRATEGIES

SPARSE, KEEPS_ALL = "MLMC(TopK(fraction=0.05))", "Dither(unit=1.0)"
MEANS = ("FedAvg", "FedProx", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run them, a log each."""
    runs = {name: (Decoding(make(), log=log_of(context, name)), name in MEANS) for name, make in STRATEGIES.items()}
    tiers = Decoding(FedAvg(), log=log_of(context, "tiers"), tiers="phone:0.5,gateway:1.0", model=Net)
    runs["tiers"] = tiers, False
    for name, (strategy, is_mean) in runs.items():
        torch.manual_seed(0)
        config = {"compressor": SPARSE if is_mean else KEEPS_ALL, "has-tiers": name == "tiers"}
        strategy.start(
            grid=grid,
            initial_arrays=first_arrays(name),
            num_rounds=int(context.run_config["num-server-rounds"]),
            train_config=ConfigRecord(dict(config)),
            evaluate_config=ConfigRecord(dict(config)),
            evaluate_fn=global_evaluate,
        )


def first_arrays(name: str) -> ArrayRecord:
    """The model, with batch norm's count; without for QFedAvg, which fails on whole numbers."""
    state = Net().state_dict()
    return ArrayRecord(
        {key: tensor for key, tensor in state.items() if tensor.is_floating_point() or name != "QFedAvg"}
    )


def log_of(context: Context, name: str) -> str:
    """Where the run of a strategy is logged."""
    return f"runs/{context.run_id}/{name}"


def global_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Accuracy on points that no client has."""
    net = Net()
    net.load_state_dict(arrays.to_torch_state_dict(), strict=False)
    return MetricRecord({"accuracy": accuracy(net, *examples(0))})
