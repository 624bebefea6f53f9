"""Objective and gradient of matching against PyTorch, which differentiates through its own SGD.

PyTorch is an extra of the benchmarks: ``pip install -e '.[bench]'`` runs this.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.sigmoid_net import sigmoid_model
from lipsjax import attacks, tree
from lipsjax.attacks.seen import Seen
from lipsjax.local import LocalTraining
from lipsjax.types import Variables

torch = pytest.importorskip("torch")

LABELS = np.array([3, 1, 7])
RATE, STEPS = 0.5, 2


def torch_logits(params, images):
    """Predict [B, 8, 8, 1] by hand: SAME padding, strides 2 and 1, sigmoids, channels last."""
    x = images.permute(0, 3, 1, 2)
    for name, stride, pad in (("conv0", 2, (1, 2, 1, 2)), ("conv1", 1, (2, 2, 2, 2))):
        kernel = params[f"{name}/kernel"].permute(3, 2, 0, 1)
        x = torch.nn.functional.conv2d(
            torch.nn.functional.pad(x, pad), kernel, params[f"{name}/bias"], stride
        )
        x = torch.sigmoid(x)
    x = x.permute(0, 2, 3, 1).reshape(len(x), -1)
    return x @ params["classifier/kernel"] + params["classifier/bias"]


def torch_delta(params, images):
    """What plain SGD adds, with the graph of every step kept."""
    now = dict(params)
    for _ in range(STEPS):
        loss = torch.nn.functional.cross_entropy(torch_logits(now, images), torch.tensor(LABELS))
        gradients = torch.autograd.grad(loss, list(now.values()), create_graph=True)
        now = {name: w - RATE * g for (name, w), g in zip(now.items(), gradients, strict=True)}
    return {name: now[name] - params[name] for name in params}


def torch_objective(params, images, target, matched, search):
    delta = torch_delta(params, images)
    s = torch.cat([(delta[name] * matched[name]).ravel() for name in target])
    d = torch.cat([(target[name] * matched[name]).ravel() for name in target])
    if search.distance == "squared":
        value = ((s - d) ** 2).sum() / (d**2).sum()
    else:
        value = 1 - torch.nn.functional.cosine_similarity(s, d, dim=0)
    across = (images[:, 1:] - images[:, :-1]).abs().mean()
    along = (images[:, :, 1:] - images[:, :, :-1]).abs().mean()
    return value + search.total_variation * (across + along)


@pytest.mark.parametrize("search", [attacks.DLG, attacks.COSINE], ids=["squared", "cosine"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_objective_and_gradient(search, seed):
    with jax.enable_x64(True):
        model = sigmoid_model()
        start = model.init(jax.random.key(seed))
        rng = np.random.default_rng(seed)
        training = LocalTraining(optax.sgd(RATE), epochs=STEPS, batch_size=len(LABELS))
        mask, labels = jnp.ones(3, bool), jnp.asarray(LABELS, jnp.int32)
        true, guess = rng.uniform(size=(2, 3, 8, 8, 1))
        key = jax.random.key(4)
        delta = attacks.simulate(model, training, start, jnp.asarray(true), labels, mask, key)
        matched = {path: jnp.asarray(rng.random(d.shape) < 0.5) for path, d in delta.items()}
        seen = Seen(start, delta, matched)
        objective = attacks.objective_of(model, training, seen, labels, mask, key, search)
        value, gradient = jax.value_and_grad(objective)(jnp.asarray(guess))

        flat = tree.pick(Variables(start.params, {}), lambda path: True)
        short = {path.removeprefix("params/"): path for path in flat}
        params = {
            name: torch.tensor(np.asarray(flat[path]), requires_grad=True)
            for name, path in short.items()
        }
        target = {name: torch.tensor(np.asarray(delta[path])) for name, path in short.items()}
        kept = {name: torch.tensor(np.asarray(matched[path])) for name, path in short.items()}
        ours = torch_delta(params, torch.tensor(true))
        for name, d in target.items():
            assert (ours[name] - d).abs().max() < 1e-9
        images = torch.tensor(guess, requires_grad=True)
        expected = torch_objective(params, images, target, kept, search)
        (slope,) = torch.autograd.grad(expected, images)
        assert float(value) == pytest.approx(expected.item(), abs=1e-9)
        np.testing.assert_allclose(gradient, slope.numpy(), rtol=0, atol=1e-9)
