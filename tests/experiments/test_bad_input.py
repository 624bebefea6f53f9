"""What a person may get wrong: one line that names it, status 2, and nothing half-written."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from helpers import commands
from helpers.commands import nothing_left, refusal
from helpers.fake_study import write_study
from lipsjax import datasets, recording
from lipsjax.experiments import cli, command
from lipsjax.runs import study
from lipsjax.runs.build import build_optimizer
from lipsjax.runs.config import Config, LocalConfig

# Options of the command line.

OPTIONS = {
    "unknown option": (["--nope", "3"], ["unknown option '--nope'"]),
    "misspelt option": (["--model.nam", "cnn"], ["'--model.nam'", "did you mean --model.name"]),
    "stray argument": (["study.toml"], ["unknown argument 'study.toml'"]),
    "no value": (["--rounds"], ["'--rounds'", "Missing value"]),
    "text for an integer": (["--rounds", "x"], ["--rounds must be an integer, not 'x'"]),
    "after an equals sign": (["--rounds=x"], ["--rounds must be an integer, not 'x'"]),
    "number for an integer": (["--rounds", "1.5"], ["--rounds must be an integer, not '1.5'"]),
    "text for a number": (
        ["--partition.alpha", "small"],
        ["--partition.alpha must be a finite number, not 'small'"],
    ),
    "unknown model": (["--model.name", "vgg"], ["'vgg'", "--model.name", "cnn", "resnet8"]),
    "unknown criterion": (["--sparsity.criterion", "size"], ["'size'", "saliency", "magnitude"]),
    "neither true nor false": (["--lips", "maybe"], ["unknown argument 'maybe'"]),
    "a flag with a value": (["--lips", "True"], ["--lips stands alone", "no value, not 'True'"]),
    "a flag that is denied": (["--lips", "false"], ["--lips stands alone", "not 'false'"]),
    "a flag and =": (["--lips=1"], ["--lips stands alone", "not '1'"]),
    "a flag and nothing": (["--lips="], ["--lips stands alone", "not ''"]),
    "a flag of another command": (["--verbose"], ["unknown option '--verbose'"]),
    "less than all help": (["--help-al"], ["unknown option", "did you mean --help-all"]),
    "help with a value": (["--help-all=x"], ["unknown option '--help-all=x'"]),
    "one bad number of many": (
        ["--partition.train-examples", "3", "4.5", "5"],
        ["--partition.train-examples", "an integer or a list", "'3 4.5 5'"],
    ),
    "option of the optimizer without a value": (
        ["--local.options", "nesterov"],
        ["momentum=0.9 nesterov=true", "'nesterov'"],
    ),
    "sparsity of a dense run": (["--sparsity.density", "0.3"], ["--lips alone"]),
    "unknown data set": (["--dataset", "mist"], ["'mist'", "digits, synthetic", "data_dir"]),
    "unknown optimizer": (["--local.optimizer", "sdg"], ["'sdg'", "sgd, adam"]),
    "option of another optimizer": (
        ["--local.optimizer", "adam"],
        ["'momentum' of adam", "local.options replaces", "b1, b2"],
    ),
    "optimizer that needs the loss": (
        ["--local.optimizer", "lbfgs", "--local.options"],
        ["lbfgs", "cannot be used", "value_fn"],
    ),
    "learning rate below 0": (["--local.learning-rate", "-1"], ["at least 0", "-1"]),
    "learning rate NaN": (["--local.learning-rate", "nan"], ["local.learning_rate", "nan"]),
    "no rounds": (["--rounds", "0"], ["rounds must be at least 1, not 0"]),
    "no clients": (["--partition.clients", "0"], ["partition.clients must be at least 1, not 0"]),
    "no epochs": (["--local.epochs", "0"], ["local.epochs must be at least 1, not 0"]),
    "no batch": (["--local.batch-size", "-2"], ["local.batch_size must be at least 1, not -2"]),
    "no examples": (["--partition.train-examples", "0"], ["train_examples", "at least 1, not 0"]),
    "a client without examples": (
        ["--partition.train-examples", "5", "0", "5"],
        ["partition.train_examples must be at least 1, not 0"],
    ),
    "no test examples": (["--partition.test-examples", "0"], ["test_examples", "at least 1"]),
    "no global test set": (["--evaluation.global-examples", "0"], ["global_examples is 0"]),
    "never evaluated": (["--evaluation.every", "0"], ["evaluation.every", "at least 1, not 0"]),
    "no cohort": (["--strategy.cohort", "0"], ["strategy.cohort must be at least 1, not 0"]),
    "cohort above the clients": (["--strategy.cohort", "4"], ["cohort must be in 1..3, not 4"]),
    "no width": (["--model.width", "0"], ["width must be at least 1, not 0"]),
    "no chunk": (["--chunk", "0"], ["chunk must be at least 1, not 0"]),
    "no rounds in a call": (["--rounds-per-call", "0"], ["rounds_per_call", "at least 1, not 0"]),
    "no devices": (["--devices", "0"], ["devices must be in 1..3", "not 0"]),
    "devices above the clients": (["--devices", "4"], ["devices must be in 1..3", "not 4"]),
    "seed below 0": (["--seed", "-1"], ["seed must be in 0..", "not -1"]),
    "alpha 0": (["--partition.alpha", "0"], ["alpha is 0.0", "> 0"]),
    "alpha below 0": (["--partition.alpha", "-0.1"], ["alpha is -0.1", "> 0"]),
    "alpha NaN": (["--partition.alpha", "nan"], ["partition.alpha", "finite", "nan"]),
    "more examples than there are": (
        ["--partition.train-examples", "300"],
        ["900", "synthetic has 800 training examples"],
    ),
    "more test examples than there are": (
        ["--partition.test-examples", "201"],
        ["201", "200 test examples"],
    ),
    "more clients than examples": (
        ["--partition.clients", "801"],
        ["partition.clients must be at most 800", "not 801"],
    ),
    "wrong number of sizes": (
        ["--partition.train-examples", "20", "20"],
        ["one number or 3, one for each client, not 2 numbers"],
    ),
    "overlap of an iid partition": (
        ["--partition.kind", "iid", "--partition.overlap", "True"],
        ["partition.overlap needs partition.kind='dirichlet', not 'iid'"],
    ),
    "option of another strategy": (
        ["--strategy.name", "moon", "--strategy.options", "lam=1"],
        ["unknown option 'lam' of moon", "allowed are mu, temperature"],
    ),
    "head epochs that leave none": (
        ["--strategy.name", "fedrep", "--strategy.options", "head_epochs=5"],
        ["head_epochs must be above 0 and below the 1 local epochs, not 5.0"],
    ),
    "forgetting more than there is": (
        ["--strategy.name", "ifa", "--strategy.options", "fraction=1.5"],
        ["fraction must be in [0, 1], not 1.5"],
    ),
    "compression of masks": (
        ["--strategy.name", "feddst", "--strategy.compression", "quantise"],
        ["compress cannot wrap feddst: it has masks of its own"],
    ),
    "weights and draws by examples": (
        [
            *("--participation.sampling", "examples", "--strategy.cohort", "2"),
            *("--strategy.options", "weighted=true"),
        ],
        ["weighted=true and participation.sampling='examples'", "by their examples twice"],
    ),
    "options without a compression": (
        ["--strategy.compression-options", "fraction=0.1"],
        ["strategy.compression_options need a compression, not none", "fraction"],
    ),
    "option of another compression": (
        ["--strategy.compression", "top_k", "--strategy.compression-options", "levels=3"],
        ["unknown option 'levels' of top_k", "allowed are fraction"],
    ),
    "votes on more than models": (
        ["--strategy.name", "scaffold", "--strategy.compression", "sign_majority"],
        ["sign_majority cannot wrap scaffold", "more than models"],
    ),
    "trim of all": (
        ["--strategy.aggregation", "trimmed_mean", "--strategy.trim", "0.5"],
        ["trim must be in [0, 0.5), not 0.5"],
    ),
    "no norm to clip to": (["--strategy.clip-norm", "0"], ["norm must be above 0, not 0.0"]),
    "dropout of all": (["--participation.dropout", "1"], ["dropout must be in [0, 1), not 1.0"]),
    "chance above 1": (
        ["--participation.mid-round-dropout", "2"],
        ["mid_round_dropout must be in [0, 1), not 2.0"],
    ),
    "no work": (["--participation.min-work", "0"], ["min_work must be in (0, 1], not 0.0"]),
    "new clients below 0": (
        ["--partition.new-clients", "-1"],
        ["partition.new_clients must be at least 0, not -1"],
    ),
    "sizes without those of new clients": (
        ["--partition.new-clients", "1", "--partition.train-examples", "9", "9", "9"],
        ["one number or 4, one for each client, not 3 numbers"],
    ),
    "tuning below 0": (
        ["--evaluation.tune-epochs", "-1"],
        ["evaluation.tune_epochs must be at least 0, not -1"],
    ),
    "more faulty clients than clients": (
        ["--faults.clients", "4"],
        ["faults.clients must be at most 3, the clients, not 4"],
    ),
    "scale of faults below 0": (
        ["--faults.clients", "1", "--faults.scale", "-1"],
        ["scale must be at least 0, not -1"],
    ),
    "local norm without a norm": (
        ["--model.norm", "none", "--strategy.norm", "local"],
        ["strategy.norm='local'", "'none'"],
    ),
    "more rounds than there can be": (
        ["--rounds", "1000000000000"],
        ["rounds must be at most 100000, not 1000000000000"],
    ),
    "more memory than there is": (
        ["--model.name", "mlp", "--model.width", "65536", "--model.depth", "9"],
        ["need at least", "GiB", "a smaller model"],
    ),
    "a model beyond all bounds": (["--model.width", "1000000000"], ["width must be at most 65536"]),
    "a number of many digits": (["--seed", "9" * 31], ["seed", "32 bits", "9" * 31]),
    "a depth without end": (
        ["--model.name", "mlp", "--model.depth", "1000000000"],
        ["at most 1000"],
    ),
    "fine-tuning without end": (
        ["--evaluation.tune-epochs", "1000000000"],
        ["tune_epochs must be at most 100000"],
    ),
}

LIPS = {
    "masks around one layer a round": (
        ["--strategy.name", "fedpart"],
        ["transient_sparsity cannot wrap fedpart: it trains one layer a round"],
    ),
    "masks around masks": (
        ["--strategy.name", "dsd"],
        ["transient_sparsity cannot wrap dsd: one of its kind is enough"],
    ),
    "last gradients where some do not arrive": (
        ["--participation.stragglers", "0.1"],
        ["gradient='last_local' needs every client to end every round", "gradient='stored'"],
    ),
    "density 0": (["--sparsity.density", "0"], ["density must be in (0, 1], not 0.0"]),
    "density 1.5": (["--sparsity.density", "1.5"], ["density must be in (0, 1], not 1.5"]),
    "density below 0": (["--sparsity.density", "-0.5"], ["density must be in (0, 1], not -0.5"]),
    "density NaN": (["--sparsity.density", "nan"], ["sparsity.density", "finite", "nan"]),
    "every 0": (["--sparsity.every", "0"], ["every must be at least 1, not 0"]),
    "hold below 0": (["--sparsity.hold", "-1"], ["hold must be at least 0, not -1"]),
    "hold above the steps": (["--sparsity.hold", "2"], ["hold must be at most 1", "not 2"]),
    "nothing to mask": (["--sparsity.kinds", "dense"], ["nothing to mask", "['dense']"]),
    "no kinds": (["--sparsity.kinds"], ["nothing to mask", "[]"]),
    "last_local and a cohort": (
        ["--strategy.cohort", "2"],
        ["gradient='last_local'", "2 of 3", "'stored' or 'fresh'"],
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(tmp_path, case):
    argv, parts = OPTIONS[case]
    refusal(commands.run(tmp_path, *argv), *parts)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("case", LIPS)
def test_options_of_lips(tmp_path, case):
    argv, parts = LIPS[case]
    refusal(commands.run(tmp_path, "--lips", *argv), *parts)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("said", ["false", "False", "FALSE", "True", "true"])
@pytest.mark.parametrize("joined", [False, True])
def test_true_and_false_are_read_as_toml_writes_them_too(said, joined):
    name, default = "--evaluation.clients_on_global", Config()
    argv = [f"{name}={said}"] if joined else [name, said, "--model.norm", "none"]
    config = command.parse(Config, argv, program="lipsjax run", default=default)
    assert config.evaluation.clients_on_global is (said.lower() == "true")
    assert config.model.norm == ("batch" if joined else "none")


@pytest.mark.parametrize("argv", [["--model.normalise", "yes"], ["--model.normalise=yes"]])
def test_what_is_neither_true_nor_false_is_refused(argv):
    with pytest.raises(ValueError, match=r"--model\.normalise must be true or false, not 'yes'"):
        command.parse(Config, argv, program="lipsjax run", default=Config())


def test_options_of_the_optimizer_replace_those_of_the_default():
    options = study.from_dict(LocalConfig, {"optimizer": "adam", "options": {}}).options
    assert options == {}
    build_optimizer(LocalConfig(optimizer="adam", options={"b1": 0.8, "nesterov": True}))
    override = study.override(LocalConfig(), "options.momentum", 0.5)
    assert override.options == {"momentum": 0.5}


def test_unknown_command():
    with mock.patch("sys.argv", ["lipsjax", "swep"]), pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2


# Study files.

STUDIES = {
    "unknown table": ("[confg]\n", ["unknown field confg", "did you mean config?"]),
    "unknown field": ("[config]\nround = 3\n", ["config.round", "did you mean rounds?"]),
    "nested unknown field": (
        "[config.partition]\nalhpa = 1.0\n",
        ["config.partition.alhpa", "did you mean alpha?", "kind, alpha, classes, clients"],
    ),
    "text for an integer": ("seeds = '5'\n", ["seeds must be an integer, not '5'"]),
    "true for an integer": ("seeds = true\n", ["seeds must be an integer, not True"]),
    "number for an integer": ("[config]\nrounds = 3.5\n", ["config.rounds", "an integer", "3.5"]),
    "not a number": ("[config.partition]\nalpha = nan\n", ["config.partition.alpha", "finite"]),
    "unknown choice": ("[sparsity]\nscope = 'all'\n", ["layer, global, erk, not 'all'"]),
    "field for a table": ("config = 3\n", ["config must be a table, not 3"]),
    "compared with an arm that is not there": (
        "[arms.dense]\n[arms.lips]\nagainst = 'dnse'\nsparsity = {}\n",
        ["arms.lips.against must be one of dense, lips, not 'dnse'"],
    ),
    "compared with itself": (
        "[arms.dense]\n[arms.lips]\nagainst = 'lips'\nsparsity = {}\n",
        ["arms.lips.against must be another arm, not 'lips'"],
    ),
    "no seeds": ("seeds = 0\n", ["seeds must be at least 1, not 0"]),
    "no arms": ("[arms]\n", ["at least one arm"]),
    "arm that is no table": ("[arms]\nlips = 3\n", ["arms.lips must be a table, not 3"]),
    "unknown field of an arm": (
        "[arms.a.sparsity]\ndensty = 0.5\n",
        ["arms.a.sparsity.densty", "did you mean density?"],
    ),
    "sparsity of an arm that is no table": ("[arms.a]\nsparsity = 0.5\n", ["a table, not 0.5"]),
    "sparsity of all arms": ("[config.sparsity]\ndensity = 0.5\n", ["write [sparsity]"]),
    "grid that is no list": ("[grid]\nrounds = 3\n", ["grid.rounds must be a list", "not 3"]),
    "empty grid": ("[grid]\nrounds = []\n", ["grid.rounds must be a list", "not []"]),
    "grid of an unknown field": (
        "[grid]\n'partition.alhpa' = [1.0]\n",
        ["grid.partition.alhpa", "did you mean alpha?"],
    ),
    "grid of a field of a field": ("[grid]\n'rounds.x' = [1]\n", ["grid.rounds.x", "no fields"]),
    "grid of wrong values": ("[grid]\nrounds = [3, 'x']\n", ["grid.rounds", "an integer", "'x'"]),
    "grid of sparsity without an arm": (
        "[arms.dense]\n[grid]\n'sparsity.every' = [1]\n",
        ["grid.sparsity.every needs an arm"],
    ),
    "option of the optimizer": (
        "[config.local.options]\nmomentum = 'x'\n",
        ["config.local.options.momentum", "a finite number or true or false", "'x'"],
    ),
    "malformed": ("seeds = \n", ["not valid TOML", "line 1"]),
    "nested too deeply": ("seeds = " + "[" * 10000 + "\n", ["not valid TOML"]),
    "one of its cells": (
        "[config]\ndataset = 'synthetic'\n[grid]\n'local.learning_rate' = [0.1, -1]\n",
        ["learning_rate must be at least 0, not -1.0"],
    ),
    "one of its arms": (
        "[config]\ndataset = 'synthetic'\n[arms.dense]\n[arms.lips.sparsity]\ndensity = 2\n",
        ["density must be in (0, 1], not 2.0"],
    ),
}


@pytest.mark.parametrize("case", STUDIES)
def test_studies(tmp_path, case):
    text, parts = STUDIES[case]
    path, out = tmp_path / "study.toml", tmp_path / "out"
    path.write_text(text)
    tiny = ("--partition.clients", "2", "--model.width", "2")
    refusal(commands.call("sweep", str(path), "--out", str(out), *tiny), *parts)
    assert not out.exists()


def test_study_file_that_is_missing(tmp_path):
    refusal(commands.call("sweep", str(tmp_path / "a.toml")), "a.toml", "no such file", "TOML")


def test_study_file_that_is_a_folder(tmp_path):
    refusal(commands.call("sweep", str(tmp_path)), str(tmp_path), "not a file", "TOML")


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", b"\xff\xfes\x00e\x00"])
def test_study_file_that_is_binary(tmp_path, content):
    (tmp_path / "a.toml").write_bytes(content)
    refusal(commands.call("sweep", str(tmp_path / "a.toml")), "a.toml", "not a text file", "TOML")


def test_study_file_that_may_not_be_read(tmp_path):
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with mock.patch.object(Path, "read_bytes", side_effect=denied):
        ended = commands.call("sweep", str(tmp_path / "a.toml"))
    refusal(ended, "a.toml", "permission denied")


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (
            ["--arms", "dense", "lisp"],
            ["--arms: unknown arm 'lisp'", "did you mean lips?", "there are dense, local, pooled"],
        ),
        (["--arms", "dense", "lips", "dense"], ["--arms names dense twice"]),
        (["--arms", "lips,dense"], ["unknown arm 'lips,dense'", "there are dense"]),
        (["--arms", "LIPS"], ["unknown arm 'LIPS'"]),
        (["--arms", "dense", "tuned", "--local.schedule", "linear"], ["the arm tuned"]),
        (["--arms"], ["at least one arm"]),
        (["--grid", "partition.alpha"], ["'partition.alpha=[0.1, 1.0]'"]),
        (["--grid", "partition.alpha=0.1"], ["must be a list of values, not 0.1"]),
        (["--rounds", "3", "study.toml"], ["unknown argument 'study.toml'"]),
    ],
)
def test_options_of_the_sweep(argv, parts):
    refusal(commands.call("sweep", *argv), *parts)


# Data.


def prepared(data_dir, **info):
    """Writes a TFDS directory with nothing but its description."""
    folder = data_dir / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"name": "mnist", **info}))


def no_network(*_, **__):
    raise AssertionError("it reached for the network")


@pytest.mark.parametrize(
    ("info", "parts"),
    [
        (None, ["no 'mnist'", "prepare it on a machine with a network"]),
        ({"fileFormat": "tfrecord"}, ["mnist", "features.json", "no such file"]),
        ({"fileFormat": "array_record", "splits": 3}, ["mnist", "splits is 3", "a list"]),
    ],
    ids=["not there", "not whole", "corrupt"],
)
def test_data_directory(tmp_path, monkeypatch, info, parts):
    data_dir, out = tmp_path / "data", tmp_path / "out"
    data_dir.mkdir()
    if info is not None:
        prepared(data_dir, **info)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    begin = time.monotonic()
    ended = commands.run(out, "--dataset", "mnist", "--data-dir", str(data_dir))
    refusal(ended, *parts)
    assert time.monotonic() - begin < 30  # an import of TFDS, and no retries
    assert not out.exists()


def test_data_directory_that_is_no_folder(tmp_path):
    missing = str(tmp_path / "missing")
    ended = commands.run(tmp_path / "out", "--dataset", "mnist", "--data-dir", missing)
    refusal(ended, missing, "is not a folder")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda x: x._replace(labels=x.labels.astype(float)), "labels of type float64"),
        (lambda x: x._replace(labels=x.labels + 1), "label 4 of example"),
        (lambda x: x._replace(inputs=x.inputs * np.float32("nan")), "image 0 holds NaN"),
    ],
    ids=["labels as floats", "labels out of range", "NaN images"],
)
def test_data_of_ones_own(change, part):
    dataset = datasets.synthetic()
    with pytest.raises(ValueError, match=part) as error:
        datasets.validate(dataset._replace(train=change(dataset.train)))
    assert "\n" not in str(error.value)


# Run directories.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run that was left alone."""
    out = tmp_path_factory.mktemp("whole")
    assert commands.run(out).status == 0
    return out


