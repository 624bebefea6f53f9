"""Weights in PyTorch's names and layouts: the same logits, and back to the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipsjax import models
from lipsjax.models.weights import (
    Weights,
    from_arrays,
    read,
    to_arrays,
    torchvision_names,
    write,
)
from lipsjax.types import Variables

pytest.importorskip("safetensors")
NAMES = {"resnet8": torchvision_names(3, 1), "resnet18": torchvision_names(4, 2)}


def variables_of(name, *, seed=0, shape=(32, 32, 3), **options):
    """A model, and variables none of which is as it begins: statistics and offsets too."""
    model = models.build(name, num_classes=10, input_shape=shape, **options)
    begun = jax.jit(model.init)(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    draw = lambda x: np.asarray(x) + rng.uniform(0.05, 0.2, x.shape).astype(np.float32)  # noqa: E731
    changed = jax.tree.map(draw, begun.batch_stats)
    params = jax.tree.map(lambda x: np.asarray(x) if x.ndim > 1 else draw(x), begun.params)
    return model, Variables(params, changed)


def torch_resnet(stages, blocks, classes=10):
    """The published ResNets, written with PyTorch's own layers under torchvision's names."""
    torch = pytest.importorskip("torch")
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inside, outside, stride, shortcut):
            super().__init__()
            self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outside)
            self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outside)
            self.downsample = None
            if shortcut:
                conv = nn.Conv2d(inside, outside, 1, stride, bias=False)
                self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outside))

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, stages[0], 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(stages[0])
            inside = stages[0]
            for i, outside in enumerate(stages):
                each = []
                for j in range(blocks):
                    first = i > 0 and j == 0
                    each.append(Block(inside, outside, 2 if first else 1, first))
                    inside = outside
                setattr(self, f"layer{i + 1}", nn.Sequential(*each))
            self.fc = nn.Linear(inside, classes)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            x = nn.functional.max_pool2d(x, 3, 2, 1)
            for i in range(len(stages)):
                x = getattr(self, f"layer{i + 1}")(x)
            return self.fc(x.mean((2, 3)))

    return ResNet().eval()


@pytest.mark.parametrize(
    ("name", "stages", "blocks"),
    [
        pytest.param("resnet8", (64, 128, 256), 1, marks=pytest.mark.slow),
        pytest.param("resnet18", (64, 128, 256, 512), 2, marks=pytest.mark.slow),
    ],
)
def test_logits_are_those_of_torch(name, stages, blocks):
    torch = pytest.importorskip("torch")
    model, variables = variables_of(name)
    theirs = torch_resnet(stages, blocks)
    arrays = to_arrays(variables, layout="torch", names=NAMES[name])
    state = {n: torch.from_numpy(np.ascontiguousarray(x)) for n, x in arrays.items()}
    lacking, unread = theirs.load_state_dict(state, strict=False)
    assert unread == []
    assert all(n.endswith("num_batches_tracked") for n in lacking)
    images = np.random.default_rng(1).random((4, 32, 32, 3), np.float32)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    found = model.apply(variables, images, mask=jnp.ones(4, bool), train=False).logits
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())

    back = {n: x.numpy() for n, x in theirs.state_dict().items()}  # with num_batches_tracked
    again = from_arrays(Weights(back, "theirs"), variables, names=NAMES[name])
    jax.tree.map(np.testing.assert_array_equal, again, variables)


@pytest.mark.parametrize("layout", ["flax", "torch"])
@pytest.mark.parametrize(
    "name", ["mlp", "cnn", *(pytest.param(n, marks=pytest.mark.slow) for n in ("vgg5", "vit"))]
)
def test_there_and_back_to_the_same_bits(name, layout, tmp_path):
    _, variables = variables_of(name, shape=(8, 8, 1), width=8)
    write(tmp_path / "w.safetensors", to_arrays(variables, layout=layout))
    again = from_arrays(read(tmp_path / "w.safetensors"), variables)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_a_dense_layer_after_a_flatten_reads_channels_last():
    torch = pytest.importorskip("torch")
    features = np.random.default_rng(0).random((5, 3, 4, 2), np.float32)  # [N, H, W, C]
    torch.manual_seed(0)
    theirs = torch.nn.Linear(24, 7)
    flat = torch.from_numpy(features.transpose(0, 3, 1, 2).reshape(5, -1).copy())
    wanted = theirs(flat).detach().numpy()
    arrays = {f"head.{n}": x.numpy() for n, x in theirs.state_dict().items()}
    like = Variables({"head": {"kernel": np.zeros((24, 7), "f"), "bias": np.zeros(7, "f")}}, {})
    found = from_arrays(Weights(arrays, "theirs"), like, flattened={"head": (3, 4, 2)})
    head = found.params["head"]
    np.testing.assert_allclose(
        features.reshape(5, -1) @ head["kernel"] + head["bias"], wanted, rtol=1e-5, atol=1e-6
    )
    back = to_arrays(found, layout="torch", flattened={"head": (3, 4, 2)})
    for name, x in arrays.items():
        np.testing.assert_array_equal(back[name], x)


LIKE = Variables({"head": {"kernel": np.zeros((3, 2), "f")}, "bias": np.zeros(2, "f")}, {})
WHOLE = {"params/head/kernel": np.ones((3, 2), "f"), "params/bias": np.ones(2, "f")}


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"params/bias": WHOLE["params/bias"]}, ["lacks params/head/kernel"]),
        ({}, ["lacks", ".bias, head.weight", "holds"]),
        (WHOLE | {"params/more": np.ones(1)}, ["holds params/more", "does not have"]),
        (WHOLE | {"params/bias": np.ones(3)}, ["params/bias makes (3,)", "(2,)"]),
        (WHOLE | {"params/bias": np.array([1, np.nan])}, ["params/bias holds NaN"]),
    ],
)
def test_weights_that_do_not_fit_are_refused(arrays, parts):
    with pytest.raises(ValueError, match=r".") as refused:
        from_arrays(Weights(arrays, "mine.safetensors"), LIKE)
    for part in ["mine.safetensors", *parts]:
        assert part in str(refused.value)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff" * 99])
def test_files_that_hold_no_weights_are_refused(content, tmp_path):
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.safetensors cannot be read: .*safetensors file"):
        read(path)
