"""The model and its training, in Flax: lipsjax's own, on the very batches of the simulator."""

import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from lips_app.sites import Site

from lipsjax import models, tree
from lipsjax.keys import Purpose, derive
from lipsjax.local import LocalTraining, model_loss
from lipsjax.local import train as train_locally
from lipsjax.runs.build import build_optimizer
from lipsjax.runs.config import LocalConfig
from lipsjax.strategies.fedprox import pulled
from lipsjax.types import Examples, Variables


class Trained(NamedTuple):
    """What training leaves behind."""

    arrays: dict[str, np.ndarray]
    gradient: dict[str, np.ndarray]  # of the last mini-batch
    loss: float  # mean over the examples seen


@functools.cache
def model_of(settings: str):
    """Return the study's model, and the variables of any."""
    config = json.loads(settings)
    model = models.build(
        config["model"],
        num_classes=config["classes"],
        input_shape=tuple(json.loads(config["input-shape"])),
        width=config.get("width"),
        depth=config["depth"],
        norm=config["norm"],
    )
    return model, model.init(jax.random.key(0))


@functools.cache
def training_of(settings: str):
    """Return a round of one site, compiled."""
    config, (model, _) = json.loads(settings), model_of(settings)
    local = LocalConfig(
        optimizer=config["optimizer"],
        learning_rate=config["learning-rate"],
        weight_decay=config["weight-decay"],
        options=json.loads(config["optimizer-options"]),
    )
    rounds, mu = config["num-server-rounds"], config.get("proximal-mu", 0.0)
    rates = {
        "constant": None,
        "linear": lambda t: 1 - t / rounds,
        "cosine": lambda t: (1 + jnp.cos(jnp.pi * t / rounds)) / 2,
    }
    training = LocalTraining(
        build_optimizer(local),
        config["local-epochs"],
        config["batch-size"],
        rate=rates[config["rate-schedule"]],
    )

    @jax.jit
    def run(key, variables: Variables, pool: Examples, turn):
        loss = model_loss(model)
        everything = jnp.arange(len(pool.labels))
        return train_locally(
            key,
            variables,
            pool,
            everything,
            jnp.ones_like(everything, bool),
            training=training.at_round(turn),
            loss_fn=pulled(loss, variables.params, mu) if mu else loss,
            layers=model.layers,
            ragged=False,
            gradient_layers=model.layers,
        )

    return run


def variables_of(arrays: Mapping[str, np.ndarray], settings: str) -> Variables:
    """Return what was received as the model has it."""
    return tree.put(model_of(settings)[1], {name: jnp.asarray(x) for name, x in arrays.items()})


def settings_of(config: Mapping[str, Any]) -> str:
    """Return the settings of a run, without those of a round, as a text that names a program."""
    of_round = ("lips-", "server-round")
    ours = {name: value for name, value in config.items() if not name.startswith(of_round)}
    return json.dumps(ours, sort_keys=True)


def train(arrays: Mapping[str, np.ndarray], site: Site, config: Mapping[str, Any]) -> Trained:
    """Train for a round, from what was received."""
    settings, turn = settings_of(config), config["server-round"] - 1
    model, _ = model_of(settings)
    key = derive(jax.random.key(config["seed"]), turn, site.number, Purpose.BATCHES)
    pool = Examples(jnp.asarray(site.x_train), jnp.asarray(site.y_train))
    done = training_of(settings)(key, variables_of(arrays, settings), pool, turn)
    found = tree.pick(done.variables, lambda path: True)
    names = ["params/" + "/".join(layer.path) for layer in model.layers]
    return Trained(
        {name: np.asarray(found[name]) for name in arrays},
        {n: np.asarray(g) for n, g in zip(names, done.last_gradient, strict=True)},
        float(done.loss / done.examples),
    )


def evaluate(
    arrays: Mapping[str, np.ndarray], site: Site, config: Mapping[str, Any]
) -> tuple[float, float]:
    """Return mean loss and accuracy on the site's test examples."""
    settings = settings_of(config)
    model, _ = model_of(settings)
    everything = jnp.ones(len(site.y_test), bool)
    variables = variables_of(arrays, settings)
    logits = model.apply(variables, jnp.asarray(site.x_test), mask=everything, train=False).logits
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, site.y_test)
    return float(losses.mean()), float((logits.argmax(1) == site.y_test).mean())
