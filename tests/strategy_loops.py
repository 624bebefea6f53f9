"""Oracles of strategies: each a plain loop, written from its paper. Trees are of NumPy arrays."""

import jax
import numpy as np

from loop_reference import Loop, weighted_mean


def zeros_like(tree):
    return jax.tree.map(np.zeros_like, tree)


def moved_by(steps, momentum):
    """How far SGD goes along a gradient of 1, in learning rates."""
    velocity = position = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1
        position += velocity
    return position


class StrategyLoop(Loop):
    """A loop with options of its own, and what server and clients keep."""

    def __init__(self, *arguments, options, **others):
        super().__init__(*arguments, **others)
        self.options = options
        self.server, self.clients = None, [None] * self.num_clients


class FedProxLoop(StrategyLoop):
    def shape(self, gradient, params, start, client):
        mu = self.options["mu"]
        return jax.tree.map(lambda g, w, s: g + mu * (w - s), gradient, params, start)


class Uniform(StrategyLoop):
    """Every client counts the same; server and clients begin with zeros."""

    def __init__(self, *arguments, **others):
        super().__init__(*arguments, **others)
        self.server = zeros_like(self.average.params)
        self.clients = [zeros_like(self.average.params) for _ in self.clients]

    def weight(self, client):
        return 1

    def share(self, members):
        return len(members) / self.num_clients


class ScaffoldLoop(Uniform):
    def correct(self, gradient, client):
        own, common = self.clients[client], self.server
        return jax.tree.map(lambda g, ck, c: g - ck + c, gradient, own, common)

    def aggregate(self, members, starts, results):
        change = {}
        for client in members:
            length = self.learning_rate * moved_by(self.steps[client], self.momentum)
            new = jax.tree.map(
                lambda ck, c, x, y, length=length: ck - c + (x - y) / length,
                self.clients[client],
                self.server,
                starts[client].params,
                results[client].params,
            )
            change[client] = jax.tree.map(np.subtract, new, self.clients[client])
            self.clients[client] = new
        ones = dict.fromkeys(members, 1)
        mean, step = weighted_mean(ones, results), weighted_mean(ones, change)
        share, rate = self.share(members), self.options["server_learning_rate"]
        self.server = jax.tree.map(lambda c, d: c + share * d, self.server, step)
        return mean._replace(
            params=jax.tree.map(lambda w, y: w + rate * (y - w), self.average.params, mean.params)
        )


class FedDynLoop(Uniform):
    """In the paper's own symbols: gradient states, not those over alpha."""

    def shape(self, gradient, params, start, client):
        alpha = self.options["alpha"]
        return jax.tree.map(
            lambda g, state, w, s: g - alpha * state + alpha * (w - s),
            gradient,
            self.clients[client],
            params,
            start,
        )

    def aggregate(self, members, starts, results):
        alpha, gaps = self.options["alpha"], {}
        for client in members:
            gaps[client] = jax.tree.map(np.subtract, results[client].params, starts[client].params)
            lagrangian = jax.tree.map(
                lambda state, gap: alpha * state - alpha * gap, self.clients[client], gaps[client]
            )
            self.clients[client] = jax.tree.map(lambda x: x / alpha, lagrangian)
        ones = dict.fromkeys(members, 1)
        mean, gap = weighted_mean(ones, results), weighted_mean(ones, gaps)
        h = jax.tree.map(lambda h, d: alpha * h - alpha * self.share(members) * d, self.server, gap)
        self.server = jax.tree.map(lambda x: x / alpha, h)
        return mean._replace(params=jax.tree.map(lambda w, x: w - x / alpha, mean.params, h))


class FedNovaLoop(StrategyLoop):
    def aggregate(self, members, starts, results):
        weight = {c: self.weight(c) for c in members}
        lengths = {c: moved_by(self.steps[c], self.momentum) for c in members}
        direction = {
            c: jax.tree.map(
                lambda x, y, a=lengths[c]: (x - y) / a, starts[c].params, results[c].params
            )
            for c in members
        }
        mean = weighted_mean(weight, results)
        far = weighted_mean(weight, lengths)
        params = jax.tree.map(
            lambda x, d: x - far * d,
            weighted_mean(weight, starts).params,
            weighted_mean(weight, direction),
        )
        return mean._replace(params=params)


class ServerLoop(StrategyLoop):
    """FedOpt: algorithm 2 of the paper, with what differs between its members."""

    def __init__(self, *arguments, **others):
        super().__init__(*arguments, **others)
        tau = self.options.get("tau", 0.0)
        self.first = zeros_like(self.average.params)
        self.second = jax.tree.map(lambda w: np.full_like(w, tau**2), self.average.params)

    def update(self, average, mean):
        delta = jax.tree.map(np.subtract, mean.params, average.params)
        moves = zip(*map(jax.tree.leaves, (self.first, self.second, delta)), strict=True)
        first, second = zip(*(self.moments(*leaves) for leaves in moves), strict=True)
        structure = jax.tree.structure(self.first)
        self.first, self.second = (jax.tree.unflatten(structure, x) for x in (first, second))
        return mean._replace(
            params=jax.tree.map(self.step, average.params, self.first, self.second)
        )

    def moments(self, m, v, d):
        beta1 = self.options.get("beta1", 0.0)
        return beta1 * m + (1 - beta1) * d, self.moment(v, d)

    def step(self, w, m, v):
        o = self.options
        return w + o["server_learning_rate"] * m / (np.sqrt(v) + o["tau"])


class FedAvgMLoop(ServerLoop):
    def moments(self, m, v, d):
        return self.options["server_momentum"] * m + d, v

    def step(self, w, m, v):
        return w + self.options["server_learning_rate"] * m


class FedAdagradLoop(ServerLoop):
    def moment(self, v, d):
        return v + d**2


class FedAdamLoop(ServerLoop):
    def moment(self, v, d):
        beta2 = self.options["beta2"]
        return beta2 * v + (1 - beta2) * d**2


class FedYogiLoop(ServerLoop):
    def moment(self, v, d):
        return v - (1 - self.options["beta2"]) * d**2 * np.sign(v - d**2)
