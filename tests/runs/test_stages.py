"""Stages: what a file may say, what is refused, and what is asked of a stage that has begun."""

import dataclasses
import json
from pathlib import Path

import pytest

from lipsjax.analysis.gates import Gate
from lipsjax.recording import RecordingError
from lipsjax.report.stages import NOT_BEGUN, NOT_FINISHED, Outcome
from lipsjax.runs.begun import check_unchanged, read_begun, with_seeds, write_begun
from lipsjax.runs.stages import load_stages, read_seeds

HEAD = """
name = "From digits to the pilot"
[study]
seeds = 4
sparsity.every = 3
config = { rounds = 7, local.epochs = 1, local.options = { nesterov = true } }
arms = { dense = {}, local = { strategy.name = "local" }, lips = { sparsity = {} } }
"""
GATES = '[{ gate = "gain", arm = "lips", at_least = 1 }]'
OVER = GATES.replace("arm", 'over = "dense", arm')
TWO = f"""{HEAD}
[stages.small]
title = "A small model"
config = {{ rounds = 3, local.options = {{ momentum = 0.5 }} }}
arms = ["dense", "lips"]
gates = {OVER}
[stages.pilot]
study = "pilot.toml"
seeds = 6
gates = [{{ gate = "over_alone", arm = "dense", accuracy = "global", at_least = -2.5 }}]
"""
PILOT = """
name = "the pilot"
seeds = 9
config.model.name = "resnet8"
arms = { dense = {}, alone = { strategy.name = "local" } }
"""


@pytest.fixture
def load(tmp_path):
    """Reads a text as a file of stages beside a study."""

    def read(text):
        (tmp_path / "pilot.toml").write_text(PILOT)
        (tmp_path / "STAGES.toml").write_text(text)
        return load_stages(tmp_path / "STAGES.toml")

    return read


def test_a_stage_is_the_shared_study_with_its_own_fields(load):
    small, _ = load(TWO).stages
    assert (small.name, small.folder, small.study.name) == ("small", "01-small", "A small model")
    assert list(small.study.arms) == ["dense", "lips"]
    assert (small.study.seeds, small.study.sparsity.every) == (4, 3)
    assert (small.study.config.rounds, small.study.config.local.epochs) == (3, 1)
    # options are replaced as a whole, as everywhere
    assert small.study.config.local.options == {"momentum": 0.5}
    assert small.gates == (Gate(gate="gain", arm="lips", over="dense", at_least=1.0),)


def test_the_example_is_one():
    found = load_stages(Path(__file__).parents[2] / "experiments" / "poc.toml")
    assert [stage.folder for stage in found.stages] == ["01-small", "02-larger"]


def test_a_gain_is_over_the_reference_where_nothing_else_is_said(load):
    (small,) = load(stage()).stages
    assert small.gates[0].over == "dense"


def test_a_stage_may_be_a_study_of_its_own_file(load):
    _, pilot = load(TWO).stages
    assert (pilot.folder, pilot.study.name, pilot.study.seeds) == ("02-pilot", "the pilot", 6)
    assert pilot.study.config.model.name == "resnet8"
    assert pilot.study.config.rounds == 40  # nothing of [study]
    (gate,) = pilot.gates
    assert (gate.over, gate.accuracy, gate.bound) == ("alone", "global", -2.5)


def stage(lines="", gates=GATES):
    return f"{HEAD}[stages.small]\n{lines}\ngates = {gates}\n"


def gated(gate):
    return stage(gates=f"[{{ {gate} }}]")


