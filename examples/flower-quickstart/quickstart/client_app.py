"""The ClientApp, as Flower's quickstart has it, but for the mod."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_mlmc.clients import compressed

from .task import Net, load_data
from .task import test as test_fn
from .task import train as train_fn

app = ClientApp(mods=[compressed("MLMC(TopK(fraction=0.05))")])


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model on the client's own digits."""
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    images, labels = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    loss = train_fn(net, images, labels, context.run_config["local-epochs"], msg.content["config"]["lr"])
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(labels)})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the model on them."""
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    images, labels = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    loss, accuracy = test_fn(net, images, labels)
    metrics = MetricRecord({"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(labels)})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
