"""Parts from outside the package: found by name or place, typed, refused in a line, and known."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import bad_parts, commands, own_method
from helpers.commands import call, nothing_left, refusal
from lipsjax import recording
from lipsjax.runs import dataset, own, parts, sites
from lipsjax.runs.config import (
    MODELS,
    STRATEGIES,
    Config,
    SparsityConfig,
    StrategyConfig,
    to_dict,
)
from lipsjax.runs.reads import unread
from lipsjax.strategy import ClientContext, RunContext, ServerContext
from lipsjax.types import LocalResult, Variables

HELPERS = Path(own_method.__file__).parent
ENTRY_POINTS = """
[lipsjax.models]
small = own_method:Small
[lipsjax.strategies]
fedsam = own_method:fedsam
fedexp = own_method:fedexp
[lipsjax.datasets]
bars = own_method:bars
[lipsjax.criteria]
squared = own_method:squared
[lipsjax.partitions]
in-turn = own_method:in_turn
[lipsjax.measures]
largest-step = own_method:largest_step
"""
STUDY = """
name = "own parts"
seeds = 2
[config]
dataset = "{bars}"
dataset_options = {{ size = 7 }}
rounds = 3
model = {{ name = "{small}", options = {{ units = 3 }} }}
partition = {{ kind = "{turn}", clients = 3, options = {{ size = 8 }} }}
local = {{ epochs = 1, batch_size = 4 }}
evaluation = {{ measures = ["{step}"], global_examples = 20 }}
[sparsity]
criterion = "{squared}"
[arms.fedexp]
strategy = {{ name = "{fedexp}" }}
[arms.fedsam]
strategy = {{ name = "{fedsam}", options = {{ rho = 1 }} }}
sparsity = {{}}
"""
NAMES = dict.fromkeys(("bars", "small", "squared", "fedexp", "fedsam"))
BY_NAME = {name: name for name in NAMES} | {"turn": "in-turn", "step": "largest-step"}
BY_PLACE = {name: f"own_method:{name}" for name in NAMES} | {
    "small": "own_method:Small",
    "turn": "own_method:in_turn",
    "step": "own_method:largest_step",
}


def forget():
    """Forgets what was found and read, as a new process has."""
    for cached in (parts._brought, parts._digest_of, sites.read, dataset.load):
        cached.cache_clear()
    for name in ("own_method", "bad_parts", "scratch", "scratch.inner"):
        sys.modules.pop(name, None)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder as pip leaves it, on the path: a package and what it says of itself."""
    folder = tmp_path / "site"
    about = folder / "own_method-1.0.dist-info"
    about.mkdir(parents=True)
    shutil.copy(HELPERS / "own_method.py", folder)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own-method\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    forget()
    yield folder
    forget()


@pytest.fixture
def bad(tmp_path, monkeypatch):
    """A working folder with parts that are wrong."""
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copy(HELPERS / "bad_parts.py", folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    forget()
    yield folder
    forget()


def write_study(folder, names):
    path = folder / "study.toml"
    path.write_text(STUDY.format(**names))
    return path


# What identifies a run.


def test_runs_without_own_parts_keep_their_names():
    """The names that runs of behaviour 3 had before there were own parts."""
    config = Config(strategy=StrategyConfig(name="fedprox", options={"mu": 1}))
    with mock.patch.object(recording.runs, "BEHAVIOUR", 3):
        assert recording.run_hash(to_dict(Config()), "0f" * 8) == "3446bec881c6dbab"
    assert type(config.strategy.options["mu"]) is float
    assert parts.identity(config) == {}
    assert recording.run_hash({}, "", {}) == recording.run_hash({}, "")


def test_another_source_is_another_run(bad):
    config = Config(strategy=StrategyConfig(name="scratch:method"))
    found = []
    for text in ("def method(): ...\n", "def method(): 1\n"):
        (bad / "scratch.py").write_text(text)
        forget()
        importlib.invalidate_caches()
        found.append(parts.identity(config))
    assert found[0].keys() == found[1].keys() == {"strategy.name=scratch:method"}
    hashes = {recording.run_hash(to_dict(config), "", each) for each in found}
    assert len(hashes) == 2


def test_the_digest_is_of_all_files_of_a_package(bad):
    package = bad / "scratch"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "inner" / "__init__.py").write_text("def method(): ...\n")
    digests = []
    for text in ("a = 1", "a = 2"):
        (package / "beside.py").write_text(text)
        forget()
        importlib.invalidate_caches()
        digests.append(parts.source_digest(STRATEGIES, "scratch.inner:method"))
    assert digests[0] != digests[1]