BAD = {
    "no stage": (HEAD, "1 to 99 stages, as [stages.small], not 0"),
    "unknown field": (f"stags = 1\n{stage()}", "unknown field stags; did you mean stages?"),
    "stages as a list": ("stages = [1]", "stages must be a table, not [1]"),
    "a stage that is no table": (
        f"{HEAD}[stages]\nsmall = 3",
        "stages.small must be a table, not 3",
    ),
    "a name of a path": (
        stage().replace("s.small", 's."../x"'),
        "letters, digits, - and _, not '../x'",
    ),
    "an empty name": (stage().replace("s.small", 's.""'), "not ''"),
    "a field of a study, misspelt": (stage("sedes = 3"), "stages.small.sedes; did you mean seeds?"),
    "a field of a config, misspelt": (
        stage("config.round = 3"),
        "stages.small.config.round; did you",
    ),
    "in the shared study": (stage().replace("seeds = 4", "sede = 4"), "unknown field study.sede"),
    "a text for a number": (stage('seeds = "x"'), "stages.small.seeds must be an integer, not 'x'"),
    "no seeds": (stage("seeds = 0"), "stages.small: seeds must be at least 1, not 0"),
    "a name beside the title": (stage('name = "x"'), "stages.small.name: the title of a stage is"),
    "a title that is no text": (stage("title = 3"), "stages.small.title must be a text, not 3"),
    "a study that is no path": (stage("study = {}"), "stages.small.study must be a text, not {}"),
    "a study that is not there": (stage('study = "no.toml"'), "no.toml: no such file or directory"),
    "its own folder": (
        stage('execution.out = "x"'),
        "execution.out: every stage has a folder of its",
    ),
    "several processes": (
        stage("execution.processes = 2"),
        "execution.processes: stages run in one",
    ),
    "planned looks": (stage("until.margin = 1"), "stages.small.until: a stage is decided by its"),
    "a grid": (stage("grid.rounds = [3, 4]"), "stages.small.grid: a stage is one setting"),
    "an unknown arm": (stage('arms = ["dense", "lisp"]'), "unknown arm 'lisp'; did you mean lips?"),
    "an arm twice": (stage('arms = ["dense", "dense"]'), "stages.small.arms names dense twice"),
    "equal arms": (
        stage("arms = { a = {}, b = {} }"),
        "stages.small: the arms a and b are the same",
    ),
    "no gates": (stage().replace("gates", "#"), "must be a list of tables, at least one"),
    "empty gates": (stage(gates="[]"), "must be a list of tables, at least one"),
    "gates as a table": (stage(gates="{ gain = 1 }"), "must be a list of tables, at least one"),
    "a gate that is no table": (stage(gates="[3]"), "gates, number 1: must be a table, not 3"),
    "no kind": (gated("at_least = 1"), "number 1: it lacks gate and arm"),
    "an unknown kind": (
        gated('gate = "gian", arm = "lips"'),
        "must be one of gain, over_alone, accur",
    ),
    "an unknown field of a gate": (
        gated('gate = "gain", arm = "lips", least = 1'),
        "number 1: least",
    ),
    "a gate of no arm": (
        gated('gate = "gain", arm = "lisp", at_least = 1'),
        "arm must be one of dense",
    ),
    "over no arm": (
        gated('gate = "gain", arm = "lips", over = "x", at_least = 1'),
        "over must be one",
    ),
    "over itself": (
        gated('gate = "gain", arm = "lips", over = "lips", at_least = 1'),
        "with itself",
    ),
    "gain of the reference": (
        gated('gate = "gain", arm = "dense", at_least = 1'),
        "say over = ARM",
    ),
    "no bound": (gated('gate = "gain", arm = "lips"'), "gain needs at_least, and no at_most"),
    "a bound the wrong way": (
        gated('gate = "bits", arm = "lips", at_least = 1'),
        "bits needs at_most, and no at_least",
    ),
    "a bound that is no number": (
        gated('gate = "gain", arm = "lips", at_least = nan'),
        "at_least must be a finite number or none, not nan",
    ),
    "a gain beyond all": (
        gated('gate = "gain", arm = "lips", at_least = 101'),
        "-100 to 100, not 101",
    ),
    "an accuracy below 0": (
        gated('gate = "accuracy", arm = "lips", at_least = -1'),
        "0 to 100, not -1",
    ),
    "an accuracy as a share": (
        gated('gate = "accuracy", arm = "lips", at_least = 0.8'),
        "write 80 for 80 %",
    ),
    "a cost below 0": (gated('gate = "minutes", arm = "lips", at_most = -1'), "at least 0, not -1"),
    "money without prices": (
        gated('gate = "money", arm = "lips", at_most = 1'),
        "prices.per_gb or",
    ),
    "over of a level": (
        gated('gate = "accuracy", arm = "lips", over = "dense", at_least = 9'),
        "over is of gain and worst_site, not of accuracy",
    ),
    "accuracy of a cost": (
        gated('gate = "bits", arm = "lips", accuracy = "global", at_most = 9'),
        "accuracy is of gain, over_alone and accuracy, not bits",
    ),
    "nobody trains alone": (
        stage('arms = ["dense", "lips"]', '[{ gate = "over_alone", arm = "lips", at_least = 1 }]'),
        "over_alone needs an arm that trains alone",
    ),
    "sites of pooled data": (
        stage(
            "arms = { dense = {}, pooled = { partition.pooled = true } }",
            '[{ gate = "worst_site", arm = "pooled", at_least = 5 }]',
        ),
        "pooled pools the data, and has no sites",
    ),
    "no global accuracy": (
        stage(
            "config.evaluation.clients_on_global = false",
            '[{ gate = "accuracy", arm = "local", accuracy = "global", at_least = 5 }]',
        ),
        "local has no global accuracy without evaluation.clients_on_global",
    ),
    "a gate twice": (
        stage(gates=f"[{GATES[1:-1]}, {GATES[1:-1]}]"),
        "number 2: the same as number 1",
    ),
    "no TOML": ("stages = [", "not valid TOML"),
}


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD)
def test_bad_stages_are_refused_in_one_line(load, text, said):
    with pytest.raises(ValueError) as refused:
        load(text)
    line = str(refused.value)
    assert said in line, line
    assert "STAGES.toml" in line
    assert "\n" not in line


