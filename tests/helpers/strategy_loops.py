"""Oracles of strategies: each a plain loop, written from its paper. Trees are of NumPy arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from helpers.loop_reference import Loop, flat, unflat, weighted_mean
from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.types import Variables


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


class MoonLoop(StrategyLoop):
    def __init__(self, *arguments, **others):
        super().__init__(*arguments, **others)
        self.clients = [self.average] * self.num_clients
        self.contrast = jax.jit(jax.grad(self.contrast_of))

    def contrast_of(self, params, norm, images, received, last):
        def features(params, norm, train=False):
            mask = np.ones(len(images), bool)
            variables = Variables(params, norm)
            return self.model.apply(variables, images, mask=mask, train=train).features

        def similarity(a, b):
            lengths = jnp.sqrt((a**2).sum(1) * (b**2).sum(1))
            return (a * b).sum(1) / lengths / self.options["temperature"]

        z = features(params, norm, train=True)
        near, far = (jnp.exp(similarity(z, features(*model))) for model in (received, last))
        return self.options["mu"] * -jnp.log(near / (near + far)).mean()

    def shape(self, gradient, params, start, client):
        norm, images = self.batch
        received = start, self.average.batch_stats
        extra = self.contrast(params, norm, images, received, self.clients[client])
        return jax.tree.map(lambda g, e: g + np.array(e), gradient, extra)

    def aggregate(self, members, starts, results):
        for client in members:
            self.clients[client] = results[client]
        return super().aggregate(members, starts, results)


class FedRepLoop(StrategyLoop):
    def moves(self, path, epoch):
        return self.personal(f"params/{path}") == (epoch < self.options["head_epochs"])


class FedBabuLoop(StrategyLoop):
    def moves(self, path, epoch):
        return not path.startswith("classifier")


class DittoLoop(StrategyLoop):
    """Clients hold their own model, whether it was trained, and nothing else."""

    def __init__(self, *arguments, **others):
        super().__init__(*arguments, **others)
        self.clients = [(self.average, np.array(False), ()) for _ in self.clients]
        self.anchor = None

    def shape(self, gradient, params, start, client):
        if self.anchor is None:
            return gradient
        lam = self.options["lam"]
        return jax.tree.map(lambda g, w, a: g + lam * (w - a), gradient, params, self.anchor)

    def train(self, client, start, mask):
        shared = super().train(client, start, mask)
        self.anchor = start.params
        own = super().train(client, self.clients[client][0], None)[0]
        self.anchor = None
        self.clients[client] = own, np.array(True), ()
        return shared

    def predicts(self, client, variables):
        own, has_trained, _ = self.clients[client]
        return own if has_trained else variables


class FedPartLoop(StrategyLoop):
    """With one full round, one for each layer of the tiny model, and one between; by hand."""

    ORDER = (None, "stem", "conv_b", "conv_a", "hidden", "classifier", None)

    def moves(self, path, epoch):
        layer = self.ORDER[self.t]
        return layer is None or path.split("/")[0].removeprefix("norm_") == layer

    def update(self, average, mean):
        """Leaves that nobody moved stay to the bit."""
        old, new = flat(average.params), flat(mean.params)
        values = {p: x if self.moves(p, 0) else old[p] for p, x in new.items()}
        return mean._replace(params=unflat(mean.params, values))


class IfaLoop(StrategyLoop):
    def update(self, average, mean):
        done, o = self.t + 1, self.options
        if done % o["every"] or done == self.rounds:
            return mean
        key = jax.random.split(derive(self.key, 0, SERVER, Purpose.SERVER))[0]
        key = jax.random.fold_in(key, done)
        values, initial = flat(mean.params), flat(self.initial.params)
        for leaf, (path, w) in zip(jax.random.split(key, len(values)), values.items(), strict=True):
            normal, uniform = jax.random.split(leaf)
            normal = np.array(jax.random.normal(normal, w.shape, jnp.float32), float)
            forgotten = np.array(jax.random.uniform(uniform, w.shape, jnp.float32)) < o["fraction"]
            if o["later"]:  # two of five layers
                module = path.split("/")[0].removeprefix("norm_")
                forgotten = np.full(w.shape, module in ("hidden", "classifier"))
            fresh = initial[path].mean() + initial[path].std() * normal
            values[path] = np.where(forgotten, fresh, w)
        return mean._replace(params=unflat(mean.params, values))


class FedDstLoop(StrategyLoop):
    def __init__(self, *arguments, **others):
        super().__init__(*arguments, **others)
        layers = [x for x in self.model.layers if x.role == "middle" and x.kind == "conv"]
        initial = flat(self.average.params)
        shapes = {self.path(x): initial[self.path(x)].shape for x in layers}
        densities = self.erk(self.options["density"], shapes)
        self.kept = {p: int(np.floor(densities[p] * np.prod(s))) for p, s in shapes.items()}
        self.server = {p: self.largest(np.abs(initial[p]), k) for p, k in self.kept.items()}
        self.last, self.new = {}, {}

    @staticmethod
    def largest(scores, count):
        mask = np.zeros(scores.size, bool)
        mask[np.argsort(-scores.ravel(), kind="stable")[:count]] = True
        return mask.reshape(scores.shape)

    def only(self, params, masks):
        return unflat(params, {p: w * masks.get(p, 1) for p, w in flat(params).items()})

    def readjusts(self):
        return (self.t - 1) % self.options["every"] == 0 and self.t < self.rounds / 2

    def receive(self, client, t):
        return self.average._replace(params=self.only(self.average.params, self.server)), None

    def with_own(self, variables, client):
        return variables._replace(params=self.only(variables.params, self.server))

    def resting(self, before, after, epoch):
        params, velocity = after
        return self.only(params, self.server), velocity

    def train(self, client, start, mask):
        out = super().train(client, start, mask)
        self.last[client] = out[1]
        return out

    def send(self, client, start, result):
        masks, stay = dict(self.server), dict(self.server)
        if self.readjusts():
            a = self.options["fraction"] / 2 * (1 + np.cos(2 * np.pi * self.t / self.rounds))
            w, g = flat(result.params), flat(self.last[client])
            for path, mask in masks.items():
                remaining = int(np.floor((1 - a) * self.kept[path]))
                order = np.where(mask, np.abs(w[path]), -1.0)
                stays = self.largest(order, remaining)
                grow = np.where(stays, np.inf, np.abs(g[path]))
                masks[path] = self.largest(grow, self.kept[path])
                stay[path] = stays  # what grows begins at zero
        self.new[client] = masks
        return result._replace(params=self.only(result.params, stay))

    def aggregate(self, members, starts, results):
        weight = {c: self.weight(c) for c in members}
        mean = weighted_mean(weight, results)
        values = flat(mean.params)
        for path in self.server:
            keeping = sum(weight[c] * self.new[c][path] for c in members)
            total = sum(weight[c] * flat(results[c].params)[path] for c in members)
            merged = np.where(keeping > 0, total / np.maximum(keeping, 1), 0)
            if self.readjusts():
                # by size, then by how many keep it, then by index
                order = np.lexsort((-keeping.ravel(), -np.abs(merged).ravel()))
                mask = np.zeros(merged.size, bool)
                mask[order[: self.kept[path]]] = True
                self.server[path] = mask.reshape(merged.shape)
            values[path] = merged * self.server[path]
        return mean._replace(params=unflat(mean.params, values))


class DsdLoop(StrategyLoop):
    def density(self):
        x = self.t / self.rounds
        return self.options["density"] if self.options["start"] <= x < self.options["end"] else 1.0


class Moved:
    """What the server makes of a client is its start and a changed movement."""

    fold = 0  # into the client's key

    def send(self, client, start, result):
        x, y = flat(start.params), flat(result.params)
        moved = self.change(client, {p: y[p] - x[p] for p in y})
        return result._replace(params=unflat(result.params, {p: x[p] + moved[p] for p in x}))

    def draw(self, client, sizes, kind):
        key = derive(self.key, self.t, client, Purpose.CLIENT)
        keys = jax.random.split(
            jax.random.fold_in(key, self.fold) if self.fold else key, len(sizes)
        )
        return {
            path: np.array(kind(key, x.shape, jnp.float32), float)
            for key, (path, x) in zip(keys, sizes.items(), strict=True)
        }


class TopKScaffoldLoop(Moved, ScaffoldLoop):
    def __init__(self, *arguments, **others):
        super().__init__(*arguments, **others)
        zeros = flat(zeros_like(self.average.params))
        self.lost = [dict(zeros) for _ in self.clients]

    def change(self, client, moved):
        wished = {p: d + self.lost[client][p] for p, d in moved.items()}
        flat_values = np.concatenate([d.ravel() for d in wished.values()])
        count = int(self.options["fraction"] * flat_values.size)
        sent = np.zeros_like(flat_values)
        chosen = np.argsort(-np.abs(flat_values), kind="stable")[:count]
        sent[chosen] = flat_values[chosen]
        parts = np.split(sent, np.cumsum([d.size for d in wished.values()])[:-1])
        out = {p: part.reshape(d.shape) for (p, d), part in zip(wished.items(), parts, strict=True)}
        self.lost[client] = {p: wished[p] - out[p] for p in out}
        return out


class QuantiseLoop(Moved, StrategyLoop):
    def change(self, client, moved):
        draws, s = self.draw(client, moved, jax.random.uniform), self.options["levels"]
        out = {}
        for path, v in moved.items():
            size = np.sqrt((v**2).sum())
            low = np.floor(s * np.abs(v) / size)
            up = draws[path] < s * np.abs(v) / size - low
            out[path] = np.sign(v) * size * (low + up) / s
        return out


class UniformWeight(StrategyLoop):
    def weight(self, client):
        return 1


class SignLoop(UniformWeight):
    def aggregate(self, members, starts, results):
        votes = {
            c: jax.tree.map(
                lambda x, y: np.where(y - x < 0, -1, 1), starts[c].params, results[c].params
            )
            for c in members
        }
        total = jax.tree.map(lambda *v: np.sign(sum(v)), *votes.values())
        params = jax.tree.map(lambda w, v: w + self.options["step"] * v, self.average.params, total)
        mean = weighted_mean(dict.fromkeys(members, 1), results)
        return mean._replace(params=params)


class MedianLoop(UniformWeight):
    def aggregate(self, members, starts, results):
        return jax.tree.map(lambda *x: np.median(x, axis=0), *results.values())


class TrimmedLoop(UniformWeight):
    def aggregate(self, members, starts, results):
        def one(*x):
            return scipy.stats.trim_mean(np.stack(x), self.options["trim"], axis=0)

        return jax.tree.map(one, *results.values())


class ClipLoop(Moved, StrategyLoop):
    def change(self, client, moved):
        length = np.sqrt(sum((d**2).sum() for d in moved.values()))
        return {p: d * min(1, self.options["norm"] / length) for p, d in moved.items()}


class FaultyLoop(Moved, StrategyLoop):
    """The first clients are faulty."""

    fold = 1

    def labels(self, client, labels):
        flips = self.options["kind"] == "label_flip" and client < self.options["clients"]
        return self.options["num_classes"] - 1 - labels if flips else labels

    def change(self, client, moved):
        o = self.options
        if client >= o["clients"] or o["kind"] == "label_flip":
            return moved
        if o["kind"] == "sign_flip":
            return {p: -o["scale"] * d for p, d in moved.items()}
        noise = self.draw(client, moved, jax.random.normal)
        return {p: d + o["scale"] * noise[p] for p, d in moved.items()}


class ParticipationLoop(StrategyLoop):
    """Clients drop out, stop midway, straggle; they are drawn by examples."""

    def cohort(self, t):
        draw = derive(self.key, t, SERVER, Purpose.COHORT)
        sizes = [len(self.examples(c)[1]) for c in range(self.num_clients)]
        clocks = np.array(jax.random.exponential(draw, (self.num_clients,), jnp.float32))
        return [int(c) for c in np.argsort(clocks / np.float32(sizes))[: self.cohort_size]]

    def weight(self, client):
        return 1  # the draw has weighed clients by their examples

    def outcome(self, client):
        draws = jax.random.uniform(
            derive(self.key, self.t, client, Purpose.OUTCOME), (4,), jnp.float32
        )
        drops, stops, straggles, work = map(float, draws)
        steps = self.epochs * int(np.ceil(len(self.examples(client)[1]) / self.batch_size))
        o = self.options
        if drops < o["dropout"]:
            return "dropped", 0
        if stops < o["mid_round_dropout"]:
            return "stopped", int(work * steps)
        if straggles < o["stragglers"]:
            least = o["min_work"]
            return "straggled", max(1, int((least + (1 - least) * work) * steps))
        return "arrived", steps

    def arrives(self, client):
        return self.outcome(client)[0] in ("arrived", "straggled")

    def limit(self, client):
        return self.outcome(client)[1]
