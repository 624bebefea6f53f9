"""Clients that do not wait for each other: the compiled updates against a loop over events."""

import heapq

import jax
import numpy as np
import pytest

from helpers.loop_reference import Loop, flat, to_numpy, unflat
from helpers.oracle import reference_model
from helpers.worlds import assert_close, simulate, tiny_model, world
from lipsjax import Participation, fedavg, keep_local, models, strategies, transient_sparsity
from lipsjax.rounds import Turns
from lipsjax.sites import take_turns

SIZES = (8, 6, 9, 5, 7)
SECONDS = np.array([1.0, 2.5, 1.0, 7.0, 3.5])
UPDATES, BUFFER = 9, 2
MASKS = {
    "criterion": "saliency",
    "gradient": "stored",
    "sharing": "client",
    "scope": "layer",
    "refill": "zero",
    "hold": 0,
    "schedule": "linear",
    "kinds": ("conv",),
    "density": 0.3,
    "every": 2,
}


class Events(Loop):
    """A server that handles one event after the other: a client has ended its turn."""

    def run(self, seconds, *, buffer, rate, exponent):
        """Return the global model of every version, and what clients received, by (k, version)."""
        versions, begun = [self.average], {}
        events = []
        for client, lasts in enumerate(seconds):
            heapq.heappush(events, (lasts, client, 0, self.turn(client, 0, versions, begun)))
        waiting = []
        while len(versions) <= self.rounds:
            now, client, version, (result, gradient) = heapq.heappop(events)
            waiting.append((client, version, result))
            self.stored[client] = gradient
            if len(waiting) < buffer:
                continue
            versions.append(self.updated(versions, waiting, rate, exponent))
            for client in sorted(each[0] for each in waiting):
                turn = self.turn(client, len(versions) - 1, versions, begun)
                heapq.heappush(events, (now + seconds[client], client, len(versions) - 1, turn))
            waiting = []
        return versions, begun

    def turn(self, client, version, versions, begun):
        """Receive a version, whole or masked, and train."""
        self.average = versions[version]
        start, mask = self.average, None
        if self.sparsity and version:
            self.t = version - 1
            density = self.density()
            assert isinstance(density, float)
            if density < 1 and self.stored[client] is not None:
                mask = self.top(self.client_scores(client, self.stored[client]), density)
                start = self.thin(start, mask, client, version - 1)
        begun[client, version] = mask
        self.t = version
        result, gradient, _, _ = self.train(client, start, mask)
        return result, gradient

    def updated(self, versions, waiting, rate, exponent):
        """Return the newest version plus what is in the buffer."""
        now, newest = len(versions) - 1, versions[-1]
        total = sum(self.weight(client) for client, _, _ in waiting)
        params = flat(newest.params)
        stats = dict.fromkeys(flat(newest.batch_stats), 0)
        for client, version, result in waiting:
            share = self.weight(client) / total
            scale = rate * share * (1 + now - version) ** -exponent
            sent = flat(versions[version].params)
            for path, value in flat(result.params).items():
                params[path] = params[path] + scale * (value - sent[path])
            for path, value in flat(result.batch_stats).items():
                stats[path] = stats[path] + share * value
        return newest._replace(
            params=unflat(newest.params, params), batch_stats=unflat(newest.batch_stats, stats)
        )


def lips(inner, **options):
    return transient_sparsity(inner, density=0.3, every=2, gradient="stored", **options)


def in_turns(turns, **options):
    return {"participation": Participation(turns=turns), "cohort_size": BUFFER, **options}


@pytest.mark.parametrize(
    "sparsity", [pytest.param(None, marks=pytest.mark.slow), MASKS], ids=["dense", "lips"]
)
def test_the_loop_with_a_heap(sparsity):
    data, table = world(SIZES), take_turns(SECONDS, buffer=BUFFER, updates=UPDATES)
    assert table.turns.staleness.max() >= 3
    options = {"epochs": 2, "batch_size": 4, "learning_rate": 0.1}
    events = Events(
        reference_model(), data, jax.random.key(1), rounds=UPDATES, sparsity=sparsity, **options
    )
    versions, begun = events.run(SECONDS, buffer=BUFFER, rate=0.8, exponent=0.5)
    strategy = strategies.fedbuff(server_learning_rate=0.8)
    strategy = lips(strategy) if sparsity else strategy
    state, metrics, _ = simulate(
        tiny_model(), strategy, data, rounds=UPDATES, stops=True, **in_turns(table.turns)
    )
    assert_close(flat(state["global_model"]), flat(versions[-1]))
    assert any(mask is not None for mask in begun.values()) == bool(sparsity)
    staleness = table.turns.staleness.mean(axis=1)
    np.testing.assert_allclose(metrics.scalars["staleness"], staleness, rtol=1e-6)