def test_the_digest_is_of_what_a_module_imports_beside_it(bad, monkeypatch):
    module = types.ModuleType("scratch")
    module.__file__ = str(bad / "scratch.py")
    monkeypatch.setitem(sys.modules, "scratch", module)

    def digest():
        parts._digest_of.cache_clear()
        return parts._digest_of("scratch")

    (bad / "scratch.py").write_text("from rates import RATE\n\ndef method(): ...\n")
    (bad / "rates.py").write_text("from base import RATE\n")
    (bad / "unread.py").write_text("")
    digests = []
    for name, text in (("unread", "a = 1"), ("base", "RATE = 1"), ("base", "RATE = 2")):
        (bad / "base.py").touch()
        (bad / f"{name}.py").write_text(text)
        digests.append(digest())
    (bad / "unread.py").write_text("a = 2")
    assert digest() == digests[-1]
    assert len(set(digests)) == 3


# Names and options.


@pytest.mark.usefixtures("installed")
def test_installed_packages_bring_names():
    assert parts.is_own(MODELS, "small")
    assert parts.find(MODELS, "small").__name__ == "Small"
    with pytest.raises(ValueError, match=r"vit, small, or MODULE:FUNCTION, not 'smal'; did you m"):
        MODELS.check("smal")
    assert sites.is_own("bars")
    assert not sites.is_own("digits")


def test_a_name_of_two_packages_is_refused(installed):
    other = installed / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[lipsjax.models]\nsmall = bad_parts:NoLayers\n")
    with pytest.raises(ValueError, match="small is brought by more than one package"):
        parts.find(MODELS, "small")


def test_built_in_parts_come_before_those_of_the_same_name(installed):
    entries = installed / "own_method-1.0.dist-info" / "entry_points.txt"
    entries.write_text("[lipsjax.models]\ncnn = own_method:Small\n")
    assert not parts.is_own(MODELS, "cnn")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"steps": 5.0}, {"steps": 5}),
        ({"steps": 5}, {"steps": 5}),
        ({"kind": 7}, {"kind": "7"}),
        ({"fast": True, "kind": "deep"}, {"fast": True, "kind": "deep"}),
    ],
)
def test_options_have_the_types_of_the_signature(given, expected):
    found = parts.typed(STRATEGIES, "few", bad_parts.few_options, given)
    assert found == expected
    assert [type(v) for v in found.values()] == [type(v) for v in expected.values()]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": 2.5}, "option steps of few must be an integer, not 2.5"),
        ({"steps": "many"}, "option steps of few must be an integer, not 'many'"),
        ({"steps": True}, "option steps of few must be an integer, not True"),
        ({"kind": True}, "option kind of few must be a text, not True"),
        ({"fast": 1}, "option fast of few must be true or false, not 1"),
        ({"step": 1}, "unknown option 'step' of few; did you mean steps?; allowed are steps, kind"),
    ],
)
def test_options_that_do_not_fit(given, words):
    with pytest.raises(ValueError) as refused:
        parts.typed(STRATEGIES, "few", bad_parts.few_options, given)
    assert words in str(refused.value)


def test_an_own_criterion_reads_the_gradient():
    config = Config(sparsity=SparsityConfig(criterion="a:b"))
    assert "sparsity.gradient" not in unread(config)
    assert "partition.options" in unread(config)


# The two methods, by hand.


def test_fedsam_takes_the_gradient_at_the_perturbed_weights():
    run = RunContext(rounds=1, num_examples=(1,))
    context = ClientContext(run, Variables(jnp.array([3.0, 4.0]), ()))

    def half_square(w, batch_stats):
        return jnp.sum(w**2) / 2, batch_stats

    sharp = own_method.fedsam(rho=1).loss(half_square, context)
    gradient = jax.grad(lambda w: sharp(w, ())[0])(context.variables.params)
    np.testing.assert_allclose(gradient, [3.6, 4.8], rtol=1e-6)  # w + w / 5


