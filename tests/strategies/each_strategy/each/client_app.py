"""The ClientApp. Which mods it has, the server's settings say: one app serves all strategies."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from fl_mlmc.clients import compressed, submodel

from .net import Net, accuracy, examples
from .net import train as train_net


def width_of(context: Context) -> float:
    """Every other client is a phone."""
    return 0.5 if int(context.node_config["partition-id"]) % 2 else 1.0


def chosen(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """`ClientApp(mods=[submodel(Net, width_of), compressed(…)])`, the first with tiers only."""
    config = message.content["config"]

    def coded(message: Message, context: Context) -> Message:
        return compressed(str(config["compressor"]))(message, context, call_next)

    return submodel(Net, width_of)(message, context, coded) if config["has-tiers"] else coded(message, context)


app = ClientApp(mods=[chosen])


def loaded(message: Message) -> Net:
    """The model that came."""
    net = Net(float(message.content["config"].get("width", 1.0)))
    net.load_state_dict(message.content["arrays"].to_torch_state_dict(), strict=False)
    return net


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on the client's own points."""
    net, (points, corners) = loaded(message), examples(1 + int(context.node_config["partition-id"]))
    metrics = MetricRecord({"train_loss": train_net(net, points, corners), "num-examples": len(points)})
    state = net.state_dict()
    arrays = ArrayRecord({name: state[name] for name in message.content["arrays"]})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate on them."""
    points, corners = examples(1 + int(context.node_config["partition-id"]))
    metrics = MetricRecord({"eval_acc": accuracy(loaded(message), points, corners), "num-examples": len(points)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
