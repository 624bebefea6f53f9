"""What goes out after a round: whose masks, chosen from what, and how good it is."""

import jax
import jax.numpy as jnp

from lipsjax import tree
from lipsjax.clients import ClientData
from lipsjax.keys import Purpose, derive
from lipsjax.local import model_loss, whole_gradient
from lipsjax.rounds.evaluation import Personal, score_own
from lipsjax.rounds.memory import recall
from lipsjax.rounds.spec import (
    AXIS,
    Setup,
    State,
    Tables,
    Updated,
    delivery_to,
    my_slots,
    scan_chunks,
    where_measured,
)
from lipsjax.types import Array, Kernels, PyTree, Received


def deliver(
    setup: Setup,
    key: Array,
    data: ClientData,
    tables: Tables,
    now: Updated,
    state: State,
    last_gradient: Kernels,
    dense: Personal | None,
) -> tuple[PyTree, Array, Personal | None]:
    """Choose the masks of the next round's clients, and score what they will receive.

    Returns this device's packed masks, whether they count, and the personalised scores of the
    models that go out.
    """
    downlink, t = setup.strategy.downlink, state.round
    if downlink is None:
        return state.bits, state.sparse, dense
    average, server, clients = now
    slots = my_slots(setup, key, t + 1)

    def scores(client, memory, last):
        variables = setup.strategy.receive(server, memory, average, None)
        if downlink.gradient == "fresh":
            received = Received(variables, server, memory, None, None, client)
            gradient = _fresh_gradient(setup, data, received)
        elif downlink.gradient == "stored":
            gradient = downlink.stored(memory)[0]
        else:
            gradient = downlink.last(last)
        return downlink.score(variables.params, gradient, derive(key, t, client, Purpose.MASK))

    def masks(client, memory, last):
        bits = downlink.mask(scores(client, memory, last), tables.kept[t])
        if downlink.gradient != "stored":
            return bits
        has_one = downlink.stored(memory)[1]
        return jax.tree.map(lambda b: jnp.where(has_one, b, jnp.uint8(255)), bits)

    def after(client, memory, bits):
        sparse, density = jnp.ones((), bool), tables.density[t]
        delivery = delivery_to(setup, key, t, client, bits, sparse, density)
        variables = setup.strategy.receive(server, memory, average, delivery)
        own = setup.strategy.deploy(variables, memory)
        return Personal.of(score_own(setup, data, client, own))

    def mean_scores(memory):
        def share(ids, present, memory, last):
            count = jnp.sum(data.train_mask[ids], axis=1, dtype=jnp.int32)
            weight = jnp.where(present, setup.strategy.weight(count), 0)
            each = jax.vmap(scores)(ids, memory, last)
            dtype = jax.tree.leaves(each)[0].dtype
            weight = weight.astype(dtype)
            return (tree.weighted_sum(weight, each), jnp.sum(weight)), ()

        sums, _ = scan_chunks(setup, share, slots, memory, last_gradient)
        total, weight = jax.lax.psum(sums, AXIS)
        return tree.scale(1 / weight, total)

    def sparse_branch():
        remembered = recall(setup, clients, slots)
        common = None
        if downlink.shared:
            common = downlink.mask(mean_scores(remembered), tables.kept[t])

        def share(ids, present, memory, last):
            if common is None:
                bits = jax.vmap(masks)(ids, memory, last)
            else:
                bits = jax.tree.map(lambda b: jnp.broadcast_to(b, (len(ids), *b.shape)), common)
            each = where_measured(
                setup, tables.measured[t], lambda: jax.vmap(after)(ids, memory, bits)
            )
            return tree.weighted_sum(present, each), bits

        sums, bits = scan_chunks(setup, share, slots, remembered, last_gradient)
        return bits, jax.lax.psum(sums, AXIS)

    sparse = tables.sparse[t]
    bits, out = jax.lax.cond(sparse, sparse_branch, lambda: (state.bits, dense))
    return bits, sparse, out


def _fresh_gradient(setup: Setup, data: ClientData, received: Received):
    """Return a client's gradient of the average over all its examples, by masked layer."""
    client = received.client_id
    gradient = whole_gradient(
        received,
        data.train,
        data.train_index[client],
        data.train_mask[client],
        batch_size=setup.training.batch_size,
        loss_fn=setup.strategy.loss(model_loss(setup.model), received),
    )
    assert setup.strategy.downlink is not None
    return tree.kernels(gradient, setup.strategy.downlink.layers)
