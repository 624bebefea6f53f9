"""The oracle: a federated round client by client, in plain loops, written from the method's text.

No vmap, no scan, no padding, no strategies, no packed bits: NumPy arrays, Python loops, stable
sorts, SGD by hand. Of lipsjax it uses the model's ``apply`` (with XLA's own convolution) and the
derivation of keys, because draws must be the same to be compared.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lipsjax.keys import SERVER, Purpose, derive
from lipsjax.types import Variables

FLOAT = np.float64


def to_numpy(tree):
    return jax.tree.map(lambda x: np.array(x), tree)


def flat(params):
    """Params as {path: array}."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.array(x) for p, x in leaves}


def unflat(like, values):
    return jax.tree_util.tree_map_with_path(
        lambda p, _: values[jax.tree_util.keystr(p, simple=True, separator="/")], like
    )


def weighted_mean(weight, values):
    """Mean of trees by client, with weights by client."""
    total = sum(weight.values())
    return jax.tree.map(
        lambda *xs: sum(w * x for w, x in zip(weight.values(), xs, strict=True)) / total,
        *[values[c] for c in weight],
    )


@functools.cache
def compiled(model):
    """The gradient of the mean cross entropy of a batch, and the logits of one."""

    def loss(params, norm, images, labels):
        ones = jnp.ones(len(labels), bool)
        logits, norm, _ = model.apply(Variables(params, norm), images, mask=ones, train=True)
        log_p = jax.nn.log_softmax(logits)
        mean = -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))
        return mean, (norm, mean)

    def predict(variables, images):
        return model.apply(variables, images, mask=jnp.ones(len(images), bool), train=False)[0]

    return jax.jit(jax.grad(loss, has_aux=True)), jax.jit(predict)