@pytest.mark.parametrize("what", ["missing", "folder", "binary"])
def test_a_file_that_is_none(tmp_path, what):
    path = tmp_path / "x.toml"
    if what == "folder":
        path.mkdir()
    elif what == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"x\.toml: .*; stages are a TOML file"):
        load_stages(path)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (["small"], "--seeds must be like small=12, not 'small'"),
        (["small=x"], "--seeds must be like small=12, not 'small=x'"),
        (["small=-3"], "not 'small=-3'"),
        (["small=1.5"], "not 'small=1.5'"),
        (["smal=5"], "unknown stage 'smal'; did you mean small?; there are small, pilot"),
        (["small=5", "small=6"], "--seeds names small twice"),
    ],
)
def test_bad_seeds(load, entries, said):
    with pytest.raises(ValueError) as refused:
        read_seeds(entries, load(TWO))
    assert said in str(refused.value)


def known(stage, *seeds, word=NOT_FINISHED):
    return Outcome(stage.name, "", "", stage.folder, stage.gates, seeds, word)


@pytest.mark.parametrize(
    ("before", "word", "asked", "seeds"),
    [
        ((), NOT_BEGUN, None, 4),  # of the file
        ((), NOT_BEGUN, 7, 7),
        ((4,), "open", None, 4),
        ((4,), "open", 9, 9),
        ((4, 9), "open", None, 9),  # once raised they stay
        ((4, 9), NOT_FINISHED, 9, 9),
        ((4,), "go", 4, 4),
    ],
)
def test_seeds_are_raised_and_stay(load, before, word, asked, seeds):
    small, _ = load(TWO).stages
    assert with_seeds(small, known(small, *before, word=word), asked).study.seeds == seeds


@pytest.mark.parametrize(
    ("before", "word", "asked", "said"),
    [
        ((), NOT_BEGUN, 3, "--seeds small=3: the stage small has 4, and seeds can only be raised"),
        ((4, 9), "open", 8, "the stage small has 9, and seeds can only be raised"),
        ((4,), "go", 9, "the stage small is decided with 4 seeds, go, and takes no more: 9 would"),
        ((4,), "no-go", 9, "is decided with 4 seeds, no-go"),
        ((4,), "open", 999_999, "a study must have at most 100000 runs"),
    ],
)
def test_seeds_that_cannot_be(load, before, word, asked, said):
    small, _ = load(TWO).stages
    with pytest.raises(ValueError) as refused:
        with_seeds(small, known(small, *before, word=word), asked)
    assert said in str(refused.value)


def test_seeds_raised_in_the_file_count_too(load):
    small, _ = load(TWO.replace("seeds = 4", "seeds = 5")).stages
    assert with_seeds(small, known(small, 4, word="open"), None).study.seeds == 5
    with pytest.raises(ValueError, match="is decided with 4 seeds, go"):
        with_seeds(small, known(small, 4, word="go"), None)


