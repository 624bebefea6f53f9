"""Sweeps that several hosts share: who runs what, who is refused, that the table is the same."""

import dataclasses
import itertools
import time

import pytest

from helpers import fake_runs, fake_study, share_sweep
from helpers.commands import ARMS, MLP, TINY, call, refusal
from helpers.fake_runs import FAKE
from lipsjax import recording
from lipsjax.experiments import sweep as sweeps
from lipsjax.recording import files, leases
from lipsjax.runs import shared
from lipsjax.runs.attack_config import AttackConfig
from lipsjax.runs.config import Config, Execution, SparsityConfig
from lipsjax.runs.shared import SharedQueue, check_share
from lipsjax.runs.study import Study
from lipsjax.runs.trial import run_dir_of, run_trial
from lipsjax.runs.until import Until
from lipsjax.runs.workers import Task

LIPS = Config(sparsity=SparsityConfig())
CONFIGS = (Config(seed=0), Config(seed=1), LIPS)
AT = TINY.index("--devices")
SWEEP = (*TINY[:AT], *TINY[AT + 2 :], *MLP, "--seeds", "1", "--workers", "1")


class Bench:
    """A queue of three trials, what it said, and which it counted as run elsewhere."""

    def __init__(self, folder):
        self.folder, self.said, self.elsewhere = folder / "runs", [], []
        tasks = [Task(i, f"trial {i}", config) for i, config in enumerate(CONFIGS)]
        self.queue = SharedQueue(
            tasks, self.run_dir, say=self.said.append, elsewhere=self.elsewhere.append
        )
        self.queue.poll = 0.0

    def run_dir(self, task):
        return self.folder / str(task.number if isinstance(task, Task) else task)

    def other(self, number):
        """Another host holds a trial."""
        return leases.claim(self.run_dir(number))

    def take(self, mine=None):
        given = self.queue.take(mine)
        return given and given.task.number


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def ended(work, name="summary.json", content=None):
    work.mkdir(parents=True, exist_ok=True)
    recording.write_json(work / name, content or {})


def test_trials_of_others_are_left_to_them_until_they_end(bench):
    lease = bench.other(0)
    assert [bench.take(), bench.take(), bench.take()] == [2, 1, None]
    assert "waits for a trial of" in bench.said[-1]
    for number in (2, 1):
        given = bench.queue._held[number]
        ended(given.work)
        assert bench.queue.end(Task(number, "", CONFIGS[number]))
    ended(lease.work)
    assert bench.take() is None
    assert not bench.queue.is_empty()
    lease.give_back()
    assert bench.take() is None
    assert bench.queue.is_empty()
    assert [task.number for task in bench.elsewhere] == [0]
    assert sorted(path.name for path in bench.folder.iterdir()) == ["0", "1", "2"]


def test_a_host_begins_with_a_program_that_no_other_is_at(bench):
    lease = bench.other(0)
    assert bench.take() == 2
    lease.give_back()


def test_a_trial_that_another_gives_back_is_taken(bench):
    lease = bench.other(0)
    assert [bench.take(), bench.take(), bench.take()] == [2, 1, None]
    lease.give_back()
    assert bench.take() == 0
    bench.queue.close()
    assert list(bench.folder.iterdir()) == []


def test_what_diverged_elsewhere_is_told(bench):
    ended(bench.run_dir(1), "diverged.json", {"reason": "the loss is not finite"})
    assert [bench.take(), bench.take(), bench.take()] == [0, 2, None]
    assert [each.task.number for each in bench.queue.diverged] == [1]
    assert bench.queue.diverged[0].error.startswith("the loss is not finite; delete ")
    bench.queue.close()


def test_a_trial_whose_holder_died_is_taken_over(bench, monkeypatch):
    with monkeypatch.context() as there:
        there.setattr(files, "machine", lambda: "there")
        dead = bench.other(0)
    assert [bench.take(), bench.take(), bench.take()] == [2, 1, None]
    clock = itertools.count(time.monotonic(), leases.BEAT)
    monkeypatch.setattr(leases.time, "monotonic", lambda: next(clock))
    taken = [bench.take() for _ in range(40)]
    assert set(taken) == {None, 0}
    assert taken.count(0) == 1
    assert dead.is_lost()
    assert any("trial 0 is taken over from" in line for line in bench.said)
    monkeypatch.undo()
    bench.queue.close()


def test_a_trial_whose_worker_died_is_still_held(bench):
    assert bench.take() == 0
    lease = bench.queue._held[0]
    bench.queue.again(Task(0, "trial 0", CONFIGS[0]))
    assert bench.queue.take(None).leased == lease.work
    bench.queue.close()


def test_an_error_names_the_run_where_it_belongs(bench):
    assert bench.take() == 0
    work = bench.queue._held[0].work
    error = bench.queue.fail(Task(0, "", CONFIGS[0]), ValueError(f"delete {work} to run it again"))
    assert str(error) == f"delete {bench.run_dir(0)} to run it again"