def test_fedexp_goes_further_where_clients_disagree():
    strategy, run = own_method.fedexp(epsilon=0.0), RunContext(rounds=1, num_examples=(1, 1))
    old = Variables(jnp.zeros(2), {})
    sent = []
    for params in ([4.0, 1.0], [-4.0, 1.0]):
        result = LocalResult(Variables(jnp.array(params), {}), (), *[0] * 5)
        sent.append(strategy.send(ClientContext(run, old), result)[0])
    mean = tuple((a + b) / 2 for a, b in zip(sent[0][:2], sent[1][:2], strict=True))
    new, _ = strategy.update(ServerContext(run, old), (*mean, {}))
    np.testing.assert_allclose(new.params, [0.0, 8.5], rtol=1e-6)  # 17 / (2 * 1)


# What is refused, before anything is written.

BAD = {
    "unknown model": (["--model.name", "vggg"], ["--model.name must be one of mlp", "vgg5?"]),
    "unknown strategy": (["--strategy.name", "fedpro"], ["MODULE:FUNCTION", "fedprox"]),
    "unknown partition": (["--partition.kind", "dirichle"], ["did you mean dirichlet?"]),
    "unknown measure": (
        ["--evaluation.measures", "size"],
        ["evaluation.measures must be MODULE:FUNCTION, not 'size'"],
    ),
    "a file for a place": (["--model.name", "bad_parts.py"], ["MODULE:FUNCTION, not 'bad_parts"]),
    "no such module": (
        ["--model.name", "bad_part:NoLayers"],
        ["model.name: bad_part:NoLayers: there is no module 'bad_part' in the working folder"],
    ),
    "no such function": (
        ["--model.name", "bad_parts:NoLayer"],
        ["module bad_parts has no 'NoLayer'; did you mean NoLayers"],
    ),
    "import raises": (
        ["--strategy.name", "scratch:method"],
        ["strategy.name: scratch:method cannot be imported: ZeroDivisionError: division by zero"],
    ),
    "syntax error": (["--strategy.name", "broken:method"], ["cannot be imported: SyntaxError"]),
    "needs a module": (
        ["--strategy.name", "lacking:method"],
        ["lacking:method needs not_here, which is not installed"],
    ),
    "not callable": (
        ["--strategy.name", "bad_parts:numbers"],
        ["bad_parts:numbers must be a function, and is of type list"],
    ),
    "raises": (
        ["--strategy.name", "bad_parts:raises"],
        ["strategy.name: bad_parts:raises raised RuntimeError: out of luck"],
    ),
    "no strategy": (
        ["--strategy.name", "bad_parts:returns_a_text"],
        ["bad_parts:returns_a_text must return a lipsjax Strategy, not str"],
    ),
    "an option is needed": (
        ["--strategy.name", "bad_parts:needs_an_option"],
        ["bad_parts:needs_an_option needs beta: give strategy.options beta=VALUE"],
    ),
    "an unknown option": (
        ["--strategy.name", "bad_parts:few_options", "--strategy.options", "step=2"],
        ["unknown option 'step' of bad_parts:few_options; did you mean steps?"],
    ),
    "an option of another type": (
        ["--strategy.name", "bad_parts:few_options", "--strategy.options", "steps=2.5"],
        ["option steps of bad_parts:few_options must be an integer, not 2.5"],
    ),
    "fails in a round": (
        ["--strategy.name", "bad_parts:fails_in_a_round"],
        ["a round with bad_parts:fails_in_a_round cannot be built: AttributeError", "nothing"],
    ),
    "a text for a built-in": (
        ["--strategy.name", "fedprox", "--strategy.options", "mu=much"],
        ["option mu of fedprox must be a number, or true or false, not 'much'"],
    ),
    "options of a built-in model": (
        ["--model.options", "units=3"],
        ["model.options are of own models", "units"],
    ),
    "wrong signature": (
        ["--model.name", "bad_parts:takes_no_classes"],
        ["bad_parts:takes_no_classes must take num_classes, and takes width"],
    ),
    "no model": (
        ["--model.name", "bad_parts:returns_a_text"],
        ["must return a Flax module or a lipsjax Model, not str"],
    ),
    "wrong shape": (
        ["--model.name", "bad_parts:WrongShape"],
        ["logits of shape (2, 5)", "it must be (2, 4)"],
    ),
    "not pure": (["--model.name", "bad_parts:Draws"], ["bad_parts:Draws is not pure"]),
    "no kernel": (
        ["--model.name", "bad_parts:NoKernel"],
        ["declares a layer 'other' at other/kernel, where there is no kernel"],
    ),
    "a type of layers": (
        ["--model.name", "bad_parts:WrongShape", "--model.dtype", "bfloat16"],
        ["model.dtype is not read by bad_parts:WrongShape"],
    ),
    "no data set": (["--dataset", "bad_parts:returns_a_text"], ["must return a lipsjax Dataset"]),
    "no arrays": (["--dataset", "bad_parts:no_arrays"], ["bad_parts:no_arrays returned no arrays"]),
    "another data set each time": (
        ["--dataset", "bad_parts:another_each_time"],
        ["bad_parts:another_each_time is not the same at every call"],
    ),
    "options of a built-in data set": (
        ["--dataset-options", "size=3"],
        ["dataset_options are of own data sets, and synthetic takes none"],
    ),
    "an unknown option of data": (
        ["--dataset", "bad_parts:no_arrays", "--dataset-options", "size=3"],
        ["unknown option 'size' of bad_parts:no_arrays; allowed are none"],
    ),
    "how a file is read": (
        ["--dataset", "bad_parts:no_arrays", "--data.resize", "4", "4"],
        ["bad_parts:no_arrays: data.resize is not read here; leave it out"],
    ),
    "no data function": (["--dataset", "bad_parts:nowhere"], ["has no 'nowhere'"]),
    "too few clients": (
        ["--partition.kind", "bad_parts:too_few"],
        ["bad_parts:too_few gives train examples of 1 clients, not 3"],
    ),
    "examples that are not there": (
        ["--partition.kind", "bad_parts:beyond"],
        ["must give client 0 at least one train example, as positions in 0..799"],
    ),
    "another partition each time": (
        ["--partition.kind", "bad_parts:draws_elsewhere"],
        ["bad_parts:draws_elsewhere is not the same at every call: draw from rng alone"],
    ),
    "no partition": (
        ["--partition.kind", "bad_parts:takes_no_classes"],
        ["must take dataset, and takes width"],
    ),
    "a number for a dict": (
        ["--evaluation.measures", "bad_parts:one_number"],
        ["bad_parts:one_number must return a dict of numbers by name"],
    ),
    "many numbers": (
        ["--evaluation.measures", "bad_parts:many_numbers"],
        ["must return single numbers; many has shape (3,)"],
    ),
    "an accuracy of its own": (
        ["--evaluation.measures", "bad_parts:an_accuracy"],
        ["calls a number 'accuracy_mine'"],
    ),
    "a name that is taken": (
        ["--evaluation.measures", "bad_parts:a_taken_name"],
        ["two measures are called global_loss"],
    ),
    "a measure that counts": (
        ["--evaluation.measures", "bad_parts:counts_calls"],
        ["bad_parts:counts_calls is not pure"],
    ),
}
BAD_CRITERIA = {
    "negative": ["bad_parts:negative must return scores of at least 0, not -1"],
    "flat": ["bad_parts:flat returns scores of shape (6,) for weights of (2, 3)"],
    "counting": ["bad_parts:counting is not pure"],
    "raises": ["bad_parts:raises raised TypeError"],
}


