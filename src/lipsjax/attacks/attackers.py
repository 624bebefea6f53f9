"""Attacks on clients of one round, each a compiled function of a chunk of them.

What an attacker may know is one value, :class:`Knowledge`, and every result is recorded with it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lipsjax import tree
from lipsjax.attacks.labels import as_labels, expected_counts, overlap, whole_counts
from lipsjax.attacks.linear import invert_linear
from lipsjax.attacks.matching import Found, Search, objective_of, reconstruct
from lipsjax.attacks.membership import margin
from lipsjax.attacks.seen import Seen, aware, nearest_start, unaware
from lipsjax.attacks.victims import Given, Moment, turn_of
from lipsjax.clients import ClientData
from lipsjax.keys import Purpose, derive
from lipsjax.recording.attacks import Attacker
from lipsjax.rounds import RoundSpec
from lipsjax.rounds.client_update import Turn
from lipsjax.strategies.delta import shared_params
from lipsjax.strategies.steps import effective_steps
from lipsjax.strategy import Rank
from lipsjax.types import Array, Layer, Model, PyTree, Variables


class Knowledge(NamedTuple):
    """What an attacker knows beside the message, the model and how clients train."""

    attacker: Attacker = "unaware"  # aware: of the defence, by :func:`seen_by`
    bitmaps: bool = False  # whether mask bitmaps travel, so that who is aware sees them
    labels: bool = True  # whether the labels of the examples are given


Attack = Callable[..., PyTree]
"""(target, when, given, key) -> what is found of one client."""


class Target(NamedTuple):
    """The data of a run, and what is known of them beforehand."""

    data: ClientData
    low: float  # the least that an input can be, which is known
    high: float  # the largest
    normalise: tuple[Array, Array] | None  # that the model does itself: mean, deviation


def masks_are_known(spec: RoundSpec, knowledge: Knowledge) -> bool:
    """Tell whether who is aware of the defence knows each client's mask.

    Masks of random or of the global model's own values can be drawn again, and one that all share
    is of the server; of those that clients choose by their gradients only bitmaps tell.
    """
    sparsifier = spec.sparsifier
    return (
        sparsifier is None or knowledge.bitmaps or sparsifier.gradient is None or sparsifier.shared
    )


def is_plain(spec: RoundSpec) -> bool:
    """Tell whether there is no defence to know: then both attackers are one.

    Masks and compression are what the two read differently.
    """
    return spec.sparsifier is None and Rank.ENCODE not in spec.strategy.wrappers


def seen_by(spec: RoundSpec, knowledge: Knowledge, when: Moment, turn: Turn) -> Seen:
    """Return what an attacker takes one client's message for."""
    strategy, run, model = spec.strategy, spec.run, when.state.global_model
    if knowledge.attacker == "unaware":
        return unaware(strategy, run, model, turn.message)
    if spec.sparsifier is None:
        start = model
    elif masks_are_known(spec, knowledge):
        # what clients keep for themselves, as FedBN's statistics, the server does not know
        start = tree.put(model, shared_params(strategy, run, turn.context.variables))
    else:
        guessed = nearest_start(strategy, run, model, turn.message)
        start = tree.select(when.state.sparse, guessed, model)
    return aware(strategy, run, model, start, turn.message)


def label_counts(spec: RoundSpec, target: Target, seen: Seen, turn: Turn, key: Array) -> Array:
    """Return the counts of each class that the classifier's bias gives away, [classes] int32.

    The mean prediction is guessed from what the model makes of uniform noise.
    """
    path = bias_path(spec.model.layers[-1])
    sgd = spec.run.sgd
    count = _examples(target, turn)
    shape, dtype = target.data.train.inputs.shape[1:], jax.tree.leaves(seen.delta)[0].dtype
    noise = jax.random.uniform(key, (64, *shape), dtype)
    noise = target.low + (target.high - target.low) * noise
    prediction = spec.model.apply(seen.start, noise, mask=jnp.ones(64, bool), train=False)
    mean = jnp.mean(jax.nn.softmax(prediction.logits), axis=0)
    rate = sgd.learning_rate * effective_steps(turn.result.steps, sgd.momentum)
    expected = expected_counts(seen.delta[path], mean, examples=count, rate=rate)
    return whole_counts(expected, examples=count)


def true_labels(target: Target, turn: Turn) -> tuple[Array, Array]:
    """Return a client's labels [n], and which are real."""
    client = turn.context.client_id
    index, mask = target.data.train_index[client], target.data.train_mask[client]
    return jnp.asarray(target.data.train.labels)[index], mask


def find_labels(spec: RoundSpec, knowledge: Knowledge) -> Attack:
    """Return the attack on labels: how many of each class, and how much of it is right."""

    def one(target: Target, when: Moment, given: Given, key: Array):
        turn = turn_of(spec, target.data, when, given)
        guessed = label_counts(spec, target, seen_by(spec, knowledge, when, turn), turn, key)
        labels, mask = true_labels(target, turn)
        true = jnp.zeros_like(guessed).at[labels].add(mask.astype(guessed.dtype))
        even = whole_counts(jnp.ones(len(true)), examples=_examples(target, turn))
        return {"accuracy": overlap(guessed, true), "chance": overlap(even, true)}

    return one


def read_inputs(spec: RoundSpec, knowledge: Knowledge) -> Attack:
    """Return the attack on a linear first layer: one candidate for each of its units."""
    layer = spec.model.layers[0]
    kernel = "/".join(("params", *layer.path))

    def one(target: Target, when: Moment, given: Given, key: Array):
        del key
        seen = seen_by(spec, knowledge, when, turn_of(spec, target.data, when, given))
        read = invert_linear(seen.delta[kernel], seen.delta[bias_path(layer)])
        inputs = read.inputs.reshape(-1, *target.data.train.inputs.shape[1:])
        if target.normalise is not None:
            mean, deviation = target.normalise
            inputs = inputs * deviation + mean
        return Found(jnp.clip(inputs, target.low, target.high), -read.strength)

    return one