@pytest.mark.slow
def test_masks_are_of_the_version_that_each_turn_began_with():
    """In float64 the same bits as the loop's, client by client."""
    from lipsjax.sparsity.topk import unpack

    data, table = world(SIZES), take_turns(SECONDS, buffer=BUFFER, updates=UPDATES)
    options = {"epochs": 2, "batch_size": 4, "learning_rate": 0.1}
    events = Events(
        reference_model(), data, jax.random.key(1), rounds=UPDATES, sparsity=MASKS, **options
    )
    _, begun = events.run(SECONDS, buffer=BUFFER, rate=1.0, exponent=0.5)
    compared = 0
    for done in range(1, UPDATES):
        if not done % 2:
            continue
        state, _, sim = simulate(
            tiny_model(),
            lips(strategies.fedbuff()),
            data,
            rounds=done,
            total=UPDATES,
            **in_turns(table.turns),
        )
        if not state["sparse"]:
            continue
        members, began = table.turns.clients[done], table.turns.began[done]
        for slot, (client, version) in enumerate(zip(members, began, strict=True)):
            expected = begun[client, version]
            for bits, layer in zip(state["packed_masks"], sim.spec.sparsifier.layers, strict=True):
                whole = np.ones(layer_shape(state, layer), bool)
                mask = whole if expected is None else expected["/".join(layer.path)]
                np.testing.assert_array_equal(unpack(bits[slot], mask.shape), mask)
                compared += expected is not None
    assert compared > 4


def layer_shape(state, layer):
    kernel = state["global_model"].params
    for name in layer.path:
        kernel = kernel[name]
    return kernel.shape


@pytest.mark.parametrize(
    "masks", [pytest.param(False, marks=pytest.mark.slow), True], ids=["dense", "lips"]
)
def test_a_buffer_of_all_clients_that_are_alike_is_fedavg(masks):
    data = world((7, 7, 7))
    turns = take_turns(np.ones(3), buffer=3, updates=7).turns
    assert not turns.staleness.any()
    wrap = lips if masks else (lambda inner: inner)
    common = {"rounds": 5, "total": 7, "clients_on_global": False}
    waiting, _, _ = simulate(tiny_model(), wrap(fedavg()), data, **common)
    buffered, _, _ = simulate(
        tiny_model(),
        wrap(strategies.fedbuff()),
        data,
        participation=Participation(turns=turns),
        **common,
    )
    assert_close(flat(buffered["global_model"]), flat(waiting["global_model"]))
    for one, other in zip(buffered["packed_masks"], waiting["packed_masks"], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_devices_and_chunk_change_nothing():
    data, turns = world(SIZES), take_turns(SECONDS, buffer=3, updates=4).turns
    options = {"rounds": 4, "participation": Participation(turns=turns), "cohort_size": 3}
    strategy = lips(strategies.fedbuff())
    alone, _, _ = simulate(tiny_model(), strategy, data, **options)
    spread, _, _ = simulate(tiny_model(), strategy, data, devices=2, chunk=2, **options)
    assert_close(flat(alone["global_model"]), flat(spread["global_model"]))
    assert_close(alone["past"], spread["past"])


def test_every_client_is_scored_in_every_update():
    data, turns = world(SIZES), take_turns(SECONDS, buffer=BUFFER, updates=3).turns
    _, metrics, _ = simulate(tiny_model(), strategies.fedbuff(), data, rounds=3, **in_turns(turns))
    of_each = metrics.by["clients"]["accuracy"]
    assert of_each.shape == (3, len(SIZES))
    assert np.isfinite(of_each).all()
    np.testing.assert_allclose(of_each.mean(axis=1), metrics.scalars["accuracy_dense"])
    drawn = np.take_along_axis(of_each, turns.clients, axis=1).mean(axis=1)
    np.testing.assert_allclose(drawn, metrics.scalars["accuracy_dense_arrived"])


def test_limits_are_steps_that_are_done_and_0_is_left_out():
    data = world((8, 8, 8))
    some = Participation(limits=(1, 0, 100))
    _, metrics, _ = simulate(tiny_model(), fedavg(), data, rounds=2, participation=some)
    assert metrics.scalars["clients_arrived"].tolist() == [2, 2]
    assert metrics.scalars["clients_dropped"].tolist() == [1, 1]
    assert metrics.scalars["clients_straggled"].tolist() == [1, 1]
    assert metrics.scalars["steps_mean"].tolist() == [2.5, 2.5]  # of 1 and of 2 x 8 / 4


def test_a_limit_that_all_keep_changes_nothing():
    data = world((8, 8, 8))
    free, _, _ = simulate(tiny_model(), fedavg(), data, rounds=2)
    limited, metrics, _ = simulate(
        tiny_model(), fedavg(), data, rounds=2, participation=Participation(limits=(4, 4, 4))
    )
    assert_close(flat(free["global_model"]), flat(limited["global_model"]))
    assert metrics.scalars["clients_straggled"].tolist() == [0, 0]


TURNS = take_turns(SECONDS, buffer=BUFFER, updates=3).turns


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        (fedavg(), {}, "fedavg cannot work where clients do not wait .* fedbuff does"),
        (strategies.fedbuff(), {"cohort_size": 3}, "turns must be of 3 updates with 3 clients"),
        (
            strategies.fedbuff(),
            {"participation": Participation(turns=TURNS, dropout=0.1)},
            "they go with no sampling, dropout",
        ),
        (
            strategies.fedbuff(),
            {"participation": Participation(turns=Turns(np.array([[1, 0]]), np.zeros((1, 2))))},
            "turns must name different clients in order",
        ),
        (strategies.median(strategies.fedbuff()), {}, "median cannot work .* it needs rounds"),
        (
            lips(strategies.fedbuff(), sharing="shared"),
            {},
            "transient_sparsity needs masks of each client, by a schedule",
        ),
        (
            fedavg(),
            {"participation": Participation(limits=(1, 2)), "cohort_size": None},
            "limits must be of 5 clients, not 2",
        ),
    ],
)
def test_what_does_not_work_in_turns(strategy, options, message):
    with pytest.raises(ValueError, match=message):
        simulate(tiny_model(), strategy, world(SIZES), rounds=3, **{**in_turns(TURNS), **options})


