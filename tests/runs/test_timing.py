"""Sites of a config: who has which device, and what is refused before anything is written."""

import json

import numpy as np
import pytest

from helpers import commands
from helpers.configs import SITED, argv_of, config_of
from lipsjax import sites
from lipsjax.runs.config import Config, Execution, SitesConfig, to_dict
from lipsjax.runs.prepare import prepare
from lipsjax.runs.timing import devices_of

FEDBUFF = {"strategy.name": "fedbuff", "sites.buffer": 2}


def prepared(**changes):
    return prepare(config_of(SITED, changes), Execution(devices=1))


def argv(**changes):
    return argv_of(SITED, changes)


def test_a_config_without_sites_is_recorded_as_before_there_were_any():
    assert "sites" not in to_dict(Config())
    assert to_dict(Config(sites=SitesConfig(devices=("pi-4",))))["sites"]["devices"] == ("pi-4",)


def test_hours_follow_from_counted_work():
    """Operations and bits of this run, by hand, over the figures of each device."""
    run = prepared()
    from lipsjax.runs.costs import training_flops

    clock = run.clock
    assert clock.work.steps.tolist() == [2, 2, 2]
    np.testing.assert_allclose(3 * 2 * clock.work.step_flops, training_flops(run.simulation))
    bits = 32 * run.setup["num_params"]
    assert clock.work.up_bits.tolist() == [[bits] * 3] * 4
    assert clock.work.down_bits.tolist() == [[bits] * 3] * 4
    zero = sites.SHIPPED["pi-zero-2w"]
    expected = 2 * clock.work.step_flops / (zero.gflops * 1e9)
    expected += bits / (zero.up_mbit * 1e6) + bits / (zero.down_mbit * 1e6)
    found = clock.of_round(0, np.array([0]), bits, bits)["simulated_seconds"]
    assert found == pytest.approx(expected)


def test_a_table_names_its_sites(tmp_path):
    table = tmp_path / "sites.csv"
    table.write_text("site,device,gflops,up_mbit,down_mbit\nnorth,a,1,1,1\nsouth,b,2,1,1\n")
    wanted = SitesConfig(devices=(str(table),))
    found = devices_of(wanted, 2, ("south", "north"))
    assert [device.name for device in found] == ["b", "a"]
    with pytest.raises(ValueError, match="has no row for the site 'east'"):
        devices_of(wanted, 2, ("east", "north"))
    with pytest.raises(ValueError, match="has 2 rows, and 3 clients train"):
        devices_of(wanted, 3, None)
    with pytest.raises(ValueError, match="must be classes or one table, not 2 of both"):
        devices_of(SitesConfig(devices=("pi-4", str(table))), 2, None)


def test_a_table_is_part_of_what_a_run_is(tmp_path):
    from lipsjax.runs import parts

    table = tmp_path / "sites.csv"
    config = config_of(SITED, {"sites.devices": [str(table)]})
    found = []
    for speed in (1, 2):
        table.write_text("device,gflops,up_mbit,down_mbit\n" + f"a,{speed},1,1\n" * 3)
        found.append(parts.identity(config))
    assert found[0] != found[1]


def test_a_deadline_leaves_steps_and_the_record_says_so(tmp_path):
    clock = prepared().clock
    seconds = clock.busy(*clock.work.most())
    deadline = float(sorted(seconds)[1]) * 1.001
    ended = commands.run(tmp_path, *argv(**{"sites.deadline": deadline, "sites.late": "left_out"}))
    assert ended.status == 0, ended.err
    folder = commands.run_dir(tmp_path)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["clients_arrived"] for row in rows] == [2.0] * 4
    assert all(row["simulated_seconds"] == pytest.approx(deadline / 1.001) for row in rows)
    devices = json.loads((folder / "setup.json").read_text())["devices"]
    assert [device["turns"] for device in devices] == [4.0 * (t <= deadline) for t in seconds]


def test_fedbuff_is_killed_in_the_middle_of_a_ring_and_goes_on_to_the_same_bits(tmp_path):
    lips = ["--lips", "--sparsity.gradient", "stored", "--sparsity.every", "2"]
    wanted = [*argv(**FEDBUFF, rounds=9), *lips, "--rounds-per-call", "2"]
    whole = commands.run(tmp_path / "whole", *wanted)
    assert whole.status == 0, whole.err
    commands.stop_at_save(tmp_path / "killed", 2, *wanted)
    again = commands.run(tmp_path / "killed", *wanted)
    assert again.status == 0, again.err
    assert "goes on after round" in again.out + again.err
    folders = [commands.run_dir(tmp_path / name) for name in ("whole", "killed")]
    assert folders[0].name == folders[1].name
    texts = [(folder / "metrics.jsonl").read_text() for folder in folders]
    assert texts[0] == texts[1]
    staleness = [json.loads(line)["staleness"] for line in texts[0].splitlines()]
    assert max(staleness[4:]) > 0  # the ring holds more than the newest model where it is killed


REFUSED = [
    ({"sites.devices": ["pi-6"]}, "'pi-6' is no class; did you mean pi-"),
    ({"sites.devices": ["none.csv"]}, "sites.devices: none.csv cannot be read"),
    ({"sites.devices": [], "sites.deadline": 3.0}, "sites.deadline needs sites.devices"),
    ({"sites.devices": [], **FEDBUFF}, "sites.buffer needs sites.devices"),
    ({"sites.deadline": 0.0}, "sites.deadline must be above 0 s, not 0"),
    ({"sites.deadline": 1e-6}, "sites.deadline must be at least"),
    ({"sites.buffer": 2}, "sites.buffer needs strategy.name='fedbuff', not 'fedavg'"),
    ({**FEDBUFF, "sites.buffer": 4}, "cohort must be in 1..3, not 4"),
    ({**FEDBUFF, "sites.buffer": 0}, "at least 1, not 0"),
    ({**FEDBUFF, "sites.deadline": 9.0}, "sites.buffer and sites.deadline exclude each other"),
    ({**FEDBUFF, "strategy.cohort": 2}, "leave strategy.cohort=2 out"),
    ({"participation.dropout": 0.1}, "go with no participation.dropout, here 0.1"),
    ({**FEDBUFF, "strategy.options": {"exponent": -1.0}}, "exponent must be at least 0, not -1"),
    ({**FEDBUFF, "strategy.aggregation": "median"}, "median cannot work"),
    ({**FEDBUFF, "secure.bits": 16}, "secure cannot wrap fedbuff"),
    ({"partition.pooled": True}, "sites.devices go with no partition.pooled"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=["-".join(c) for c, _ in REFUSED])
def test_what_is_refused_before_anything_is_written(changes, message):
    with pytest.raises(ValueError) as caught:  # the message is compared below
        prepared(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_command_says_it_in_one_line_and_leaves_nothing(tmp_path):
    out = tmp_path / "out"
    ended = commands.run(out, *argv(**{"sites.devices": ["pi-6"]}))
    commands.refusal(ended, "pi-6", "pi-4")
    assert commands.nothing_left(out)


def test_attacks_read_no_messages_of_models_before():
    from lipsjax.runs import attack
    from lipsjax.runs.attack_config import AttackConfig

    with pytest.raises(ValueError, match="messages of clients that do not wait for each other"):
        attack.check(AttackConfig(), prepared(**FEDBUFF))