@pytest.mark.slow
def test_who_lost_a_trial_stops_before_it_writes_again(tmp_path):
    """Taken over after the first call of rounds: the next call's rows go nowhere."""
    execution = Execution(out=str(tmp_path), devices=1, rounds_per_call=1)
    partition = dataclasses.replace(Config().partition, clients=2, train_examples=5)
    model = dataclasses.replace(Config().model, name="mlp", depth=1, width=2)
    config = Config(dataset="synthetic", rounds=3, partition=partition, model=model)
    run_dir, others = run_dir_of(config, execution), []

    def take_over(_):
        if not others:
            others.append(leases.take_over(run_dir, leases.look(run_dir)))

    task = Task(0, "trial 0", config)
    queue = SharedQueue([task], lambda _: run_dir, say=print, elsewhere=lambda _: None)
    leased = queue.take(None).leased
    with pytest.raises(FileNotFoundError) as failed:
        run_trial(config, execution, take_over, print, leased)
    assert queue.fail(task, failed.value) is None
    assert len(files.read_lines(others[0].work / "metrics.jsonl")) == 1
    run_trial(config, execution, print, print, others[0].work)
    others[0].give_back()
    queue.poll = 0.0
    assert queue.take(None) is None
    assert queue.is_empty()
    assert [row["round"] for row in files.read_lines(run_dir / "metrics.jsonl")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("study", "processes", "words"),
    [
        (Study(until=Until()), 1, "--share and --until decided: no host could tell when a look"),
        (Study(), 2, "these 2 processes run one together: leave --share or --coordinator out"),
        (Study(attack=AttackConfig()), 1, r"--share runs trials and attacks none: take \[attack\]"),
        (Study(execution=Execution(trackers=("mlflow",))), 1, "leave --trackers out"),
    ],
)
def test_what_cannot_be_shared(study, processes, words):
    with pytest.raises(ValueError, match=words):
        check_share(study, processes)


@pytest.mark.parametrize("command", ["search", "plan", "run"])
def test_commands_that_share_nothing(command, tmp_path):
    refusal(call(command, "--share", "--out", str(tmp_path / "out")), "--share")
    assert not (tmp_path / "out").exists()


def test_planned_looks_are_not_shared(tmp_path):
    out = tmp_path / "out"
    looks = ("--until", "decided", "--share", "--out", str(out))
    refusal(call("sweep", *SWEEP[:-4], *looks), "--share and --until decided")
    assert not out.exists()


def test_a_sweep_that_shares_nothing_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "MOMENT", 0.1)
    with recording.lock(tmp_path):
        ended = call("sweep", *SWEEP, "--share", "--out", str(tmp_path))
    refusal(ended, str(tmp_path), "does not share its trials", "both with --share")
    assert [path.name for path in tmp_path.iterdir()] in ([".lock"], [])


def test_another_study_is_not_run_beside_one_that_is_shared(tmp_path):
    out = fake_study.write_study(tmp_path / "out", seeds=1)
    pages = sorted(out.iterdir())
    held = leases.claim(out / "runs" / recording.planned(out).runs[0])
    ended = call("sweep", *SWEEP, "--share", "--out", str(out))
    refusal(ended, str(out), "another study, python -m lipsjax.experiments.sweep", "another --out")
    assert sorted(path for path in out.iterdir() if path.name != ".lock") == pages
    held.give_back()


@pytest.mark.whole
def test_hosts_find_what_another_has_run(tmp_path):
    """The first runs all, the second nothing; one that does not share is refused while one does."""
    argv = (*FAKE, *ARMS, "--seeds", "2", "--out", str(tmp_path))
    with fake_runs.fake_runs(lambda config: 0.5 + config.seed / 100) as done:
        assert call("sweep", *argv, "--share").status == 0
        assert len(done) == 4
        pages = {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")}
        again = call("sweep", *argv, "--share")
        assert "4 of 4 runs found finished" in again.out
        assert len(done) == 4
        held = leases.claim(tmp_path / "runs" / recording.planned(tmp_path).runs[0])
        refusal(call("sweep", *argv), "is shared, and held by", "lipsjax sweep --share goes on")
        held.give_back()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")} == pages
    assert list((tmp_path / "runs").glob(".*")) == []


@pytest.mark.slow
def test_one_host_shares_and_goes_on_where_another_left(tmp_path):
    """A host that died is waited for by who shares, and refused to who does not."""
    first = call("sweep", *SWEEP, "--share", "--out", str(tmp_path))
    assert first.status == 0, first.err
    assert "trials are shared with all that run this command" in first.out
    assert list((tmp_path / "runs").glob(".*")) == []
    one = sorted((tmp_path / "runs").iterdir())[0]
    before = (one / "metrics.jsonl").read_bytes()
    (one / "summary.json").unlink()
    lease = leases.claim(one)
    lease.bring()
    refusal(call("sweep", *SWEEP, "--out", str(tmp_path)), "is shared, and held by", "--share")
    lease.give_back()
    assert call("sweep", *SWEEP, "--share", "--out", str(tmp_path)).status == 0
    assert (one / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_sweep_of_two_hosts_one_of_which_is_lost(tmp_path):
    """Killed for good in one sweep, and paused for longer than others wait in the next."""
    assert share_sweep.compare(tmp_path) == []


def test_how_long_hosts_wait():
    """A holder is taken for dead after many beats, and looked at more often than it beats."""
    assert shared.POLL < leases.BEAT < leases.GONE / 10