class Loop:
    """One federated run, round by round."""

    def __init__(
        self,
        model,
        data,
        key,
        *,
        rounds,
        epochs,
        batch_size,
        learning_rate,
        momentum=0.9,
        optimizer=None,
        cohort=None,
        personal=None,
        sparsity=None,
    ):
        self.model, self.data, self.key = model, data, key
        self.rounds, self.epochs, self.batch_size = rounds, epochs, batch_size
        self.learning_rate, self.momentum, self.optimizer = learning_rate, momentum, optimizer
        self.num_clients = len(data.train_index)
        self.cohort_size = cohort or self.num_clients
        self.personal = personal or (lambda path: False)
        self.sparsity = sparsity
        average = model.init(derive(key, 0, SERVER, Purpose.INIT))
        self.average = to_numpy(average)
        self.initial = to_numpy(average)
        self.memory = [self.own_leaves(self.average) for _ in range(self.num_clients)]
        self.stored = [None] * self.num_clients
        self.steps = {}  # client -> of its last round
        self.masks = {}  # client -> {path: bool array}, on its way
        self.began = {}  # the same, of the round that is done
        self.adapts = bool(sparsity) and sparsity.get("trigger") == "inertia"
        self.lags = []  # inertia of each layer in the rounds that began unmasked
        self.levels = {}  # path -> density level, of what is on its way
        self.reference = None
        self.t = 0
        self.measures = True
        self.purpose = Purpose.BATCHES
        self.drawn = []  # the cohort, of whom some may not arrive
        self.batch = None  # running statistics before a step, and its images
        self.gradient, self.predict = compiled(model)

    # ---- data, model ----
    # what a strategy may change
    def shape(self, gradient, params, start, client):
        """Return the gradient of what a client minimises."""
        return gradient

    def correct(self, gradient, client):
        """Return what a client steps along instead."""
        return gradient

    def moves(self, path, epoch) -> bool:
        """Tell whether a leaf of params moves in an epoch."""
        return True

    def labels(self, client, labels):
        """Return what a client takes for the labels of its examples."""
        return labels

    def distort(self, images, rows, key, epoch):
        """Return what a client sees of a batch."""
        return images

    def limit(self, client):
        """Return after how many steps a client stops early."""
        return np.inf

    def arrives(self, client) -> bool:
        """Tell whether the server hears from a client."""
        return True

    def send(self, client, start, result):
        """Return the model that the server makes of what a client sends."""
        return result

    def predicts(self, client, variables):
        """Return what a client predicts with, of what it would start from or has trained."""
        return variables

    def weight(self, client):
        return len(self.examples(client)[1])

    def update(self, average, mean):
        return mean

    def aggregate(self, members, starts, results):
        weight = {c: self.weight(c) for c in members}
        return self.update(self.average, weighted_mean(weight, results))

    def examples(self, client):
        rows = self.data.train_index[client][self.data.train_mask[client]]
        return self.data.train.inputs[rows], self.data.train.labels[rows]

    def own_leaves(self, variables):
        return {p: x for p, x in flat(variables).items() if self.personal(p)}

    def with_own(self, variables, client):
        values = {**flat(variables), **self.memory[client]}
        return unflat(variables, values)

    def path(self, layer):
        return "/".join(layer.path)

    def cohort(self, t):
        if self.cohort_size == self.num_clients:
            return list(range(self.num_clients))
        draw = derive(self.key, t, SERVER, Purpose.COHORT)
        return [int(i) for i in jax.random.permutation(draw, self.num_clients)[: self.cohort_size]]

    # ---- one client ----
    def receive(self, client, t):
        """What a client starts round t from, and its mask if it has one."""
        variables = self.with_own(self.average, client)
        mask = self.masks.get(client)
        if mask is None:
            return variables, None
        return self.thin(variables, mask, client, t - 1), mask

    def thin(self, variables, mask, client, after):
        params = flat(variables.params)
        initial = flat(self.initial.params)
        keys = jax.random.split(derive(self.key, after, client, Purpose.REFILL), len(mask))
        for key, (path, keep) in zip(keys, mask.items(), strict=True):
            fill = np.zeros_like(params[path])
            if self.sparsity["refill"] == "init":
                fill = initial[path]
            if self.sparsity["refill"] == "noise":
                draw = np.array(jax.random.normal(key, keep.shape, jnp.float32), FLOAT)
                fill = initial[path].std() * draw
            params[path] = np.where(keep, params[path], fill)
        return variables._replace(params=unflat(variables.params, params))

    def train(self, client, start, mask):
        images, labels = self.examples(client)
        labels = self.labels(client, labels)
        n = len(labels)
        batch_key = derive(self.key, self.t, client, self.purpose)
        params, norm = start.params, start.batch_stats
        velocity = jax.tree.map(np.zeros_like, params)
        opt_state = self.optimizer.init(params) if self.optimizer else None
        loss_sum, seen, steps, gradient = 0.0, 0, 0, None
        for epoch in range(self.epochs):
            draws = jax.random.uniform(jax.random.fold_in(batch_key, epoch), (n,), jnp.float32)
            order = np.argsort(np.array(draws), kind="stable")
            for first in range(0, n, self.batch_size):
                if steps >= self.limit(client):
                    break
                rows = order[first : first + self.batch_size]
                before = params, velocity
                batch = self.distort(images[rows], rows, batch_key, epoch)
                self.batch = norm, batch
                gradient, (norm, loss) = self.gradient(params, norm, batch, labels[rows])
                gradient = self.shape(to_numpy(gradient), params, start.params, client)
                step = self.correct(gradient, client)
                if self.optimizer:
                    updates, opt_state = self.optimizer.update(step, opt_state, params)
                    params = to_numpy(optax.apply_updates(params, updates))
                else:
                    velocity = jax.tree.map(lambda v, g: self.momentum * v + g, velocity, step)
                    params = jax.tree.map(lambda w, v: w - self.learning_rate * v, params, velocity)
                params, velocity = self.resting(before, (params, velocity), epoch)
                if mask is not None and steps < self.sparsity["hold"]:
                    params, velocity = self.hold(params, velocity, start.params, mask)
                loss_sum += float(loss) * len(rows)
                seen += len(rows)
                steps += 1
        self.steps[client] = steps
        if gradient is None:
            gradient = jax.tree.map(np.zeros_like, params)
        return Variables(params, to_numpy(norm)), gradient, loss_sum, seen

    def resting(self, before, after, epoch):
        """Set back the leaves that do not move."""
        return tuple(
            unflat(
                new,
                {p: x if self.moves(p, epoch) else flat(old)[p] for p, x in flat(new).items()},
            )
            for old, new in zip(before, after, strict=True)
        )

    def hold(self, params, velocity, start, mask):
        w, v, s = flat(params), flat(velocity), flat(start)
        for path, keep in mask.items():
            w[path] = np.where(keep, w[path], s[path])
            v[path] = np.where(keep, v[path], 0)
        return unflat(params, w), unflat(velocity, v)

    def whole_gradient(self, client):
        variables = self.with_own(self.average, client)
        images, labels = self.examples(client)
        total = jax.tree.map(np.zeros_like, variables.params)
        for first in range(0, len(labels), self.batch_size):
            rows = slice(first, first + self.batch_size)
            part = len(labels[rows])
            gradient, _ = self.gradient(
                variables.params, variables.batch_stats, images[rows], labels[rows]
            )
            total = jax.tree.map(lambda a, g, c=part: a + c * np.array(g), total, gradient)
        return jax.tree.map(lambda a: a / len(labels), total)

    def score(self, variables, rows):
        logits = np.array(self.predict(variables, self.data.test.inputs[rows]))
        labels = self.data.test.labels[rows]
        log_p = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
        log_p -= logits.max(1, keepdims=True)
        loss = -log_p[np.arange(len(labels)), labels].mean()
        return (logits.argmax(1) == labels).mean(), loss

    def score_own(self, variables, client):
        return self.score(variables, self.data.test_index[client][self.data.test_mask[client]])

    # ---- masks ----
    def masked_layers(self):
        kinds = self.sparsity["kinds"]
        return [x for x in self.model.layers if x.role == "middle" and x.kind in kinds]

    def client_scores(self, client, gradient):
        params = flat(self.with_own(self.average, client).params)
        key = derive(self.key, self.t, client, Purpose.MASK)
        scores = {}
        for i, layer in enumerate(self.masked_layers()):
            path = self.path(layer)
            w = params[path]
            criterion = self.sparsity["criterion"]
            if criterion in ("saliency", "inverted"):
                scores[path] = np.abs(w * flat(gradient)[path])
            elif criterion == "gradient":
                scores[path] = np.abs(flat(gradient)[path])
            elif criterion == "magnitude":
                scores[path] = np.abs(w)
            elif criterion == "lowest":
                with np.errstate(divide="ignore"):
                    scores[path] = 1 / np.abs(w)
            else:
                draw = jax.random.uniform(jax.random.fold_in(key, i), w.shape, jnp.float32)
                scores[path] = np.array(draw, FLOAT)
        return scores

    def top(self, scores, density):
        """Keep the floor(d n) largest, or smallest; a stable sort breaks ties by index."""
        if self.sparsity["criterion"] == "inverted":
            scores = {p: -s for p, s in scores.items()}
        sizes = {p: s.size for p, s in scores.items()}

        def keep(values, k):
            order = np.argsort(-values, kind="stable")[:k]
            mask = np.zeros(values.size, bool)
            mask[order] = True
            return mask

        if self.sparsity["scope"] == "global":
            everything = np.concatenate([s.ravel() for s in scores.values()])
            mask = keep(everything, int(np.floor(density * everything.size)))
            parts = np.split(mask, np.cumsum(list(sizes.values()))[:-1])
            return {p: m.reshape(scores[p].shape) for p, m in zip(scores, parts, strict=True)}
        per_layer = density if self.adapts else dict.fromkeys(scores, density)
        if self.sparsity["scope"] == "erk":
            per_layer = self.erk(density, {p: s.shape for p, s in scores.items()})
        return {
            p: keep(s.ravel(), math.floor(per_layer[p] * s.size)).reshape(s.shape)
            for p, s in scores.items()
        }

    def erk(self, density, shapes):
        """Find the common factor by trying every number of saturated layers, densest first."""
        raw = {p: sum(s) / np.prod(s) for p, s in shapes.items()}
        sizes = {p: np.prod(s) for p, s in shapes.items()}
        order = sorted(raw, key=raw.get, reverse=True)
        for full in range(len(order) + 1):
            rest = order[full:]
            if not rest:
                break
            budget = density * sum(sizes.values()) - sum(sizes[p] for p in order[:full])
            factor = budget / sum(raw[p] * sizes[p] for p in rest)
            if factor * raw[rest[0]] <= 1:
                return {p: 1.0 if p in order[:full] else factor * raw[p] for p in order}
        return dict.fromkeys(order, 1.0)

    def lag(self, before):
        """How far each layer lags behind stem and classifier in a round: 1 - step / their mean."""
        old, new = flat(before.params), flat(self.average.params)
        step = {}
        for layer in self.model.layers:
            w, moved = old[self.path(layer)], new[self.path(layer)] - old[self.path(layer)]
            step[layer] = np.linalg.norm(moved.ravel()) / np.linalg.norm(w.ravel())
        outer = np.mean([s for layer, s in step.items() if layer.role != "middle"])
        return {layer: 1 - s / outer for layer, s in step.items()}

    def index(self):
        """The inertia index of the last rounds that began unmasked."""
        recent = self.lags[-self.sparsity["window"] :]
        middle = [layer for layer in self.model.layers if layer.role == "middle"]
        return np.mean([[lags[layer] for layer in middle] for lags in recent])

    def triggered(self):
        """The density of each masked layer that inertia asks for; 1 if it asks for none."""
        s, self.levels = self.sparsity, {}
        if self.t % s["every"] or not self.lags or not self.index() > s["threshold"]:
            return 1.0
        recent, levels = self.lags[-s["window"] :], {}
        for layer in self.masked_layers():
            above = sum(lags[layer] for lags in recent) / len(recent) - s["threshold"]
            steps = math.ceil(15 * above / (1 - s["threshold"]))
            levels[self.path(layer)] = min(max(steps, 0), 15)
        if not any(levels.values()):
            return 1.0
        self.levels = levels
        return {p: 1 - (1 - s["density"]) * level / 15 for p, level in levels.items()}

    def density(self):
        if self.adapts:
            return self.triggered()
        s, x = self.sparsity, self.t / self.rounds
        if self.t % s["every"]:
            return 1.0
        d0 = s["density"]
        return {
            "constant": d0,
            "linear": d0 + (1 - d0) * x,
            "cosine": 1 + (d0 - 1) * (1 + np.cos(np.pi * x)) / 2,
            "cubic": 1 + (d0 - 1) * (1 - x) ** 3,
        }[s["schedule"]]

    def choose_masks(self, last):
        """Fill self.masks for the next round's clients."""
        self.masks = {}
        density = self.density() if self.sparsity else 1.0
        if density == 1.0:
            return
        receivers = self.cohort(self.t + 1)
        needs = self.sparsity["criterion"] in ("saliency", "gradient", "inverted")
        scores = {}
        for client in receivers:
            gradient = None
            if needs and self.sparsity["gradient"] == "fresh":
                gradient = self.whole_gradient(client)
            elif needs and self.sparsity["gradient"] == "stored":
                gradient = self.stored[client]
                if gradient is None:
                    gradient = jax.tree.map(np.zeros_like, self.average.params)
            elif needs:
                gradient = last[client]
            scores[client] = self.client_scores(client, gradient)
        if self.sparsity["sharing"] == "shared":
            weight = {c: self.weight(c) for c in receivers}
            total = sum(weight.values())
            mean = {
                p: sum(weight[c] * scores[c][p] for c in receivers) / total
                for p in scores[receivers[0]]
            }
            shared = self.top(mean, density)
            self.masks = dict.fromkeys(receivers, shared)
        else:
            for client in receivers:
                mask = self.top(scores[client], density)
                untrained = needs and self.sparsity["gradient"] == "stored"
                if untrained and self.stored[client] is None:
                    mask = {p: np.ones_like(m) for p, m in mask.items()}
                self.masks[client] = mask

    # ---- a round ----
    def round(self):
        """Do one round; return its metrics."""
        members = self.cohort(self.t)
        before, self.began = self.average, self.masks
        starts, results, last = {}, {}, {}
        loss_sum = seen = 0
        self.drawn = members
        for client in members:
            starts[client], mask = self.receive(client, self.t)
            result, gradient, loss, count = self.train(client, starts[client], mask)
            results[client], last[client] = result, gradient
            if self.arrives(client):
                loss_sum, seen = loss_sum + loss, seen + count
        members = [c for c in members if self.arrives(c)]
        weight = {c: self.weight(c) for c in members}
        sent = {c: self.send(c, starts[c], results[c]) for c in members}
        if members:
            self.average = self.aggregate(members, starts, sent)
        for client in members:
            self.memory[client] = self.own_leaves(results[client])
            self.stored[client] = last[client]
        if self.adapts and not self.began:
            self.lags.append(self.lag(before))
        self.choose_masks(last)
        if self.t <= 2:
            self.reference = self.average
        metrics = {}
        if self.measures:
            with np.errstate(divide="ignore", invalid="ignore"):  # of layers that stand still
                metrics = self.metrics(members, before, starts, results, last, weight)
        metrics["loss_train"] = loss_sum / seen
        self.t += 1
        return metrics

    def metrics(self, members, before, starts, results, last, weight):
        out = {}
        everyone = self.data.global_index

        def personal(name, pairs):
            scores = np.array(pairs)
            out[f"accuracy_{name}"], out[f"loss_{name}"] = scores.mean(axis=0)

        trained, results = results, {c: self.predicts(c, results[c]) for c in members}
        personal("before", [self.score_own(results[c], c) for c in members])
        dense = [
            self.score_own(self.predicts(c, self.with_own(self.average, c)), c) for c in self.drawn
        ]
        personal("dense", dense)
        if self.masks:
            dense = [
                self.score_own(
                    self.predicts(
                        c, self.thin(self.with_own(self.average, c), self.masks[c], c, self.t)
                    ),
                    c,
                )
                for c in self.cohort(self.t + 1)
            ]
        personal("after", dense)
        out["global_accuracy"], out["global_loss"] = self.score(self.average, everyone)
        own = np.array([self.score(results[c], everyone) for c in members]).mean(axis=0)
        out["global_accuracy_clients"], out["global_loss_clients"] = own
        rows = [
            self.layer_metrics(self.path(x), members, before, starts, trained, last, weight)
            for x in self.model.layers
        ]
        out["layers"] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        if self.adapts:
            levels = [self.levels.get(self.path(x), 0) for x in self.model.layers]
            out["layers"]["density_level"] = np.array(levels)
        step = dict(zip([x.role for x in self.model.layers], out["layers"]["step"], strict=False))
        middle = [
            s
            for s, x in zip(out["layers"]["step"], self.model.layers, strict=True)
            if x.role == "middle"
        ]
        outer = [step["stem"], step["classifier"]]
        out["inertia_index"] = 1 - np.mean(middle) / np.mean(outer)
        return out

    def held(self, path, members):
        """Which weights none of the clients could move, as masks held them to the end."""
        if not self.began or self.sparsity["hold"] < np.inf:
            return False
        kept = [self.began[client][path] for client in members if path in self.began[client]]
        return ~np.any(kept, axis=0) if kept else False

    def layer_metrics(self, path, members, before, starts, results, last, weight):
        old, new = flat(before.params)[path], flat(self.average.params)[path]
        reference = flat(self.reference.params)[path]
        deltas = {c: flat(results[c].params)[path] - flat(starts[c].params)[path] for c in members}
        norm = np.linalg.norm
        length = {c: norm(d.ravel()) for c, d in deltas.items()}
        total = sum(weight.values())
        mean = sum(weight[c] * deltas[c] for c in members) / total
        cosines = [
            np.vdot(deltas[a], deltas[b]) / (length[a] * length[b])
            for i, a in enumerate(members)
            for b in members[i + 1 :]
            if length[a] and length[b]
        ]
        known = self.t >= 2
        gap = new - reference
        return {
            "drift_cosine": np.vdot(new, reference) / (norm(new.ravel()) * norm(reference.ravel()))
            if known
            else np.nan,
            "drift_l1": np.abs(gap).sum() if known else np.nan,
            "drift_l2": norm(gap.ravel()) if known else np.nan,
            "relative_drift": norm(gap.ravel()) / norm(reference.ravel()) if known else np.nan,
            "step": norm(np.where(self.held(path, members), 0, new - old)) / norm(old.ravel()),
            "client_step": np.mean(list(length.values())) / norm(old.ravel()),
            "cancellation": 1
            - norm(mean.ravel()) / (sum(weight[c] * length[c] for c in members) / total),
            "alignment": np.mean(cosines) if cosines else np.nan,
            "grad_norm": np.mean([norm(flat(last[c])[path].ravel()) for c in members]),
        }
