"""What identifies parts that are handed over in Python, and what is refused."""

import functools
import importlib
import linecache
import types
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.worlds import TinyNet
from lipsjax import datasets, models
from lipsjax.runs import given, own
from lipsjax.runs.build import build_optimizer
from lipsjax.runs.config import LocalConfig
from lipsjax.runs.identity import UnknownError, digest_of

SOURCE = """
import functools
import flax.linen as nn
import jax
import numpy as np
import optax

WIDTH = 4
UNITS = 7
TABLE = np.arange(3)

def twice(function):
    @functools.wraps(function)
    def doubled(*args, **kwargs):
        return 2 * function(*args, **kwargs)
    return doubled

class Base:
    factor = 2

class Net(nn.Module):
    num_classes: int = 3
    units: int = UNITS
    @twice
    def head(self, x):
        return x
    def setup(self):
        self.dense = nn.Dense(WIDTH)
    def __call__(self, x):
        return self.dense(x) * helper(x)

def helper(x):
    return x * TABLE

def make(num_classes):
    return Net(num_classes)

def optimizer(learning_rate, decay=0.1):
    return optax.sgd(learning_rate * decay)

@twice
def decorated(learning_rate):
    return learning_rate

@jax.jit
def jitted(x):
    return helper(x)

def outer(scale):
    def inner(learning_rate):
        return optax.sgd(scale * learning_rate)
    return inner
"""


def module_of(text, name="own_parts"):
    """Names of a module of this text, whose lines tracebacks would show too."""
    place = f"<{name} {hash(text)}>"
    linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
    names = {"__name__": name}
    exec(compile(text, place, "exec"), names)
    return types.SimpleNamespace(**names)


@pytest.mark.parametrize("part", ["make", "Net", "optimizer", "decorated", "jitted", "helper"])
def test_equal_sources_have_equal_digests(part):
    first, second = (digest_of(getattr(module_of(SOURCE), part)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [
        ("make", "WIDTH = 4", "WIDTH = 5"),
        ("Net", "return 2 * function", "return 3 * function"),
        ("decorated", "return 2 * function", "return 3 * function"),
        ("make", "nn.Dense(WIDTH)", "nn.Dense(2 * WIDTH)"),
        ("make", "num_classes: int = 3", "num_classes: int = 4"),
        ("make", "x * TABLE", "x + TABLE"),
        ("make", "np.arange(3)", "np.arange(4)"),
        ("Net", "return x * TABLE", "return x - TABLE"),
        ("optimizer", "decay=0.1", "decay=0.2"),
        ("optimizer", "optax.sgd(learning_rate *", "optax.adam(learning_rate *"),
        ("jitted", "np.arange(3)", "np.arange(1, 4)"),
    ],
)
def test_an_edit_of_what_it_reads_is_an_edit(part, old, new):
    assert old in SOURCE
    edited = module_of(SOURCE.replace(old, new))
    assert digest_of(getattr(module_of(SOURCE), part)) != digest_of(getattr(edited, part))


@pytest.mark.parametrize("part", ["make", "Net", "optimizer", "jitted"])
def test_an_edit_of_what_it_does_not_read_is_none(part):
    edited = module_of(SOURCE.replace("factor = 2", "factor = 3"))
    assert digest_of(getattr(module_of(SOURCE), part)) == digest_of(getattr(edited, part))


def test_what_a_class_names_in_its_body_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for name, units in (("units_7", 7), ("units_8", 8)):
        text = SOURCE.replace("UNITS = 7", f"UNITS = {units}")
        (tmp_path / f"{name}.py").write_text(text)  # of which a class has its source
        found.append(digest_of(importlib.import_module(name).Net))
    assert len(set(found)) == 2


def test_a_setting_of_a_module_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "settings_of_a_test.py").write_text("rate = 0.5")
    settings = importlib.import_module("settings_of_a_test")
    first = digest_of(settings)
    settings.rate = 0.25
    assert digest_of(settings) != first


