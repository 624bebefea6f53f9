"""``lipsjax attack``: a recorded run goes back to a round to the bit, and what it refuses."""

import json
import shutil

import jax
import numpy as np
import pytest

from helpers import commands
from helpers.commands import call, refusal
from lipsjax import recording
from lipsjax.recording.attacks import read_attacks
from lipsjax.recording.checkpoints import Checkpoints
from lipsjax.runs.attack import check, units_of
from lipsjax.runs.attack_config import AttackConfig
from lipsjax.runs.config import Execution
from lipsjax.runs.replay import open_run, replay

SMALL = (
    *("--partition.clients", "5", "--partition.train-examples", "3", "--rounds", "5"),
    *("--local.batch-size", "3", "--model.norm", "none", "--partition.test-examples", "4"),
)
ATTACK = ("--attacks", "label", "cosine", "--steps", "2", "--rounds", "1")


def make_run(out, *argv):
    ended = commands.run(out, *commands.MLP[:4], *SMALL, *argv)
    assert ended.status == 0, ended
    return commands.run_dir(out)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("attacked"))


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / run.name)


def states(run_dir, rounds):
    found = replay(open_run(run_dir, Execution()), rounds, lambda line: None)
    return [jax.tree.map(np.copy, host) for host in found]


def test_rounds_are_replayed_to_the_bit(run, tmp_path):
    """Whether from the start, a checkpoint that was kept, or in calls of another length."""
    kept = make_run(tmp_path, "--keep-checkpoints", "1", "3")
    assert [int(p.name.partition("-")[0]) for p in sorted(kept.glob("checkpoints/*.npz"))] == [
        *(1, 3, 5),
    ]
    wanted = [*(row for row in (run / "metrics.jsonl").read_text().splitlines())]
    assert wanted == (kept / "metrics.jsonl").read_text().splitlines()
    for one, other in zip(states(run, [0, 1, 3, 4]), states(kept, [4, 3, 1, 0]), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    last = Checkpoints(kept).restore(states(kept, [0])[0], print, at_most=3)
    assert last is not None
    jax.tree.map(np.testing.assert_array_equal, last[1], states(run, [3])[0])


@pytest.mark.slow
def test_a_round_within_a_call_is_reached_to_rounding(tmp_path):
    """A program of one round may round otherwise than the loop that was recorded."""
    whole = make_run(tmp_path / "whole", "--rounds-per-call", "5")
    parts = make_run(tmp_path / "parts", "--rounds-per-call", "1")
    said = []
    found = replay(open_run(whole, Execution()), [1, 3], said.append)
    for one, other in zip(found, states(parts, [1, 3]), strict=True):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert all("run again" in line or "to rounding" in line for line in said)


def test_what_is_recorded_says_who_attacks_and_what_is_found(copy):
    ended = call("attack", str(copy), *ATTACK)
    assert ended.status == 0, ended
    found = read_attacks(copy)
    assert [(a.about["attack"], a.about["attacker"]) for a in found] == [
        *(("cosine", "aware"), ("cosine", "unaware"), ("label", "aware"), ("label", "unaware")),
    ]
    for attack in found:
        assert [row["client"] for row in attack.rows] == [0, 1, 2, 3, 4]
        assert "sees each client's message of one round" in attack.about["threat"]
    cosine, _, label, _ = found
    assert all(len(row["mse"]) == 3 and row["objective"] < np.inf for row in cosine.rows)
    assert all(0 <= row["accuracy"] <= 1 for row in label.rows)
    assert "labels right" in ended.out
    before = {p.name: p.read_bytes() for p in (copy / "attacks").iterdir()}
    again = call("attack", str(copy), *ATTACK)
    assert "all attacks are recorded" in again.out
    assert before == {p.name: p.read_bytes() for p in (copy / "attacks").iterdir()}


def test_an_attack_goes_on_with_the_victims_that_are_left(copy):
    command = ("attack", str(copy), *ATTACK, "--attackers", "aware", "--chunk", "2")
    assert call(*command).status == 0
    wanted = {a.name: a.rows for a in read_attacks(copy)}
    for path in (copy / "attacks").glob("*.jsonl"):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:2]) + lines[2][:9])  # as of a process that was killed
    assert call(*command).status == 0
    for attack in read_attacks(copy):
        for row, then in zip(attack.rows, wanted[attack.name], strict=True):
            assert {**row, "seconds": 0} == {**then, "seconds": 0}


def test_no_time_begins_nothing(copy):
    ended = call("attack", str(copy), *ATTACK, "--minutes", "1e-9")
    assert ended.status == 0
    assert "the same command goes on" in ended.out
    assert not any(a.rows for a in read_attacks(copy))


def damage_metrics(run_dir):
    path = run_dir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["loss_train"] += 1e-6
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def age(run_dir):
    path = run_dir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"behaviour": 1}))


def move_away(run_dir):
    path = run_dir / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"devices": 64}))


def of_two_processes(run_dir):
    path = run_dir / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processes": 2}))


