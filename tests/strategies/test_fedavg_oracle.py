"""With Identity() and one tier, our strategy is Flower's FedAvg."""

from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.models import build_model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.rng import stream
from fl_mlmc.simulations import run
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.simulations.engines.local import LocalGrid
from fl_mlmc.submodels.flat import load_vector, to_vector
from fl_mlmc.training.local import train
from fl_mlmc.training.threads import threads


def fed_avg(config: RunConfig) -> torch.Tensor:
    """The final model of Flower's own strategy over whole models, trained from the same batches."""
    data = FederatedData.open(prepare_data(config))
    model = build_model(config.training.model, data.spec.input_shape, data.spec.num_classes)
    app = ClientApp()

    @app.train()
    def train_whole(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        module = model.build(model.spec.units)
        module.load_state_dict(message.content["arrays"].to_torch_state_dict())
        features, labels = map(torch.from_numpy, data.client(client))
        server_round = message.content["config"]["server-round"]
        with threads():
            train(module, features, labels, config.training, stream(config.seed, "batches", server_round, client))
        metrics = MetricRecord({"num-examples": len(labels)})
        return Message(RecordDict({"arrays": ArrayRecord(module.state_dict()), "metrics": metrics}), reply_to=message)

    module = model.build(model.spec.units)
    load_vector(module, model.initial(config.seed))
    grid = LocalGrid(app, config.cohort.num_clients, {})
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0)
    result = strategy.start(grid, ArrayRecord(module.state_dict()), config.num_rounds)
    module.load_state_dict(result.arrays.to_torch_state_dict())
    return to_vector(module)


def test_identity_and_one_tier_is_fed_avg(tmp_path: Path) -> None:
    config = RunConfig(
        num_rounds=3, num_clients=5, clients_per_round=5, engine="local", partition="dirichlet:0.5", device="cpu",
        model="cnn(conv=(4, 8), dense=16)", local_epochs=2, learning_rate=0.1, runs_dir=str(tmp_path), run_name="ours",
    )  # fmt: skip
    result = run(None, **config.to_flower())
    ours = np.concatenate([result.arrays[name].ravel() for name in result.arrays])
    np.testing.assert_allclose(ours, fed_avg(config).numpy(), rtol=2e-5, atol=2e-6)