def test_a_file_that_was_edited_after_its_import_is_neither_the_old_nor_the_new():
    text = SOURCE.replace("* decay)", "* decay * 5)")
    old, new = module_of(SOURCE), module_of(text)
    place = old.optimizer.__code__.co_filename
    before = digest_of(old.optimizer)
    linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
    assert len({digest_of(old.optimizer), digest_of(new.optimizer), before}) == 3


def test_closures_and_arguments_count():
    made = module_of(SOURCE)
    assert digest_of(made.outer(1.0)) == digest_of(made.outer(1.0))
    assert digest_of(made.outer(1.0)) != digest_of(made.outer(2.0))
    partials = [functools.partial(made.optimizer, decay=d) for d in (0.1, 0.1, 0.3)]
    first, again, other = map(digest_of, partials)
    assert first == again != other


def test_modules_and_models_are_known_by_their_fields():
    first, again, other = (digest_of(TinyNet(norm=norm)) for norm in ("none", "none", "batch"))
    assert first == again != other
    first, again, other = (
        digest_of(models.from_flax(TinyNet(norm=norm), (5, 5, 1)))
        for norm in ("none", "none", "batch")
    )
    assert first == again != other


def test_values_that_look_alike_differ():
    values = [1, 1.0, True, "1", (1,), [1], {1}, {1: 1}, np.ones(1), np.ones(1, np.float32), None]
    values += [jnp.ones(2), np.ones((1, 2)), np.ones((2, 1)), [1, [2]], [[1], 2], optax.sgd]
    assert len({digest_of(value) for value in values}) == len(values)


@pytest.mark.parametrize(
    "part",
    [lambda rate: rate, np.random.default_rng(0), object(), [lambda: 1], np.array([object()])],
    ids=["lambda", "generator", "object", "within", "objects"],
)
def test_what_nothing_identifies_is_refused(part):
    with pytest.raises(UnknownError):
        digest_of(part)


def test_code_without_source_is_refused_and_goes_by_a_name():
    names = {"__name__": "typed"}
    exec("def f(learning_rate): return learning_rate", names)
    study = {"config": {"local": {"optimizer": names["f"]}}}
    with pytest.raises(ValueError, match=r"^config.local.optimizer: .*lipsjax.named\(PART") as told:
        given.replace_parts(study)
    assert "\n" not in str(told.value)
    ends = [
        given.replace_parts({"config": {"local": {"optimizer": given.named(names["f"], name)}}})
        for name in ("net 1", "net 1", "net 2")
    ]
    first, again, other = (end["config"]["local"]["optimizer"] for end in ends)
    assert first == again != other
    assert first.startswith("net-1@")
    assert given.find("local.optimizer", first) is names["f"]


def test_parts_stand_wherever_a_study_names_them():
    made = module_of(SOURCE)
    study = given.replace_parts(
        {
            "seeds": np.int64(2),
            "config": {"model": {"name": made.make}, "dataset": datasets.synthetic},
            "arms": {"a": {}, "b": {"local": {"optimizer": made.optimizer}}, "c": {}},
            "grid": {"model.name": [made.make, made.Net], "partition.alpha": np.array([0.1, 1])},
        }
    )
    assert study["seeds"] == 2
    assert type(study["seeds"]) is int
    assert study["grid"]["partition.alpha"] == [0.1, 1.0]
    assert study["config"]["model"]["name"] == study["grid"]["model.name"][0]
    assert all(map(given.is_given, study["grid"]["model.name"]))
    own = study["arms"]["b"]["local"]
    assert given.is_given(own["optimizer"])
    assert own["options"] == {}  # momentum is of SGD
    assert study["config"]["dataset"].startswith("synthetic@")


def test_data_are_known_by_their_arrays():
    first = datasets.synthetic(seed=1)
    names = [
        given.replace_parts({"config": {"dataset": data}})["config"]["dataset"]
        for data in (first, first._replace(name="other"), datasets.synthetic(seed=2))
    ]
    digests = [name.partition("@")[2] for name in names]
    assert digests[0] == digests[1] != digests[2]