def test_what_is_asked_is_kept_and_every_raise_is_counted(load, tmp_path):
    small, pilot = load(TWO).stages
    for seeds in (4, 4, 9, 9, 12):
        asked = small._replace(study=dataclasses.replace(small.study, seeds=seeds))
        write_begun(tmp_path, asked, read_begun(tmp_path, small))
    begun = read_begun(tmp_path, small)
    assert begun.seeds == (4, 9, 12)
    assert begun.gates == small.gates
    assert begun.study.arms == small.study.arms
    assert begun.study.config == small.study.config
    assert read_begun(tmp_path, pilot) is None


def begin(out, stages):
    for each in stages.stages:
        write_begun(out, each, None)


def check(out, stages):
    check_unchanged(out, stages, {each.name: read_begun(out, each) for each in stages.stages})


CHANGES = {
    "a field": (("rounds = 3", "rounds = 4"), "the stage small has begun", "config.rounds"),
    "of sparsity": (("every = 3", "every = 2"), "the stage small", "sparsity.every"),
    "an arm": (("lips = { s", "lips = { against = 'dense', s"), "the stage small", "arms.lips"),
    "a gate": (("at_least = 1", "at_least = 0"), "the stage small", "gates"),
    "one of fewer arms": (
        ('["dense", "lips"]', '["dense", "lips", "local"]'),
        "small",
        "arms.local",
    ),
    "their order": (('["dense", "lips"]', '["lips", "dense"]'), "small", "arms"),
    "of the second": (("seeds = 6", "config.rounds = 9"), "the stage pilot", "config.rounds"),
    "a name": (
        ("stages.small", "stages.tiny"),
        "01-small is a stage that was begun",
        "another --out",
    ),
}


@pytest.mark.parametrize(("change", "stage", "field"), CHANGES.values(), ids=CHANGES)
def test_what_changes_what_has_begun_is_told_and_refused(load, tmp_path, change, stage, field):
    begin(tmp_path, load(TWO))
    check(tmp_path, load(TWO))
    assert change[0] in TWO
    with pytest.raises(ValueError) as refused:
        check(tmp_path, load(TWO.replace(*change)))
    assert stage in str(refused.value)
    assert field in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        ('title = "A small model"', 'title = "Another"'),
        ("seeds = 4", "seeds = 5"),
        (
            "sparsity.every",
            "execution = { workers = 2 }\nprices = { per_gb = 2.0 }\nsparsity.every",
        ),
    ],
)
def test_what_decides_nothing_may_change(load, tmp_path, change):
    begin(tmp_path, load(TWO))
    check(tmp_path, load(TWO.replace(*change)))


def test_prices_decide_where_money_does(load, tmp_path):
    text = stage("prices.per_gb = 2.0", '[{ gate = "money", arm = "lips", at_most = 5 }]')
    begin(tmp_path, load(text))
    with pytest.raises(ValueError, match="prices, by which money is judged"):
        check(tmp_path, load(text.replace("2.0", "3.0")))


def test_a_stage_that_has_not_begun_may_change(load, tmp_path):
    stages = load(TWO)
    write_begun(tmp_path, stages.stages[0], None)
    check(tmp_path, load(TWO.replace("seeds = 6", "config.rounds = 9")))
    check(tmp_path, stages._replace(stages=stages.stages[:1]))


@pytest.mark.parametrize(
    "record",
    ["", "[]", "{}", '{"seeds": [], "gates": [], "study": {}}', '{"seeds": ["x"]}', "{"],
)
def test_a_damaged_record_is_named(load, tmp_path, record):
    small, _ = load(TWO).stages
    path = tmp_path / small.folder / "stage.json"
    path.parent.mkdir()
    path.write_text(record)
    with pytest.raises(RecordingError, match=r"stage\.json (is damaged|cannot be read)"):
        read_begun(tmp_path, small)


def test_the_record_names_no_machine(load, tmp_path):
    text = TWO.replace("sparsity.every", f"execution.data_dir = '{tmp_path}'\nsparsity.every")
    small, _ = load(text).stages
    write_begun(tmp_path, small, None)
    assert str(tmp_path) not in (tmp_path / small.folder / "stage.json").read_text()
    assert json.loads((tmp_path / small.folder / "stage.json").read_text())["seeds"] == [4]
