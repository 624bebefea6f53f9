"""Arms that every study knows by name."""

import dataclasses
from pathlib import Path

import pytest

from lipsjax.experiments.sweep import Sweep, read_arguments
from lipsjax.runs import arms
from lipsjax.runs.config import PartitionConfig, to_dict
from lipsjax.runs.study import default_study, expand, load_study, study_from

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "fashion_mnist.toml"


def asked(*argv):
    return read_arguments(list(argv), Sweep, "lipsjax sweep")[0]


def configs(study):
    return {trial.arm: to_dict(trial.config) for trial in expand(study)}


def test_arms_known_by_name_are_those_of_the_experiment():
    study = dataclasses.replace(load_study(EXPERIMENT), seeds=1)
    named = dataclasses.replace(study, arms=arms.choose(study.arms, {}, where="arms"))
    assert configs(named) == configs(study)


def test_a_study_without_a_file_knows_them():
    assert list(asked().arms) == ["dense", "local", "pooled", "lips"]
    found = configs(asked("--arms", "dense", "random", "held", "--seeds", "1"))
    assert list(found) == ["dense", "random", "held"]
    assert found["random"]["sparsity"]["criterion"] == "random"


def test_arms_of_a_file_win_over_the_names(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("seeds = 1\n[arms.mine]\n[arms.lips.sparsity]\nevery = 3\n")
    assert list(asked(str(path)).arms) == ["mine", "lips"]
    found = configs(asked(str(path), "--arms", "mine", "lips", "random"))
    assert [found[arm]["sparsity"]["every"] for arm in ("lips", "random")] == [3, 5]


def test_a_list_of_names_in_a_file(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('arms = ["dense", "shared"]\n')
    assert load_study(path).arms == {"dense": {}, "shared": {"sparsity": {"sharing": "shared"}}}


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["dense", "lisp"], "arms: unknown arm 'lisp'; did you mean lips?; there are dense, local"),
        (["dense", "dense"], "arms names dense twice"),
        (["dense", " dense "], "arms names dense twice"),
        (["dense", 3], "arms: unknown arm 3; there are dense"),
        (["dense", ["lips"]], "arms: unknown arm ['lips']"),
        ([""], "arms: unknown arm ''"),
        ([], "arms must name at least one arm"),
        ("dense", "arms must be a table, not 'dense'"),
    ],
)
def test_names_that_are_no_arms(names, part):
    with pytest.raises(ValueError, match=r".") as refused:
        expand(study_from({"arms": names}))
    assert part in str(refused.value)


OF_THE_OTHERS = {
    "a strategy": ("--strategy.name", "fedprox", "--strategy.options", "mu=0.1"),
    "a compression": ("--strategy.compression", "top_k"),
    "faults": ("--faults.clients", "4", "--strategy.aggregation", "median"),
    "a guarantee": ("--privacy.clip", "1", "--privacy.epsilon", "8"),
    "secure sums": ("--secure.bits", "16"),
    "a grid of strategies": ("--grid", 'strategy.name=["fedavg", "fedprox"]'),
}


@pytest.mark.parametrize("case", OF_THE_OTHERS)
def test_who_trains_alone_has_no_strategy_and_sends_nothing(case):
    plain, found = configs(asked("--seeds", "1")), configs(asked(*OF_THE_OTHERS[case]))
    for arm in ("local", "pooled"):
        assert {**found[arm], "seed": 0} == plain[arm]
    assert {**found["dense"], "seed": 0} != plain["dense"]


def test_what_a_known_arm_sets_itself_no_option_replaces():
    with pytest.raises(ValueError, match=r"--local\.schedule does not reach the arm tuned"):
        asked("--arms", "dense", "tuned", "--local.schedule", "linear")


def test_the_default_setting_is_of_its_own_data():
    """Of other data, sites are as large as options say, and natural ones as they are."""
    default, own = asked().config.partition, asked("--dataset", "wine").config.partition
    assert (default.train_examples, own.train_examples) == (10, 30)
    assert own == asked("--dataset=wine").config.partition == PartitionConfig()
    assert default == default_study().config.partition
    assert default == asked("--dataset", "digits").config.partition