IMAGES = np.zeros((4, 2, 2, 1))


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ({"config": {"rounds": object()}}, "config.rounds must be as a TOML file has it"),
        ({"arms": {"a": {"strategy": {"name": optax.sgd}}}}, "own parts stand at dataset, model"),
        ({"config": {"model": {"name": object()}}}, "config.model.name must be a name or a funct"),
        ({"config": {"dataset": object()}}, "config.dataset must be a name or a function"),
        (
            {"config": {"dataset": lambda: {}}},
            "config.dataset must be a name, a lipsjax.datasets.Datas",
        ),
        ({"config": {"dataset": lambda: 1 / 0}}, "raised ZeroDivisionError: division by zero"),
        (
            {"config": {"dataset": datasets.Dataset("d", *[datasets.Examples([[1]], [0])] * 2, 2)}},
            "d: train features of type int64",
        ),
    ],
    ids=["value", "place", "model", "data", "returned", "raised", "arrays"],
)
def test_what_is_no_part_is_refused_in_one_line(study, said):
    with pytest.raises(ValueError, match=r"\S") as told:
        given.replace_parts(study)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("path", ["a/b.npz", "~/mine.npz"])
def test_a_path_is_a_text(path):
    assert given.replace_parts({"config": {"dataset": Path(path)}})["config"]["dataset"] == path


def test_a_part_of_another_process_is_refused():
    with pytest.raises(
        ValueError, match=r"model.name: other@0123456789ab was handed over in Python"
    ):
        given.find("model.name", "other@0123456789ab")


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x, *, mask, train):
        return nn.Dense(4)(x.reshape(len(x), -1))


class Raises(TinyNet):
    @nn.compact
    def __call__(self, x, *, mask, train):
        raise RuntimeError("two\nlines")


def own_model(part, classes, normalise=None):
    """The model of a part that was handed over."""
    given._parts[HANDED] = part
    shape = {"num_classes": classes, "input_shape": (5, 5, 1), "dtype": np.float32}
    return own.build_model(HANDED, {}, normalise=normalise, **shape)


HANDED = "net@0123456789ab"


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Plain(), "has 1 kernels; a model needs a stem and a classifier"),
        (Raises(), "cannot be called on such inputs: RuntimeError: two lines"),
        (lambda num_classes: 3, "must return a Flax module or a lipsjax Model, not int"),
        (lambda classes: 3, "raised TypeError"),
        (
            lambda: TinyNet(),
            "logits of shape (2, 4) for 2 examples of 3 classes; it must be (2, 3)",
        ),
    ],
    ids=["layers", "raises", "returns", "takes", "shape"],
)
def test_models_that_cannot_be_used_are_refused_in_one_line(part, said):
    with pytest.raises(ValueError, match=r"^model.name: net@0123456789ab ?\S?") as told:
        own_model(part, 3)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_a_function_a_class_an_instance_and_a_model_are_models():
    made = models.from_flax(TinyNet(), (5, 5, 1))
    for part in (TinyNet, TinyNet(), lambda input_shape: models.from_flax(TinyNet(), input_shape)):
        assert own_model(part, 4).layers == made.layers
    assert own_model(made, 4) is made
    with pytest.raises(ValueError, match=r"model.normalise needs a Flax module"):
        own_model(made, 4, ([0.0], [1.0]))


def test_an_own_optimizer_takes_its_options_and_no_others():
    made = module_of(SOURCE)
    study = given.replace_parts({"config": {"local": {"optimizer": made.optimizer}}})
    name = study["config"]["local"]["optimizer"]
    local = LocalConfig(optimizer=name, learning_rate=2.0, options={"decay": 0.25})
    optimizer, gradient = build_optimizer(local), jnp.ones(1)
    assert optimizer.update(gradient, optimizer.init(gradient))[0] == -0.5
    with pytest.raises(ValueError, match=r"unknown option 'momentum' of optimizer@.*decay"):
        build_optimizer(LocalConfig(optimizer=name))
