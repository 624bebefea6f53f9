"""Own parts that are wrong, each in its own way."""
# ruff: noqa: ARG001

import itertools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

import lipsjax as lj

numbers = [1, 2, 3]
calls = itertools.count()


def raises(**options):
    raise RuntimeError("out of\nluck")


def returns_a_text(**options):
    return "a text"


def takes_no_classes(width: int = 3):
    return width


def needs_an_option(*, beta: float):
    return lj.fedavg()


def few_options(*, steps: int = 3, kind: str = "wide", fast: bool = False):
    return lj.fedavg()


class NoLayers(nn.Module):
    num_classes: int

    def __call__(self, x, *, mask, train):
        return x


class WrongShape(nn.Module):
    num_classes: int
    wrong: int = 1

    @nn.compact
    def __call__(self, x, *, mask, train):
        return nn.Dense(self.num_classes + self.wrong, name="only")(x.reshape(len(x), -1))

    def layers(self):
        return (lj.types.Layer("only", "classifier", "dense", ("only", "kernel")),)


class Draws(WrongShape):
    wrong: int = 0

    @nn.compact
    def __call__(self, x, *, mask, train):
        x = x.reshape(len(x), -1) * float(next(calls))
        return nn.Dense(self.num_classes, name="only")(x)


class NoKernel(WrongShape):
    wrong: int = 0

    def layers(self):
        return (lj.types.Layer("other", "classifier", "dense", ("other", "kernel")),)


def fails_in_a_round():
    return lj.fedavg()._replace(name="fails", update=lambda context, mean: mean.nothing)


def negative(weights, gradient, key):
    return -jnp.abs(weights)


def flat(weights, gradient, key):
    return jnp.abs(weights).ravel()


def counting(weights, gradient, key):
    return jnp.abs(weights) + next(calls)


def another_each_time():
    dataset = lj.datasets.load("synthetic")
    labels = (dataset.train.labels + next(calls)) % dataset.num_classes
    return dataset._replace(train=dataset.train._replace(labels=labels))


def no_arrays():
    return lj.datasets.Dataset("mine", [1], [2], num_classes=2)


def too_few(dataset, *, rng, clients):
    return lj.partition.Partition((np.arange(3),), (np.arange(3),), np.ones((1, 2)))


def beyond(dataset, *, rng, clients):
    held = (np.arange(3) + 10**6,) * clients
    return lj.partition.Partition(held, held, np.ones((clients, dataset.num_classes)))


def draws_elsewhere(dataset, *, rng, clients):
    held = (np.arange(3) + next(calls),) * clients
    return lj.partition.Partition(held, held, np.ones((clients, dataset.num_classes)))


def one_number(old, new, layers):
    return jnp.zeros(())


def many_numbers(old, new, layers):
    return {"many": jnp.zeros(3)}


def an_accuracy(old, new, layers):
    return {"accuracy_mine": jnp.zeros(())}


def a_taken_name(old, new, layers):
    return {"global_loss": jnp.zeros(())}


def counts_calls(old, new, layers):
    return {"count": jnp.zeros(()) + float(next(calls))}