@pytest.fixture
def copied(whole, tmp_path):
    """The same, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


def unfinished(out):
    """Takes from a finished run what its end wrote."""
    folder = commands.run_dir(out)
    for name in ("summary.json", "metrics.csv"):
        (folder / name).unlink()
    return folder


@pytest.mark.slow
@pytest.mark.whole
@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"behaviour": recording.BEHAVIOUR, "config": {"rounds": 7}}, "another config"),
        ([], "damaged"),
    ],
)
def test_run_directory_of_another_config(copied, content, part):
    recording.write_json(commands.run_dir(copied) / "config.json", content)
    before = commands.files(copied)
    refusal(commands.run(copied), str(commands.run_dir(copied)), part)
    assert commands.files(copied) == before


@pytest.mark.whole
@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("config.json", "{", "cannot be read"),
        ("plan.json", "", "cannot be read"),
        ("plan.json", "{}", "it lacks 'platform'"),
        ("plan.json", "[]", "damaged"),
    ],
)
def test_run_directory_that_is_damaged(copied, name, content, part):
    path = unfinished(copied) / name
    path.write_text(content)
    refusal(commands.run(copied), str(path), part)


@pytest.mark.whole
def test_run_directory_in_use(copied):
    folder = unfinished(copied)
    before = commands.files(copied)
    with recording.lock(folder):
        refusal(commands.run(copied), str(folder), "being written by another process")
    assert commands.files(copied) == before
    assert commands.run(copied).status == 0


def test_run_directory_made_by_another_process_meanwhile(tmp_path):
    science = {"config": {}, "data_fingerprint": ""}
    recording.create(tmp_path / "run", **science, plan={"first": 1}, setup={})
    with pytest.raises(recording.RecordingError, match="another process"):
        recording.create(tmp_path / "run", **science, plan={"second": 1}, setup={})
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert "first" in (tmp_path / "run" / "plan.json").read_text()


def test_out_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("mine")
    refusal(commands.run(tmp_path / "out"), str(tmp_path / "out"), "not a directory")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_read_only_out(tmp_path, monkeypatch, name):
    make = os.mkdir

    def read_only(path, *arguments, **options):
        if Path(path).is_relative_to(tmp_path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        make(path, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", read_only)
    out = tmp_path / "out"
    refusal(commands.call(name, *commands.TINY, "--out", str(out)), str(out), "read-only")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_out_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    refusal(commands.run(tmp_path / "out"), str(tmp_path / "out"), "permission denied")


@pytest.mark.whole
@pytest.mark.parametrize(
    ("write", "name"),
    [
        (1, "config.json"),
        (3, "setup.json"),
        (4, "metrics.jsonl"),
        (5, "timings.jsonl"),
        (9, "checkpoints/4"),
        (13, "metrics.csv"),
        (14, "summary.json"),
    ],
)
def test_full_disk(whole, tmp_path, monkeypatch, write, name):
    """The disk is full at one of the writes; with room again, the run goes on to the same bits."""
    sync, done = os.fsync, []

    def full(file):
        done.append(file)
        if len(done) == write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refusal(commands.run(tmp_path), name, "no space left on device")
    assert not list(tmp_path.rglob("*.tmp"))
    assert write > 3 or nothing_left(tmp_path)
    assert commands.run(tmp_path).status == 0
    assert commands.files(tmp_path) == commands.files(whole)


@pytest.mark.whole
@pytest.mark.slow
def test_full_disk_in_a_process_of_its_own(tmp_path):
    """The system itself refuses to write more than a block, of 512 or 1024 bytes, to a file."""
    argv = ["-m", "lipsjax.experiments.run", *commands.TINY, "--out", str(tmp_path)]
    ended = subprocess.run(
        ["sh", "-c", 'ulimit -f 1 && exec "$@"', "sh", sys.executable, *argv],
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},  # its files are larger
        capture_output=True,
        text=True,
        timeout=120,
    )
    refusal(
        commands.Ended(ended.returncode, ended.stdout, ended.stderr),
        ".json: file too large",
    )
    assert nothing_left(tmp_path)


@pytest.mark.whole
def test_process_of_its_own_refuses_before_it_imports_jax(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "lipsjax.experiments.sweep", "--rouns", "3"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    *imports, line = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert line.startswith("error: unknown option '--rouns'; did you mean --rounds")
    assert not [text for text in imports if text.endswith("| jax")]
    assert not list(tmp_path.iterdir())


# Loss that is not finite.


@pytest.mark.whole
@pytest.mark.slow
def test_loss_that_is_not_finite(tmp_path):
    ended = commands.run(tmp_path, "--local.learning-rate", "1e30")
    refusal(ended, "not finite in round 0", "clients 0, 1, 2", "learning_rate")
    assert not (commands.run_dir(tmp_path) / "metrics.jsonl").exists()


@pytest.mark.whole
@pytest.mark.slow
def test_sweep_with_an_arm_that_diverges(tmp_path):
    path, out = tmp_path / "study.toml", tmp_path / "out"
    path.write_text("seeds = 1\n[arms.dense]\n[arms.wild.local]\nlearning_rate = 1e30\n")
    ended = commands.call("sweep", str(path), *commands.TINY, "--out", str(out))
    refusal(ended, "1 of 2 runs diverged", "wild, seed 0", "round 0, clients 0, 1, 2")
    assert (out / "report.html").exists()
    assert "diverged in 1 of 1 seed" in " ".join(ended.out.split())
    again = commands.call("sweep", str(path), *commands.TINY, "--out", str(out))
    refusal(again, "1 of 2 runs diverged", "round 0, clients 0, 1, 2", "delete", "to try again")


# Recordings that are reported on.


def test_report_of_a_folder_without_a_study(tmp_path):
    refusal(commands.call("report", str(tmp_path)), str(tmp_path), "no study", "study.json")
    refusal(commands.call("report", str(tmp_path / "missing")), "missing", "no study")


STUDY, FIRST = "study.json", "runs/made-up-00-00-00/"


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        (STUDY, b"{", "cannot be read"),
        (STUDY, b"\x00\xff", "cannot be read"),
        (STUDY, b"{}", "it lacks 'trials'"),
        (STUDY, b"[1]", "damaged"),
        (STUDY, b'{"trials": [{}]}', "it lacks 'arm'"),
        (FIRST + "plan.json", b"", "cannot be read"),
        (FIRST + "plan.json", b"{}", "it lacks 'platform'"),
        (FIRST + "config.json", b"{}", "it lacks 'config'"),
        (FIRST + "setup.json", b"[]", "damaged"),
        (FIRST + "metrics.jsonl", b"", "it holds 0 rounds, and not all of 3"),
        (FIRST + "metrics.jsonl", b'{"round": 0}\n', "it holds 1 rounds"),
        (FIRST + "metrics.jsonl", b'{"round": 0', "cannot be read"),
        (FIRST + "metrics.jsonl", b"3\n4\n", "damaged"),
        (FIRST + "timings.jsonl", b"{}\n", "it lacks 'rounds'"),
    ],
)
def test_report_of_a_damaged_recording(tmp_path, name, content, part):
    write_study(tmp_path, seeds=2, rounds=3)
    (tmp_path / name).write_bytes(content)
    refusal(commands.call("report", str(tmp_path)), str(tmp_path / name), part)
    assert not (tmp_path / "report.html").exists()