@pytest.mark.parametrize(
    ("wrap", "wrapper"),
    [
        (lambda inner: strategies.private(inner, clip=1.0, noise_multiplier=1.0), "private"),
        (strategies.sign_majority, "sign_majority"),
        (lambda inner: strategies.secure(inner, bits=16, clip=1.0), "secure"),
    ],
)
def test_what_takes_messages_for_models_refuses_scaled_deltas(wrap, wrapper):
    with pytest.raises(ValueError, match=f"{wrapper} cannot wrap fedbuff: it sends deltas"):
        wrap(strategies.fedbuff())


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: keep_local(inner, models.is_norm),
        lambda inner: strategies.clip(inner, norm=0.05),
        lambda inner: strategies.compress(inner, strategies.top_k(fraction=0.2)),
    ],
    ids=["keep_local", "clip", "top_k"],
)
def test_wrappers_around_fedbuff_are_those_around_fedavg_where_nothing_is_stale(wrap):
    data = world((7, 7, 7))
    waiting, _, _ = simulate(tiny_model(), wrap(fedavg()), data, rounds=3)
    buffered, _, _ = simulate(tiny_model(), wrap(strategies.fedbuff()), data, rounds=3)
    assert_close(flat(buffered["global_model"]), flat(waiting["global_model"]))


def test_fedbuff_reveals_what_training_added():
    from lipsjax.attacks.seen import revealed
    from lipsjax.strategy import ClientContext, RunContext
    from lipsjax.types import LocalResult, Variables

    run = RunContext(rounds=1, num_examples=(5,))
    sent = Variables({"w": np.array([1.0, 2.0])}, {})
    start = Variables({"w": np.array([1.0, 0.0])}, {})  # masked
    trained = LocalResult(Variables({"w": np.array([3.0, 5.0])}, {}), (), (), 0.0, 5, 1)
    context = ClientContext(run, start, global_model=sent)
    message, _ = strategies.fedbuff().send(context, trained)
    found = revealed(strategies.fedbuff(), run, to_numpy(sent), start, message)
    np.testing.assert_allclose(found["params/w"], [2.0, 5.0])