@pytest.mark.whole
@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(bad, tmp_path, case):
    (bad / "scratch.py").write_text("1 / 0\n")
    (bad / "broken.py").write_text("def method(:\n")
    (bad / "lacking.py").write_text("import not_here\n")
    argv, words = BAD[case]
    refusal(commands.run(tmp_path / "out", *argv), *words)
    assert nothing_left(tmp_path / "out")


@pytest.mark.parametrize("name", BAD_CRITERIA)
@pytest.mark.usefixtures("bad")
def test_criteria_that_are_refused(name):
    parts.find(MODELS, "bad_parts:NoLayers")
    with pytest.raises(ValueError) as refused:
        own.build_criterion(f"bad_parts:{name}")
    for words in BAD_CRITERIA[name]:
        assert words in str(refused.value)


# Used by the commands.


@pytest.mark.slow
@pytest.mark.whole
@pytest.mark.parametrize(
    "names", [BY_NAME, pytest.param(BY_PLACE, marks=pytest.mark.slow)], ids=["name", "place"]
)
def test_a_study_of_own_parts(installed, tmp_path, names):
    """Swept, found finished, reported from recordings alone, in one and the same bits."""
    study, out = write_study(tmp_path, names), tmp_path / "out"
    argv = (str(study), "--devices", "1", "--out", str(out))
    ended = call("sweep", *argv)
    assert ended.status == 0, ended
    runs = sorted(out.glob("runs/*"))
    assert len(runs) == 4
    recorded = json.loads((runs[0] / "config.json").read_text())
    assert recorded["config"]["model"]["options"] == {"units": 3}
    assert len({*recorded["parts"].values()}) == 1  # all are of one file
    found = recording.read(runs[0])
    assert (found.scalars["largest_step"] >= found.scalars["stem_step"]).all()
    assert "4 of 4 runs found finished" in call("sweep", *argv).out

    # what is recorded needs no part, and a part that cannot be imported harms nothing
    forget()
    (installed / "own_method.py").write_text("raise RuntimeError('imported')\n")
    shutil.rmtree(installed / "own_method-1.0.dist-info")
    ended = call("report", str(out))
    assert ended.status == 0, ended
    page = (out / "report.html").read_text()
    assert names["small"] in page
    assert '<th scope="row">largest_step</th>' in page
    assert "own_method" not in sys.modules


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path):
    argv = ("--strategy.name", "fedexp", "--model.name", "small", "--dataset", "bars")
    assert commands.run(tmp_path / "whole", *argv).status == 0
    commands.stop_at_save(tmp_path / "stopped", 2, *argv)
    forget()
    ended = commands.run(tmp_path / "stopped", *argv)
    assert ended.status == 0, ended
    assert "goes on after round 2 of 6" in ended.out
    whole, stopped = (commands.run_dir(tmp_path / name) for name in ("whole", "stopped"))
    assert commands.files(whole) == commands.files(stopped)


