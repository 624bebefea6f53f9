"""How many seeds would find an effect: from a recorded study, without JAX."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from helpers.commands import call, refusal
from helpers.fake_study import write_study
from lipsjax.analysis.needed import needs
from lipsjax.analysis.power import seeds_for_power
from lipsjax.experiments.power import again
from lipsjax.recording import read_study


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A study of three arms and 5 seeds, of which one has a seed less."""
    return write_study(
        tmp_path_factory.mktemp("power"),
        arms=("dense", "lips", "random"),
        noise=0.02,
        missing=(("random", 4),),
        command="python -m lipsjax.experiments.sweep study.toml --seeds 5 --out results/mine",
        prices={"per_gb": 1.0, "per_device_hour": 2.0},
    )


def test_the_table_is_that_of_the_differences(recorded):
    study = read_study(recorded)
    lips, random = needs(study, effect=0.01, power=0.8, measure="personalised")
    assert (lips.row.arm, lips.paired, random.row.arm, random.paired) == ("lips", 5, "random", 4)
    ends = {
        (t.arm, t.seed): t.recording.scalars["accuracy_dense"][-4:].mean() for t in study.trials
    }
    differences = np.array([ends["lips", seed] - ends["dense", seed] for seed in range(5)])
    found = seeds_for_power(differences, 0.01)
    assert lips.spread.mean == pytest.approx(differences.std(ddof=1))
    assert (lips.seeds, lips.low, lips.high) == (found.seeds, found.low, found.high)
    assert (lips.low or 0) < (lips.seeds or 0) < (lips.high or 0)


def test_what_it_prints(recorded):
    ended = call("power", str(recorded), "--effect", "1")
    assert ended.status == 0, ended
    lines = ended.out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("python")) <= 80
    study = read_study(recorded)
    lips, random = needs(study, effect=0.01, power=0.8, measure="personalised")
    (row,) = (re.sub(r"\[.*\]", "", line).split() for line in lines if line.startswith("lips "))
    assert row[1] == "5"
    assert row[3:7] == [str(lips.seeds), str(lips.low), "to", str(lips.high)]
    both = [t.recording for t in study.trials if t.arm in ("dense", "lips")]
    each = sum(r.seconds + r.compile_seconds for r in both) / 5
    assert float(row[7]) == pytest.approx((lips.seeds - 5) * each / 60, abs=0.051)
    most = max(lips.seeds, random.seeds)
    assert lines[-1] == (
        f"python -m lipsjax.experiments.sweep study.toml --out results/mine --seeds {most}"
    )
    told = rf"{most} seeds, for lips, random, take [\d.]+ \w+ more and cost [\d.]+:"
    assert re.search(told, " ".join(ended.out.split()))


def test_more_is_asked_of_a_smaller_effect_and_of_more_power(recorded):
    study = read_study(recorded)

    def seeds(effect, power, measure="personalised"):
        return needs(study, effect=effect, power=power, measure=measure)[0].seeds or 0

    assert 0 < seeds(0.02, 0.8) < seeds(0.01, 0.8) < seeds(0.01, 0.9)
    # global accuracy is 0.8 of it in these studies, and so is its spread
    assert seeds(0.008, 0.8, "global") == seeds(0.01, 0.8)


def test_seeds_enough_ask_for_no_command(recorded):
    ended = call("power", str(recorded), "--effect", "20")
    assert "lips, random has seeds enough" in " ".join(ended.out.split())
    assert "python -m" not in ended.out


def test_few_seeds_are_told_in_a_line(tmp_path):
    write_study(tmp_path, seeds=2)
    ended = call("power", str(tmp_path))
    assert ended.status == 0
    assert " ".join(ended.out.split()).startswith("2 seeds in both arms do not tell how far")
    assert ended.out.count("\n") <= 2


def test_a_study_from_a_script_has_no_command(tmp_path):
    write_study(tmp_path, noise=0.02, command="python mine.py")
    ended = call("power", str(tmp_path))
    assert re.search(r"run the study again with seeds = \d+\.", " ".join(ended.out.split()))


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("python -m lipsjax.experiments.sweep", "python -m lipsjax.experiments.sweep --seeds 9"),
        (
            "python -m lipsjax.experiments.sweep --seeds 3 --grid 'partition.alpha=[0.1, 1]'",
            "python -m lipsjax.experiments.sweep --grid 'partition.alpha=[0.1, 1]' --seeds 9",
        ),
        ("python -m lipsjax.experiments.search --seeds 3", None),
        ("lipsjax.sweep(..., out='x')", None),
        ("an 'unfinished quote", None),
    ],
)
def test_the_command_again(line, wanted):
    assert again(line, 9) == wanted


BAD = {
    "no effect": (["--effect", "0"], ["effect must be above 0", "not 0"]),
    "negative effect": (["--effect", "-1"], ["effect must be above 0", "not -1"]),
    "effect NaN": (["--effect", "nan"], ["effect must be", "not nan"]),
    "effect beyond all": (["--effect", "101"], ["at most 100 points, not 101"]),
    "effect in words": (["--effect", "large"], ["--effect must be a finite number, not 'large'"]),
    "certain": (["--power", "1"], ["power must be above 0.05 and below 1, not 1"]),
    "in percent": (["--power", "80"], ["power must be above 0.05 and below 1, not 80"]),
    "no chance": (["--power", "0"], ["power must be above 0.05"]),
    "unknown measure": (["--measure", "loss"], ["'loss'", "--measure", "'global'"]),
    "unknown option": (["--level", "0.9"], ["unknown option '--level'"]),
    "a second study": (["other"], ["unknown argument 'other'"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options(recorded, name):
    argv, parts = BAD[name]
    refusal(call("power", str(recorded), *argv), *parts)


def test_where_no_study_is(tmp_path):
    refusal(call("power", str(tmp_path / "none")), "holds no study")
    (tmp_path / "study.json").write_text("{")
    refusal(call("power", str(tmp_path)), "study.json cannot be read")


def test_one_arm_compares_nothing(tmp_path):
    write_study(tmp_path, arms=("dense",))
    refusal(call("power", str(tmp_path)), "compares no arms: it has dense")


def test_a_seed_that_was_not_measured_is_not_left_out(tmp_path):
    """Global accuracy of one run is lacking: nothing is told of its arm."""
    write_study(tmp_path, arms=("dense", "lips", "random"), noise=0.02)
    (path,) = tmp_path.glob("runs/made-up-00-01-03/metrics.jsonl")
    rows = [json.loads(line) | {"global_accuracy": None} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = read_study(tmp_path)
    lips, random = needs(study, effect=0.01, power=0.8, measure="global")
    assert lips.seeds is None
    assert not math.isnan(random.spread.mean)


def test_it_does_not_start_jax(recorded):
    code = (
        "import sys; from lipsjax.experiments import power; "
        f"power.main([{str(recorded)!r}]); print('jax' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "False"
