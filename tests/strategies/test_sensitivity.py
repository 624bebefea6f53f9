"""What one client moves a sum by, whatever surrounds it: of every composition that is allowed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipsjax import strategies, transient_sparsity
from lipsjax.local import LocalTraining
from lipsjax.strategies import compress, fedavg, private, quantise, top_k
from lipsjax.strategy import ClientContext, RunContext, message_of
from lipsjax.types import Layer, LocalResult, Variables

CLIP = 0.25
LAYERS = (
    Layer("first", "stem", "dense", ("first", "kernel")),
    Layer("middle", "middle", "dense", ("middle", "kernel")),
)
RUN = RunContext(
    rounds=3,
    num_examples=(3, 9, 5),
    layers=LAYERS,
    training=LocalTraining(optax.sgd(0.1), epochs=1, batch_size=4),
)


def kept_local(inner):
    return strategies.keep_local(inner, lambda path: path.startswith("params/first"))


ALLOWED = {
    "fedavg": lambda: fedavg(),
    "fedprox": lambda: strategies.fedprox(mu=0.1),
    "fedavgm": lambda: strategies.fedavgm(),
    "fedadam": lambda: strategies.fedadam(),
    "moon": lambda: strategies.moon(),
    "ditto": lambda: strategies.ditto(fedavg()),
    "keep_local": lambda: kept_local(fedavg()),
    "top_k": lambda: compress(fedavg(), top_k(fraction=0.5)),
    "quantise": lambda: compress(fedavg(), quantise(levels=3)),
    "clip": lambda: strategies.clip(fedavg(), norm=2.0),
    "noise": lambda: strategies.faulty(fedavg(), clients=1, kind="noise", num_classes=2, scale=9.0),
    "nan": lambda: strategies.faulty(fedavg(), clients=1, kind="nan", num_classes=2),
    "canaries": lambda: strategies.canaries(fedavg(), clients=2, length=9.0),
    "all at once": lambda: strategies.clip(
        compress(
            strategies.faulty(
                strategies.ditto(kept_local(strategies.fedavgm())),
                clients=1,
                kind="sign_flip",
                num_classes=2,
                scale=5.0,
            ),
            top_k(fraction=0.5),
        ),
        norm=3.0,
    ),
}

floats = st.floats(allow_nan=True, allow_infinity=True, width=32)
usual = st.floats(-4, 4, width=32, allow_subnormal=False)


def model(values):
    first, middle = np.float32(values[:4]).reshape(2, 2), np.float32(values[4:]).reshape(2, 2)
    params = {"first": {"kernel": jnp.asarray(first)}, "middle": {"kernel": jnp.asarray(middle)}}
    return Variables(params, {})


@pytest.mark.parametrize("reference", ["global", "received"])
@pytest.mark.parametrize("name", ALLOWED)
def test_one_client_moves_the_sum_by_the_clip_at_most(name, reference):
    """Whatever went out, was masked and was trained: one message more or less, or for another."""
    inner = ALLOWED[name]()
    if name == "canaries":
        inner = strategies.canaries(fedavg(), clients=2, length=9.0, reference=reference)
    guarded = private(inner, clip=CLIP, noise_multiplier=1.0, reference=reference)
    guarded = transient_sparsity(guarded, density=0.5, every=1, kinds=("dense",))

    @jax.jit
    def sent(key, client, old, start, trained):
        context = ClientContext(
            run=RUN,
            variables=start,
            server_state=guarded.init_server(RUN, old, key),
            client_state=guarded.init_client(RUN, old),
            key=key,
            client_id=client,
            global_model=old,
        )
        zero = jnp.float32(0)
        kernels = tuple(jax.tree.leaves(trained.params))
        result = LocalResult(trained, kernels[-1:], zero, zero, zero, zero, trained)
        return message_of(guarded, context, result)[0].delta

    eight = {"min_size": 8, "max_size": 8}

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(usual, **eight),
        st.lists(st.booleans(), **eight),
        st.lists(floats, min_size=32, max_size=32),
        st.integers(0, 99),
    )
    def holds(old, kept, trained, seed):
        start = model(np.where(kept, old, 0))
        key = jax.random.key(seed)
        four = [
            sent(key, jnp.int32(k % 3), model(old), start, model(trained[8 * k : 8 * k + 8]))
            for k in range(4)
        ]
        vectors = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(one)]) for one in four]
        without, more, other = (
            sum(vectors[k] for k in ks) for ks in ((0, 1), (0, 1, 2), (0, 1, 3))
        )
        for moved, most in ((more - without, CLIP), (more - other, 2 * CLIP)):
            # sums of float32 are themselves rounded, to 2^-23 of some four clips
            slack = 1e-6 * CLIP + 4 * CLIP * 2**-22
            assert np.linalg.norm(np.float64(moved)) <= most + slack
        for vector in vectors:
            assert np.linalg.norm(np.float64(vector)) <= CLIP * (1 + 1e-6)

    holds()