@pytest.mark.whole
@pytest.mark.usefixtures("installed")
def test_survey_of_own_data_and_an_own_partition(tmp_path):
    argv = ("--dataset", "bars", "--partition.kind", "in-turn", "--partition.clients", "3")
    ended = call("survey", *argv, "--out", str(tmp_path / "out"))
    assert ended.status == 0, ended
    assert "3 clients by in-turn" in ended.out


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_workers_find_own_parts(tmp_path):
    study, out = write_study(tmp_path, BY_NAME), tmp_path / "out"
    ended = call("sweep", str(study), "--arms", "fedexp", "--workers", "2", "--out", str(out))
    assert ended.status == 0, ended
    assert "2 workers run trials side by side" in ended.out
    assert len([*out.glob("runs/*/summary.json")]) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_search_and_plan_with_own_parts(tmp_path):
    pytest.importorskip("optuna")
    study = write_study(tmp_path, BY_PLACE)
    argv = (str(study), "--devices", "1", "--out", str(tmp_path / "out"))
    ended = call("plan", *argv)
    assert ended.status == 0, ended
    assert "fedsam" in ended.out
    space = ("--space", "strategy.options.rho=[0.01, 1.0]", "--trials", "2", "--arm", "fedsam")
    ended = call("search", *argv, *space)
    assert ended.status == 0, ended
    assert "best fedsam" in (tmp_path / "out" / "study.json").read_text()


@pytest.mark.slow
def test_the_working_folder_is_where_places_begin(tmp_path):
    """The console script in a process of its own, its module beside the user."""
    shutil.copy(HELPERS / "own_method.py", tmp_path / "mine.py")
    code = "import sys; from lipsjax.experiments.cli import main; sys.argv[0] = 'lipsjax'; main()"
    argv = ("run", *commands.TINY, "--model.name", "mine:Small", "--out", "out")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    environment["PYTHONSAFEPATH"] = "1"  # as a console script, whose folder is another
    ended = subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert len([*tmp_path.glob("out/runs/*/summary.json")]) == 1