def match(
    spec: RoundSpec, model: Model, knowledge: Knowledge, search: Search, *, restarts: int
) -> Attack:
    """Return an attack by matching: the best of some restarts, by what the attacker can see.

    Args:
      spec: static.
      model: of the clients, whose training can be differentiated: convolutions by patches, as those
        by a loop have rules of their own for first derivatives alone.
      knowledge: of the attacker.
      search: how it searches.
      restarts: at least 1.
    """

    def one(target: Target, when: Moment, given: Given, key: Array):
        turn = turn_of(spec, target.data, when, given)
        seen = seen_by(spec, knowledge, when, turn)
        labels, mask = true_labels(target, turn)
        for_labels, for_batches, for_starts = jax.random.split(key, 3)
        if not knowledge.labels:
            counts = label_counts(spec, target, seen, turn, for_labels)
            labels = as_labels(counts, examples=len(labels))
        training = spec.training.at_round(when.state.round)
        objective = objective_of(model, training, seen, labels, mask, for_batches, search)
        shape = (len(labels), *target.data.train.inputs.shape[1:])

        def restart(key: Array) -> Found:
            dtype = jax.tree.leaves(seen.start.params)[0].dtype
            noise = jax.random.uniform(key, shape, dtype)
            begin = target.low + (target.high - target.low) * noise
            return reconstruct(objective, begin, search, low=target.low, high=target.high)

        found = jax.vmap(restart)(jax.random.split(for_starts, restarts))
        best = jnp.nanargmin(jnp.where(jnp.isnan(found.objective), jnp.inf, found.objective))
        return jax.tree.map(lambda x: x[best], found)

    return one


class Updates(NamedTuple):
    """What the server got of one client, as membership attacks use it."""

    model: Variables
    direction: dict[str, Array]  # of its update, of length 1


def updates(spec: RoundSpec, knowledge: Knowledge) -> Callable[..., Updates]:
    """Return what gives a client's model and update as the server has them."""

    def one(target: Target, when: Moment, given: Given) -> Updates:
        turn = turn_of(spec, target.data, when, given)
        seen = seen_by(spec, knowledge, when, turn)
        start = shared_params(spec.strategy, spec.run, seen.start)
        new = jax.tree.map(jnp.add, start, seen.delta)
        model = tree.put(seen.start, new)
        statistics = turn.result.variables.batch_stats
        return Updates(model._replace(batch_stats=statistics), _unit(seen.delta))

    return one


def member_scores(model: Model) -> Callable[..., dict[str, Array]]:
    """Return what scores examples of one victim.

    Args:
      model: of the clients.

    Returns:
      ``(everyone, when, place, inputs, labels) -> scores``, of the updates of all clients of the
      round, stacked, the moment before it, and the victim's place among them. Scores are
      [examples]: ``loss`` under the victim's model, ``global`` under the model that went out; and
      [clients, examples]: ``margins`` and ``cosines`` of everybody's model and update.
    """

    def log_probabilities(variables: Variables, inputs: Array) -> Array:
        mask = jnp.ones(len(inputs), bool)
        logits = model.apply(variables, inputs, mask=mask, train=False).logits
        return jax.nn.log_softmax(logits)

    def score(
        everyone: Updates, when: Moment, place: Array, inputs: Array, labels: Array
    ) -> dict[str, Array]:
        def likelihood(variables: Variables) -> Array:
            return jnp.take_along_axis(
                log_probabilities(variables, inputs), labels[:, None], axis=1
            )[:, 0]

        def margins(variables: Variables) -> Array:
            return margin(log_probabilities(variables, inputs), labels)

        def descent(x: Array, y: Array) -> dict[str, Array]:
            def loss(params):
                variables = when.state.global_model._replace(params=params)
                return log_probabilities(variables, x[None])[0, y]

            gradient = jax.grad(loss)(when.state.global_model.params)
            flat = tree.pick(Variables(gradient, {}), everyone.direction.__contains__)
            return _unit(flat)

        def cosines(xy: tuple[Array, Array]) -> Array:
            toward = descent(*xy)
            products = [
                jnp.tensordot(everyone.direction[path], g, axes=g.ndim)
                for path, g in toward.items()
            ]
            return jnp.sum(jnp.stack(products), axis=0)

        mine = jax.tree.map(lambda x: x[place], everyone.model)
        return {
            "loss": likelihood(mine),
            "global": likelihood(when.state.global_model),
            "margins": jax.lax.map(margins, everyone.model),
            "cosines": jax.lax.map(cosines, (inputs, labels)).T,
        }

    return score


def key_of(when: Moment, client: Array, seed: int) -> Array:
    """Return the attacker's own key for one client of a round."""
    return derive(jax.random.key(seed), when.state.round, client, Purpose.ATTACK)


def bias_path(layer: Layer) -> str:
    """Return the path of the bias beside a layer's kernel."""
    return "/".join(("params", *layer.path[:-1], "bias"))


def _examples(target: Target, turn: Turn) -> Array:
    return jnp.sum(jnp.asarray(target.data.train_mask)[turn.context.client_id], dtype=jnp.int32)


def _unit(delta: dict[str, Array]) -> dict[str, Array]:
    size = optax.tree.norm(delta)
    return jax.tree.map(lambda d: d / jnp.where(size > 0, size, 1), delta)