def without_metrics(run_dir):
    (run_dir / "metrics.jsonl").unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage_metrics, "cannot be replayed to the same bits: loss_train differs"),
        (age, "behaviour 1"),
        (move_away, "64 x cpu"),
        (of_two_processes, "2 processes; allowed is 1"),
        (without_metrics, "metrics.jsonl cannot be read"),
    ],
)
def test_a_run_that_cannot_be_replayed_is_refused(copy, change, words):
    change(copy)
    line = refusal(call("attack", str(copy), *ATTACK))
    assert words in line
    assert not (copy / "attacks").exists() or not any(a.rows for a in read_attacks(copy))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--rounds", "5"), "attack.rounds must be in 0..4, not 5"),
        (("--rounds", "-1"), "attack.rounds must be in 0..4, not -1"),
        (("--rounds", "1", "1"), "attack.rounds names one twice: 1, 1"),
        (("--rounds", "soon"), "--rounds"),
        (("--clients", "5"), "attack.clients must be in 0..4, not 5"),
        (("--clients", "-1"), "attack.clients must be in 0..4, not -1"),
        (("--clients", "2", "2"), "attack.clients names one twice"),
        (("--attacks", "magic"), "--attacks"),
        (("--attackers", "nobody"), "--attackers"),
        (("--attacks", "bitmaps"), "bitmaps needs masks of each client's own"),
        (("--steps", "0"), "attack.steps must be at least 1, not 0"),
        (("--restarts", "0"), "attack.restarts must be at least 1, not 0"),
        (("--seed", "-1"), "attack.seed must be at least 0, not -1"),
        (("--total-variation", "nan"), "attack.total_variation must be a number of at least 0"),
        (("--total-variation", "-1"), "attack.total_variation must be a number of at least 0"),
        (("--chunk", "0"), "--chunk must be at least 1, not 0"),
        (("--minutes", "0"), "--minutes must be above 0, not 0"),
        (("--minutes", "nan"), "--minutes must be above 0, not nan"),
    ],
)
def test_bad_options_are_refused(run, argv, words):
    line = refusal(call("attack", str(run), *argv))
    assert words in line
    assert not (run / "attacks").exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    assert "plan.json cannot be read" in refusal(call("attack", str(tmp_path)))


@pytest.mark.parametrize(
    ("argv", "attack", "words"),
    [
        (("--strategy.name", "local"), "cosine", "local sends nothing"),
        (("--model.norm", "batch"), "linear", "first layer is dense, has a bias"),
        (
            ("--local.optimizer", "adam", "--local.options", "none"),
            "label",
            "how far local steps go",
        ),
        (("--strategy.cohort", "3"), "membership", "at least 4 in a round, not 3"),
    ],
)
def test_attacks_that_a_run_does_not_allow_are_refused(tmp_path, argv, attack, words):
    run_dir = make_run(tmp_path, "--rounds", "2", *argv)
    assert words in refusal(call("attack", str(run_dir), "--attacks", attack))


def test_a_client_that_was_not_drawn_is_refused(tmp_path):
    run_dir = make_run(tmp_path, "--rounds", "2", "--strategy.cohort", "4")
    drawn = open_run(run_dir, Execution()).prepared.simulation.cohort(jax.random.key(0), 1)
    (absent,) = set(range(5)) - set(drawn.tolist())
    line = refusal(call("attack", str(run_dir), *ATTACK, "--clients", str(absent)))
    assert f"client {absent} takes no part in round 1; allowed are" in line


def test_inputs_without_a_range_are_refused(run):
    prepared = open_run(run, Execution()).prepared
    nothing = np.zeros_like(prepared.data.train.inputs)
    data = prepared.data._replace(train=prepared.data.train._replace(inputs=nothing))
    with pytest.raises(ValueError, match="every value of every input is 0: there is nothing to"):
        check(AttackConfig(attacks=("cosine",), rounds=(1,)), prepared._replace(data=data))


def test_a_message_that_nobody_sees_is_not_attacked(tmp_path):
    run_dir = make_run(tmp_path, "--rounds", "2", "--secure.bits", "16")
    line = refusal(call("attack", str(run_dir), *ATTACK))
    assert "secure aggregation hides each client's message" in line


def test_settings_decide_the_name_of_what_is_found():
    """Another search is another attack; what labels do not read changes nothing of theirs."""

    def names(attack, **options):
        return {unit.name for unit in units_of(AttackConfig(attacks=(attack,), **options))}

    assert names("cosine", steps=3).isdisjoint(names("cosine"))
    assert names("cosine", rounds=(1,)).isdisjoint(names("cosine"))
    assert names("label", steps=3) == names("label")
    assert names("label", seed=1).isdisjoint(names("label"))


STUDY = """
name = "attacked"
seeds = 1
arms = ["dense", "local", "lips"]
[config]
dataset = "synthetic"
rounds = 3
[config.partition]
clients = 4
train_examples = 3
test_examples = 4
[config.model]
name = "mlp"
width = 2
depth = 1
norm = "none"
[config.local]
epochs = 1
batch_size = 3
[attack]
rounds = [{round}]
attacks = ["label", "membership", "bitmaps"]
"""


@pytest.mark.slow
@pytest.mark.whole
def test_a_study_attacks_every_arm_that_sends_anything(tmp_path):
    file, out = tmp_path / "study.toml", tmp_path / "out"
    file.write_text(STUDY.format(round=1))
    ended = call("sweep", str(file), "--out", str(out), "--workers", "1", "--devices", "1")
    assert ended.status == 0, ended
    found = {
        trial.arm: {attack.about["attack"] for attack in trial.attacks}
        for trial in recording.read_study(out).trials
    }
    plain = {"label", "membership"}
    assert found == {"dense": plain, "local": set(), "lips": plain | {"bitmaps"}}
    lines = (out / "leakage.csv").read_text().splitlines()
    assert {line.split(",")[1] for line in lines[1:]} == {"dense", "lips"}
    assert "What messages give away" in (out / "report.html").read_text()


@pytest.mark.whole
def test_attacks_that_cannot_be_are_refused_before_anything_is_trained(tmp_path):
    file, out = tmp_path / "study.toml", tmp_path / "out"
    file.write_text(STUDY.format(round=3))
    line = refusal(call("sweep", str(file), "--out", str(out), "--workers", "1", "--devices", "1"))
    assert "attack.rounds must be in 0..2, not 3" in line
    assert commands.nothing_left(out)
