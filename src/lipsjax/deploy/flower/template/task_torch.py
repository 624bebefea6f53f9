"""The model and its training, in PyTorch: the study's own, layer by layer and step by step."""

import json
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from lips_app.sites import Site
from torch import nn
from torch.nn import functional

EPSILON, MOMENTUM = 1e-5, 0.9  # of batch normalisation, in the study


class Trained(NamedTuple):
    """What training leaves behind."""

    arrays: dict[str, np.ndarray]
    gradient: dict[str, np.ndarray]  # of the last mini-batch
    loss: float  # mean over the examples seen


class BatchNorm(nn.Module):
    """Batch normalisation whose running variance is the biased one, as in the study."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(f(channels)) for f in (torch.ones, torch.zeros))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x [B, channels, ...]."""
        mean, var = self.running_mean, self.running_var
        if self.training:
            var, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
            self.running_mean.lerp_(mean.detach(), 1 - MOMENTUM)
            self.running_var.lerp_(var.detach(), 1 - MOMENTUM)
        shape = (1, -1, *[1] * (x.ndim - 2))
        gain = self.weight * torch.rsqrt(var + EPSILON)
        return (x - mean.reshape(shape)) * gain.reshape(shape) + self.bias.reshape(shape)


def norm_of(kind: str, channels: int) -> nn.Module:
    """Return a layer of normalisation, or one that does nothing."""
    if kind == "batch":
        return nn.Sequential(OrderedDict(norm=BatchNorm(channels)))
    if kind == "group":
        groups = math.gcd(channels, 8)
        return nn.Sequential(OrderedDict(norm=nn.GroupNorm(groups, channels, eps=1e-6)))
    return nn.Identity()


class Net(nn.Module):
    """The study's mlp or cnn; layers have the names that they have there."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.is_cnn, width, norm = config["model"] == "cnn", config["width"], config["norm"]
        shape, bias = json.loads(config["input-shape"]), norm == "none"
        if self.is_cnn:
            wide = 2 * width
            sizes = {"stem": (shape[-1], width), "conv1": (width, wide)}
            sizes |= {"conv2": (wide, wide), "conv3": (wide, wide)}
        else:
            hidden = {f"dense{i}": (width, width) for i in range(1, config["depth"] + 1)}
            sizes = {"stem": (math.prod(shape), width), **hidden}
        self.layers = list(sizes)
        for name, (inputs, outputs) in sizes.items():
            made = (
                nn.Conv2d(inputs, outputs, 3, padding="same", bias=bias)
                if self.is_cnn
                else nn.Linear(inputs, outputs, bias=bias)
            )
            self.add_module(name, made)
            self.add_module(f"norm_{name}", norm_of(norm, outputs))
        self.classifier = nn.Linear(outputs, config["classes"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of x [B, channels, height, width], or [B, features]."""
        x = x if self.is_cnn else x.flatten(1)
        for name in self.layers:
            x = self.get_submodule(name)(x)
            x = torch.relu(self.get_submodule(f"norm_{name}")(x))
            if self.is_cnn and name in ("stem", "conv2"):
                x = functional.max_pool2d(x, 2)
        return self.classifier(x.mean((2, 3)) if self.is_cnn else x)


def model_of(arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Net:
    """Return the model with these weights, in their type."""
    model = Net(config).to(torch.from_numpy(next(iter(arrays.values()))).dtype)
    model.load_state_dict({name: torch.from_numpy(x) for name, x in arrays.items()})
    return model


def optimizer_of(model: Net, config: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Return a fresh optimizer, with the step size of this round."""
    progress = (config["server-round"] - 1) / config["num-server-rounds"]
    rates = {"constant": 1.0, "linear": 1 - progress}
    rates["cosine"] = (1 + math.cos(math.pi * progress)) / 2
    rate = config["learning-rate"] * rates[config["rate-schedule"]]
    given, decay = json.loads(config["optimizer-options"]), config["weight-decay"]
    if config["optimizer"] == "sgd":
        momentum, nesterov = given.get("momentum", 0.0), given.get("nesterov", False)
        return torch.optim.SGD(model.parameters(), rate, momentum, 0, decay, nesterov)
    betas = given.get("b1", 0.9), given.get("b2", 0.999)
    return torch.optim.Adam(model.parameters(), rate, betas, given.get("eps", 1e-8), decay)


def batches(site: Site, config: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """Yield the positions of each mini-batch: every epoch visits every example once."""
    rng = np.random.default_rng([config["seed"], site.number, config["server-round"]])
    for _ in range(config["local-epochs"]):
        order = rng.permutation(len(site.y_train))
        for begin in range(0, len(order), config["batch-size"]):
            yield order[begin : begin + config["batch-size"]]


def tensors(x: np.ndarray, y: np.ndarray, model: Net) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs, with the channels before height and width, and labels."""
    inputs = torch.from_numpy(np.moveaxis(x, -1, 1)) if x.ndim == 4 else torch.from_numpy(x)
    return inputs.to(model.classifier.weight.dtype), torch.from_numpy(y).long()


def train(arrays: Mapping[str, np.ndarray], site: Site, config: Mapping[str, Any]) -> Trained:
    """Train for a round, from what was received."""
    model, total, seen = model_of(arrays, config), 0.0, 0
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = optimizer_of(model, config)
    x, y = tensors(site.x_train, site.y_train, model)
    mu = config.get("proximal-mu", 0.0)
    model.train()
    for rows in batches(site, config):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x[rows]), y[rows])
        if mu:
            pairs = zip(model.parameters(), start, strict=True)
            loss = loss + mu / 2 * sum(((p - w) ** 2).sum() for p, w in pairs)
        loss.backward()
        optimizer.step()
        total, seen = total + loss.item() * len(rows), seen + len(rows)
    gradient = {name: p.grad.numpy() for name, p in model.named_parameters()}
    return Trained({n: v.numpy() for n, v in model.state_dict().items()}, gradient, total / seen)


def evaluate(
    arrays: Mapping[str, np.ndarray], site: Site, config: Mapping[str, Any]
) -> tuple[float, float]:
    """Return mean loss and accuracy on the site's test examples."""
    model = model_of(arrays, config).eval()
    x, y = tensors(site.x_test, site.y_test, model)
    with torch.no_grad():
        logits = model(x)
    accuracy = (logits.argmax(1) == y).double().mean().item()
    return functional.cross_entropy(logits, y).item(), accuracy
