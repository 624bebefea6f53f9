"""The command of stages: on made-up recordings for what it decides, and once on real runs."""

import re
import shlex
import shutil
from pathlib import Path
from unittest import mock

import pytest

from helpers import commands, killing
from helpers.commands import StoppedError, call_as_given, nothing_left, refusal
from helpers.fake_study import write_study
from lipsjax.experiments import poc, sweep

STAGES = """
name = "Made-up stages"
[study]
seeds = 4
[study.config]
rounds = 20
[study.config.partition]
clients = 4
[study.arms]
dense = {}
lips = { sparsity = {} }
[stages.small]
title = "A small model"
gates = [
  { gate = "gain", arm = "lips", at_least = BOUND },
  { gate = "bits", arm = "lips", at_most = 1e9 },
]
[stages.pilot]
title = "The setting of the pilot"
prices.per_gb = 2.0
gates = [{ gate = "money", arm = "lips", at_most = 1 }]
"""


class Bench:
    """Stages in a folder, whose studies are made up: a gain of so many points in every seed."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.ran, self.stop = folder, [], None
        self.gain, self.noise = 0.05, 0.002
        monkeypatch.chdir(folder)
        monkeypatch.setattr(poc, "start", lambda stages: None)
        monkeypatch.setattr(sweep, "carry_out", self._carry_out)

    def _carry_out(self, study, line):
        out = Path(study.execution.out)
        self.ran.append((out.name, study.seeds))
        if (out.name, study.seeds) == self.stop:
            raise StoppedError
        shutil.rmtree(out / "runs", ignore_errors=True)
        options = {"rounds": 20, "clients": 4, "classes": 3, "prices": {"per_gb": 2.0}}
        write_study(out, seeds=study.seeds, gain=self.gain, noise=self.noise, **options)
        (out / "report.html").write_text("")

    def call(self, *options, bound=0, text=STAGES):
        (self.folder / "STAGES.toml").write_text(text.replace("BOUND", str(bound)))
        return call_as_given("poc", "STAGES.toml", *options)

    @property
    def page(self):
        """What the page says, its spaces evened out."""
        text = (self.folder / "results/poc/poc.html").read_text()
        return re.sub(r"\s+", " ", re.sub(r"<style>.*</style>", "", text, flags=re.DOTALL))


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def told(ended):
    return " ".join(ended.out.split())


def test_a_stage_begins_after_the_go_of_the_one_before(bench):
    ended = bench.call()
    assert ended.status == 0, ended
    assert bench.ran == [("01-small", 4), ("02-pilot", 4)]
    assert "go: Every stage passed all of its gates." in told(ended)
    assert "page: results/poc/poc.html" in ended.out
    assert "<b>Go</b>" in bench.page
    assert 'href="01-small/report.html"' in bench.page
    assert "nan" not in bench.page


def test_what_is_decided_is_not_run_again_and_gives_the_same_page(bench):
    bench.call()
    page = (bench.folder / "results/poc/poc.html").read_bytes()
    bench.ran.clear()
    assert bench.call().status == 0
    assert bench.ran == []
    assert (bench.folder / "results/poc/poc.html").read_bytes() == page


def test_a_no_go_ends_it_and_is_an_answer(bench):
    ended = bench.call(bound=30)
    assert ended.status == 0
    assert bench.ran == [("01-small", 4)]
    assert "no-go: Stage 1 (small) failed: gain of lips over dense, personalised: +" in told(ended)
    assert "where at least +30 points was asked. Not begun: pilot." in told(ended)
    assert not (bench.folder / "results/poc/02-pilot").exists()
    assert "<b>No-go</b>" in bench.page


@pytest.mark.parametrize(
    ("bound", "noise", "status"), [(0, 0.002, 0), (30, 0.002, 3), (3, 0.05, 4)]
)
def test_statuses_for_scripts(bench, bound, noise, status):
    bench.noise = noise
    assert bench.call("--exit-code", bound=bound).status == status
    assert bench.call(bound=bound).status == 0


def test_the_command_of_an_open_stage_settles_it(bench):
    bench.noise = 0.05
    ended = bench.call(bound=3)
    assert re.search(
        r"open: Stage 1 \(small\) needs \d+ more seeds, some .* about even odds", told(ended)
    )
    (line,) = re.findall(r"^lipsjax (poc .*--seeds small=\d+)$", ended.out, flags=re.MULTILINE)
    assert shlex.split(line)[:2] == ["poc", "STAGES.toml"]
    assert line in bench.page
    assert bench.ran == [("01-small", 4)]
    bench.noise = 0.002  # as luck has it
    ended = call_as_given(*shlex.split(line))
    seeds = int(line.rpartition("=")[2])
    assert bench.ran[1:] == [("01-small", seeds), ("02-pilot", 4)]
    assert f"4 seeds, raised to {seeds}: 2 looks" in bench.page
    assert "Here seeds were raised after the numbers had been seen." in bench.page
    assert f"{seeds} seeds, 2 looks" in told(ended)


def test_an_open_stage_without_more_seeds_is_not_run_again(bench):
    bench.noise = 0.05
    bench.call(bound=3)
    assert "needs" in told(bench.call(bound=3))
    assert bench.ran == [("01-small", 4)]


def test_two_seeds_ask_for_a_third(bench):
    ended = bench.call(text=STAGES.replace("seeds = 4", "seeds = 2"))
    assert "needs 1 more seed, some" in told(ended)
    assert "the fewest from which anything is decided" in told(ended)
    assert "--seeds small=3" in ended.out


@pytest.mark.parametrize(
    ("stop", "options"),
    [(("01-small", 4), ()), (("02-pilot", 4), ()), (("01-small", 9), ("--seeds", "small=9"))],
)
def test_killed_anywhere_the_same_command_goes_on(bench, stop, options):
    bench.noise = 0.05
    bound = 3 if options else -30
    if options:
        bench.call(bound=bound)
    bench.stop = stop
    with pytest.raises(StoppedError):
        bench.call(*options, bound=bound)
    bench.stop = None
    bench.ran.clear()
    assert bench.call(bound=bound).status == 0  # seeds once asked for need not be said again
    assert bench.ran[0] == stop
    looks = "4 seeds, raised to 9: 2 looks" if options else "4 seeds, one look"
    assert looks in bench.page


def test_a_stage_killed_in_its_runs_is_not_judged(bench):
    bench.call()
    study = bench.folder / "results/poc/01-small"
    (study / "runs/made-up-00-01-02/summary.json").unlink()
    bench.ran.clear()
    bench.stop = ("01-small", 4)
    with pytest.raises(StoppedError):
        bench.call()
    assert bench.ran == [("01-small", 4)]


def test_a_change_of_what_has_begun_is_refused_and_changes_nothing(bench):
    bench.call(bound=30)
    before = commands.files(bench.folder / "results")
    ended = bench.call(bound=0)  # the bound follows the result
    refusal(
        ended, "the stage small has begun, and has changed since: gates", "choose another --out"
    )
    assert commands.files(bench.folder / "results") == before


def test_a_decided_stage_takes_no_more_seeds(bench):
    bench.call(bound=30)
    refusal(bench.call("--seeds", "small=9", bound=30), "decided with 4 seeds, no-go")


def test_a_stage_may_be_added_later(bench):
    bench.call(text=STAGES.partition("[stages.pilot]")[0])
    ended = bench.call()
    assert ended.status == 0, ended
    assert bench.ran == [("01-small", 4), ("02-pilot", 4)]


BAD = {
    "no file": (["no.toml"], ["no.toml: no such file or directory; stages are a TOML file"]),
    "a folder": (["."], ["not a file; stages are a TOML file"]),
    "an unknown option": (["STAGES.toml", "--seed", "3"], ["unknown option '--seed'", "--seeds"]),
    "two files": (["STAGES.toml", "more.toml"], ["unknown argument 'more.toml'"]),
    "seeds of no stage": (["STAGES.toml", "--seeds", "large=9"], ["unknown stage 'large'"]),
    "seeds without a number": (["STAGES.toml", "--seeds", "small"], ["like small=12, not 'small'"]),
    "fewer seeds": (["STAGES.toml", "--seeds", "small=3"], ["has 4, and seeds can only be raised"]),
    "seeds without end": (["STAGES.toml", "--seeds", "small=900000"], ["at most 100000 runs"]),
    "a status that is none": (["STAGES.toml", "--exit-code", "5"], ["'5'"]),
}


@pytest.mark.parametrize(("argv", "parts"), BAD.values(), ids=BAD)
def test_bad_options_are_one_line_and_write_nothing(bench, argv, parts):
    (bench.folder / "STAGES.toml").write_text(STAGES.replace("BOUND", "0"))
    refusal(call_as_given("poc", *argv), *parts)
    assert bench.ran == []
    assert not (bench.folder / "results").exists()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("seeds = 4", "execution.devices = 5\nseeds = 4"), ["devices must be in 1..4", "not 5"]),
        (("prices.per", "execution.devices = 2\nprices.per"), ["stages.pilot.execution.devices"]),
    ],
)
def test_devices_that_cannot_be(bench, change, parts):
    refusal(bench.call(text=STAGES.replace(*change)), *parts)
    assert nothing_left(bench.folder / "results")


TINY = """
name = "Tiny"
[study]
seeds = 3
arms.dense = {}
arms.local = { strategy.name = "local" }
execution = { workers = 1, devices = 1, rounds_per_call = 1 }
[study.config]
dataset = "synthetic"
rounds = 2
partition = { clients = 3, train_examples = 20, test_examples = 20, alpha = 0.3 }
model = { name = "mlp", width = 4, depth = 1 }
local = { epochs = 1 }
evaluation = { global_examples = 50 }
[stages.small]
gates = [{ gate = "bits", arm = "dense", at_most = 1e9 }]
[stages.pilot]
config.rounds = 3
gates = [{ gate = "over_alone", arm = "dense", at_least = 100 }]
"""


def test_a_later_stage_that_cannot_be_run_is_refused_before_the_first_begins(tmp_path):
    path = tmp_path / "STAGES.toml"
    path.write_text(TINY.replace("config.rounds = 3", "config.partition.train_examples = 300"))
    ended = call_as_given("poc", str(path), "--out", str(tmp_path / "out"))
    refusal(ended, "stages.pilot: ", "synthetic has 800 training examples")
    assert not (tmp_path / "out").exists()


def metrics(out):
    """What every run measured, by its stage and name."""
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.glob("*/runs/*/metrics.jsonl")
    }


@pytest.mark.slow
def test_two_real_stages_killed_and_resumed_give_the_bits_of_one_go(tmp_path):
    """The second stage fails its gate: no accuracy is 100 points above another."""
    path, cache = tmp_path / "STAGES.toml", tmp_path / "cache"
    path.write_text(TINY)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    text = killing.finish(whole, (str(path),), cache=cache, command="poc")
    assert "no-go: Stage 2 (pilot) failed: gain of dense over training alone (local)" in text
    for stage in ("01-small", "02-pilot"):
        process = killing.start(broken, (str(path),), cache=cache, command="poc")
        killing.kill_after(process, broken / stage, "checkpoints", 0.1)
    killing.finish(broken, (str(path),), cache=cache, command="poc")
    assert len(metrics(whole)) == 12
    assert metrics(broken) == metrics(whole)
    assert "one look" in (broken / "poc.html").read_text()
    # each stage is a study like any other
    with mock.patch("sys.argv", ["report"]):
        ended = commands.call_as_given("report", str(whole / "01-small"))
    assert ended.status == 0
