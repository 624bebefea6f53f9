"""What a site does when the server asks: train and evaluate, on examples that stay here."""

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from lips_app import task
from lips_app.lips.mod import keep_gradient, lips
from lips_app.sites import load_site

app = ClientApp(mods=[lips])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train what was received, part of which the mod may have zeroed."""
    site = load_site(context)
    config = {**context.run_config, **message.content["config"]}
    received = {name: array.numpy() for name, array in message.content["arrays"].items()}
    trained = task.train(received, site, config)
    keep_gradient(context, trained.gradient)  # stays here, for the mask of the next round
    # in the order in which they came: some of Flower's strategies and mods go by it
    arrays = ArrayRecord({name: Array(trained.arrays[name]) for name in received})
    metrics = MetricRecord({"loss": trained.loss, "num-examples": len(site.y_train)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the global model, which is whole, on this site's test examples."""
    site = load_site(context)
    received = {name: array.numpy() for name, array in message.content["arrays"].items()}
    loss, accuracy = task.evaluate(received, site, context.run_config)
    metrics = {"loss": loss, "accuracy": accuracy, "num-examples": len(site.y_test)}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)
