"""The same round in PyTorch with clients vmapped: ``torch.func``, a few clients at a time."""

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap
from torch_loop import NETWORKS, Average, hold
from workloads import Workload

CLIENTS = 5
"""Vmapped at once."""


def make_round(workload: Workload, initial: Average, batches):
    """Return a function as :func:`torch_loop.make_round` does."""
    dtype = torch.tensor(next(iter(initial.values()))).dtype
    model = NETWORKS[workload.name]().to(dtype).train()
    trained = {name for name, _ in model.named_parameters()}
    start = {name: torch.tensor(value) for name, value in initial.items()}
    held = [hold(images, labels, dtype) for images, labels in batches]
    groups = [held[i : i + CLIENTS] for i in range(0, len(held), CLIENTS)]
    stacked = [_by_step(group) for group in groups]
    # momentum of BatchNorm's statistics needs its counter, one for each client
    counters = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}

    def loss(params, buffers, x, y):
        return F.cross_entropy(functional_call(model, {**params, **buffers}, (x,)), y)

    gradient = vmap(grad(loss))

    def train(steps, count):
        wide = {k: v.expand(count, *v.shape).clone() for k, v in {**start, **counters}.items()}
        params = {k: v for k, v in wide.items() if k in trained}
        buffers = {k: v for k, v in wide.items() if k not in trained}
        velocity = [torch.zeros_like(v) for v in params.values()]
        for x, y in steps:
            direction = list(gradient(params, buffers, x, y).values())
            if workload.momentum:
                torch._foreach_mul_(velocity, workload.momentum)
                torch._foreach_add_(velocity, direction)
                direction = velocity
            torch._foreach_add_(list(params.values()), direction, alpha=-workload.learning_rate)
        return wide

    def one_round():
        total = {name: torch.zeros_like(w) for name, w in start.items()}
        for steps, group in zip(stacked, groups, strict=True):
            trained_group = train(steps, len(group))
            for name, t in total.items():
                t.add_(trained_group[name].sum(0), alpha=1 / len(held))
        return total

    return one_round


def _by_step(group):
    """Return images and labels of each step, [clients, B, ...] each."""
    images = zip(*(x for x, _ in group), strict=True)
    labels = zip(*(y for _, y in group), strict=True)
    return [(torch.stack(x), torch.stack(y)) for x, y in zip(images, labels, strict=True)]
