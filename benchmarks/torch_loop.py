"""A tight PyTorch loop over clients: what someone without a simulator would write, at its best.

Networks are named as those of lipsjax, so that weights go over by name.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from workloads import CLASSES, Workload

BN_MOMENTUM = 0.1  # PyTorch's name for one minus the weight of the past

Average = dict[str, Any]
"""Arrays by PyTorch's name, in PyTorch's layout."""


class WideCNN(nn.Module):
    """W1's network."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3)
        self.dense1, self.dense2 = nn.Linear(14 * 14 * 64, 128), nn.Linear(128, CLASSES)

    def forward(self, x):
        """Return logits."""
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = F.max_pool2d(x, 2).permute(0, 2, 3, 1).flatten(1)  # a view: memory is channels-last
        return self.dense2(F.relu(self.dense1(x)))


class SmallCNN(nn.Module):
    """W3's network."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.dense = nn.Linear(32, CLASSES)

    def forward(self, x):
        """Return logits."""
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return self.dense(F.relu(self.conv3(x)).mean((2, 3)))


class ResNet8(nn.Module):
    """W2's network."""

    def __init__(self):
        super().__init__()
        self._add("stem", 3, 64, 7, 2, 3)
        before = 64
        for i, width in enumerate((64, 128, 256), start=1):
            stride = 1 if i == 1 else 2
            self._add(f"block{i}_conv1", before, width, 3, stride, 1)
            self._add(f"block{i}_conv2", width, width, 3, 1, 1)
            if stride != 1:
                self._add(f"block{i}_shortcut", before, width, 1, stride, 0)
            before = width
        self.classifier = nn.Linear(256, CLASSES)

    def _add(self, name, c_in, c_out, size, stride, padding):
        self.add_module(name, nn.Conv2d(c_in, c_out, size, stride, padding, bias=False))
        self.add_module(f"norm_{name}", nn.BatchNorm2d(c_out, momentum=BN_MOMENTUM))

    def _apply_conv(self, name, x):
        return getattr(self, f"norm_{name}")(getattr(self, name)(x))

    def forward(self, x):
        """Return logits."""
        x = F.max_pool2d(F.relu(self._apply_conv("stem", x)), 3, 2, 1)
        for i in (1, 2, 3):
            y = F.relu(self._apply_conv(f"block{i}_conv1", x))
            y = self._apply_conv(f"block{i}_conv2", y)
            x = F.relu(y + (x if i == 1 else self._apply_conv(f"block{i}_shortcut", x)))
        return self.classifier(x.mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"w1": WideCNN, "w2": ResNet8, "w3": SmallCNN}

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def to_torch(variables: Any) -> Average:
    """Return Flax variables as NumPy arrays by PyTorch's names, in its layout."""
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        name, array = torch_name(path), np.asarray(leaf)
        if name.endswith(".weight") and array.ndim > 1:
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        arrays[name] = array
    return arrays


def torch_name(path: Any) -> str:
    """Return PyTorch's name of a Flax variable."""
    _, module, *_, kind = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    return f"{module}.{_LEAVES[kind]}"


def comparable(average: dict[str, torch.Tensor], workload: Workload) -> Average:
    """Undo the one thing that PyTorch defines otherwise: running variances with n - 1.

    A running variance is 0.9^s of its start, which is 1, and the rest of batch variances, each
    n / (n - 1) times what lipsjax has; n is what one channel holds of a batch.
    """
    kept = (1 - BN_MOMENTUM) ** workload.steps
    arrays = {name: value.numpy() for name, value in average.items()}
    sides = {"norm_stem": 16, "norm_block1": 8, "norm_block2": 4, "norm_block3": 2}
    for name, value in arrays.items():
        if name.endswith("running_var"):
            module = name.split(".")[0]
            n = workload.batch_size * sides["_".join(module.split("_")[:2])] ** 2
            arrays[name] = kept + (value - kept) * (n - 1) / n
    return arrays


def make_round(
    workload: Workload, initial: Average, batches: Sequence[tuple[Any, Any]]
) -> Callable[[], dict[str, torch.Tensor]]:
    """Return a function that trains every client from ``initial`` and averages by examples.

    Args:
      workload: its network and its SGD.
      initial: weights and running statistics, from :func:`to_torch`; of the type to compute in.
      batches: per client of the cohort, uint8 images [steps, B, H, W, C] and labels [steps, B].

    Returns:
      The function; it gives the average by PyTorch's names.
    """
    dtype = torch.tensor(next(iter(initial.values()))).dtype
    model = NETWORKS[workload.name]().to(dtype, memory_format=torch.channels_last).train()
    state = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    assert state.keys() == initial.keys(), state.keys() ^ initial.keys()
    names, current = list(state), list(state.values())  # the model's own tensors
    start = [torch.empty_like(w).copy_(torch.tensor(initial[n])) for n, w in state.items()]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=workload.learning_rate, momentum=workload.momentum, foreach=True
    )
    held = [hold(images, labels, dtype) for images, labels in batches]
    share = 1 / len(held)  # all clients hold as many examples

    def train(images, labels):
        optimizer.state.clear()
        for x, y in zip(images, labels, strict=True):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    def one_round():
        total = [torch.zeros_like(w) for w in start]
        for images, labels in held:
            with torch.no_grad():
                for w, w0 in zip(current, start, strict=True):
                    w.copy_(w0)
            train(images, labels)
            with torch.no_grad():
                for t, w in zip(total, current, strict=True):
                    t.add_(w, alpha=share)
        return dict(zip(names, total, strict=True))

    return one_round


def hold(images, labels, dtype):
    """Turn a client's batches into float tensors [B, C, H, W] whose memory is [B, H, W, C]."""
    x = torch.from_numpy(images).to(dtype).div_(255).permute(0, 1, 4, 2, 3)
    return list(x), list(torch.from_numpy(labels).to(torch.int64))
