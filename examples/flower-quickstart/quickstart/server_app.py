"""The ServerApp, as Flower's quickstart has it, but for the wrapper."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fl_mlmc.strategies import Decoding

from .task import Net, load_data, test

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train the model over the clients, and keep it."""
    config = context.run_config
    torch.manual_seed(0)
    strategy = Decoding(FedAvg(fraction_train=config["fraction-train"]), log=f"runs/{context.run_id}")
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        train_config=ConfigRecord({"lr": config["lr"]}),
        num_rounds=config["num-server-rounds"],
        evaluate_fn=global_evaluate,
    )
    torch.save(result.arrays.to_torch_state_dict(), "final_model.pt")


def global_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Loss and accuracy on the digits that no client has."""
    net = Net()
    net.load_state_dict(arrays.to_torch_state_dict())
    loss, accuracy = test(net, *load_data(-1, 1))
    return MetricRecord({"loss": loss, "accuracy": accuracy})
