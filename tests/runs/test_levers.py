"""What sites give up: what each does is dealt out, or follows from a deadline by a stated rule."""

import json

import numpy as np
import pytest

from helpers import commands
from helpers.configs import argv_of, config_of
from lipsjax import sites
from lipsjax.runs import levers
from lipsjax.runs.config import Config, Execution, SitesConfig, StrategyConfig, to_dict
from lipsjax.runs.prepare import prepare

SMALL = {
    "dataset": "synthetic",
    "rounds": 2,
    "model.name": "cnn",
    "model.width": 8,
    "partition.clients": 3,
    "partition.train_examples": 6,
    "local.epochs": 1,
    "local.batch_size": 3,
    "sites.devices": ["pi-4", "m2-air", "ryzen-5600x"],
}
TOP_K = {"strategy.compression": "top_k"}


def prepared(**changes):
    return prepare(config_of(SMALL, changes), Execution(devices=1))


def argv(**changes):
    return argv_of(SMALL, changes)


def test_what_nobody_gives_up_is_not_recorded():
    sited = to_dict(Config(sites=SitesConfig(devices=("pi-4",))))["sites"]
    assert not set(sited) & {"widths", "densities", "fractions"}
    given = to_dict(Config(sites=SitesConfig(widths=(0.5,))))["sites"]
    assert given["widths"] == (0.5,)


def test_fractions_are_dealt_out_as_devices_are():
    run = prepared(**TOP_K, **{"sites.fractions": [0.01, 0.1, 1.0]})
    whole = prepared(**TOP_K, **{"strategy.compression_options": {"fraction": 0.1}})
    bits, alike = run.clock.work.up_bits, whole.clock.work.up_bits
    assert bits.shape == (2, 3)
    assert bits[0, 1] == alike[0, 1]
    assert bits[0, 0] < bits[0, 1] < bits[0, 2]
    np.testing.assert_array_equal(run.clock.work.down_bits, whole.clock.work.down_bits)


def test_who_would_be_late_sends_less_and_the_record_says_how_much(tmp_path):
    """Halved as often as it takes, and no oftener; the others send as they would."""
    options = {**TOP_K, "strategy.compression_options": {"fraction": 0.5}}
    alike = prepared(**options).clock
    seconds = alike.busy(*alike.work.most())
    fractions = {n: prepared(**TOP_K, **{"sites.fractions": [0.5 / 2**n]}).clock for n in range(7)}
    quarter = fractions[2].busy(*fractions[2].work.most())[0]
    deadline = float(quarter) * 1.0001
    assert seconds[0] > deadline > seconds[1:].max()
    run = prepared(**options, **{"sites.deadline": deadline, "sites.late": "sends_less"})
    assert run.simulation.spec.participation.limits == (2, 2, 2)
    expected = [fractions[n].work.up_bits[0, k] for k, n in enumerate((2, 0, 0))]
    np.testing.assert_array_equal(run.clock.work.up_bits, [expected] * 2)
    words = ["--strategy.compression", "top_k", "--strategy.compression-options", "fraction=0.5"]
    words += ["--sites.deadline", str(deadline), "--sites.late", "sends_less"]
    ended = commands.run(tmp_path, *argv(), *words)
    assert ended.status == 0, ended.err
    folder = commands.run_dir(tmp_path)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["uplink_bits"] for row in rows] == [sum(expected)] * 2
    assert all(row["simulated_seconds"] == pytest.approx(deadline / 1.0001) for row in rows)
    devices = json.loads((folder / "setup.json").read_text())["devices"]
    assert [device["fraction"] for device in devices] == [0.125, 0.5, 0.5]


def test_who_cannot_even_send_the_least_does_fewer_steps():
    options = {**TOP_K, "strategy.compression_options": {"fraction": 0.5}, "local.epochs": 20}
    options["sites.devices"] = ["pi-zero-2w", "m2-air", "ryzen-5600x"]
    least = prepared(**{**options, "strategy.compression_options": {"fraction": 0.5 / 64}}).clock
    deadline = float(least.busy(*least.work.most())[0]) * 0.7
    run = prepared(**options, **{"sites.deadline": deadline, "sites.late": "sends_less"})
    first, *others = run.simulation.spec.participation.limits
    assert 0 < first < 40
    assert others == [40, 40]
    assert run.clock.busy(*run.clock.work.most()).max() <= deadline


def test_who_would_be_late_trains_a_narrower_model():
    """FLOPs and bits are those of the narrow model; nobody is narrower than it takes."""
    slow = {"sites.devices": ["pi-zero-2w", "m2-air", "ryzen-5600x"]}
    narrow = prepared(**slow, **{"model.width": 4})
    whole = prepared(**slow)
    half = float(narrow.clock.busy(*narrow.clock.work.most())[0])
    assert half < whole.clock.busy(*whole.clock.work.most())[0]
    run = prepared(**slow, **{"sites.deadline": half * 1.0001, "sites.late": "narrower"})
    assert [device["width"] for device in run.setup["devices"]] == [0.5, 1.0, 1.0]
    assert run.simulation.spec.participation.limits == (2, 2, 2)
    for name in ("step_flops", "up_bits", "down_bits"):
        found, small, large = (getattr(x.clock.work, name) for x in (run, narrow, whole))
        np.testing.assert_allclose(found[..., 0], small[..., 0])
        np.testing.assert_allclose(found[..., 1:], large[..., 1:])
    assert run.account.up[0].tolist() == run.clock.work.up_bits[0].tolist()


def test_widths_and_densities_are_dealt_out_to_each_site():
    run = prepared(**{"sites.widths": [0.5, 1.0, 1.0], "sites.densities": [1.0, 0.25, 1.0]})
    rows = run.setup["devices"]
    assert [(row["width"], row["density"]) for row in rows] == [(0.5, 1.0), (1.0, 0.25), (1.0, 1.0)]
    narrow, sparse, whole = run.clock.work.up_bits[0]
    assert narrow < whole
    assert sparse < whole
    flops = run.clock.work.step_flops
    assert flops[0] < flops[1] == flops[2]  # held density saves none


def test_a_clock_of_sites_that_do_different_works_by_hand():
    """1 and 2 GFLOP/s; the second work has half the FLOPs and a quarter of the bits up."""
    slow, fast = sites.Device("slow", 1.0, 1.0, 1.0), sites.Device("fast", 2.0, 1.0, 1.0)
    million = 10**6
    whole = sites.Work(
        np.array([4, 4]), np.full(2, 1e9), np.full((1, 2), 4 * million), np.full((1, 2), million)
    )
    less = whole._replace(step_flops=np.full(2, 5e8), up_bits=np.full((1, 2), million))
    can = sites.afford([slow, fast], [whole, less], deadline=7.0)
    # whole: 4 + 5 and 2 + 5 seconds; less: 2 + 2
    assert can == sites.Affordable(choice=(1, 0), steps=(4, 4))
    clock = sites.round_clock([slow, fast], sites.chosen([whole, less], can.choice), can.steps)
    np.testing.assert_allclose(clock.busy(*clock.work.most()), [4.0, 7.0])
    late = sites.afford([slow, fast], [whole, less], deadline=3.0)
    assert late == sites.Affordable(choice=(1, 1), steps=(2, 4))
    assert sites.afford([slow, fast], [whole, less], deadline=3.0, whole=True).steps == (0, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sites.fractions": [0.1]},
            "sites.fractions need strategy.compression='top_k', not 'none'",
        ),
        (
            {"sites.fractions": [0.1], **TOP_K, "strategy.compression_options": {"fraction": 0.2}},
            "sites.fractions say what strategy.compression_options.fraction does: leave one out",
        ),
        (
            {"sites.fractions": [0.1, 0.0, 1.0], **TOP_K},
            r"sites.fractions must be in \(0, 1\], not 0",
        ),
        ({"sites.densities": [1.5]}, r"sites.densities must be in \(0, 1\], not 1.5"),
        ({"sites.widths": [-0.5]}, r"sites.widths must be in \(0, 1\], not -0.5"),
        (
            {"sites.widths": [0.5, 1.0]},
            "sites.widths must be one value for all sites, one for each of 3 device classes, or "
            "one for each of 3 sites, not 2",
        ),
        (
            {"sites.late": "sends_less", "sites.deadline": 1.0},
            "sites.late='sends_less' needs strategy.compression='top_k', not 'none'",
        ),
        (
            {"sites.late": "narrower", "sites.deadline": 1.0, "model.name": "vgg5"},
            "need model.name to be one of mlp, cnn, conv1d, resnet6, .* not 'vgg5'",
        ),
        ({"sites.widths": [0.3]}, "widths must leave whole channels, and 0.3 of the 8 of stem are"),
        (
            {"sites.widths": [0.5], "model.norm": "group"},
            "need normalisation by running statistics",
        ),
        ({"sites.widths": [0.5], "sparsity": {}}, "transient_sparsity cannot wrap"),
        ({"sites.widths": [0.5], "strategy.aggregation": "median"}, "median cannot wrap"),
        ({"sites.densities": [0.5], "strategy.name": "scaffold"}, "submodels cannot wrap scaffold"),
    ],
)
def test_what_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as told:
        prepared(**changes)
    assert "\n" not in str(told.value)


def test_attacks_train_no_parts_of_models():
    from lipsjax.runs import attack
    from lipsjax.runs.attack_config import AttackConfig

    run = prepared(**{"sites.widths": [0.5]})
    with pytest.raises(ValueError, match="hold a part of the model train that part alone"):
        attack.check(AttackConfig(), run)
    assert attack.fitting(AttackConfig(), run) is None


def test_a_fraction_is_of_what_a_site_holds():
    """Bits of top_k around a narrow part are those of top_k of the narrow model."""
    fraction = {**TOP_K, "strategy.compression_options": {"fraction": 0.1}}
    run = prepared(**fraction, **{"sites.widths": [0.5, 1.0, 1.0]})
    narrow, whole = prepared(**fraction, **{"model.width": 4}), prepared(**fraction)
    expected = [x.clock.work.up_bits[0, 0] for x in (narrow, whole, whole)]
    assert run.clock.work.up_bits[0].tolist() == expected


def test_who_gives_nothing_up_is_let_be():
    """Shares of 1, and a rule without a deadline, stand in nobody's way."""
    run = prepared(**{"sites.widths": [1.0], "sparsity": {}, "model.norm": "group"})
    assert run.simulation.spec.sparsifier is not None
    prepared(**{"sites.late": "sends_less"})


def test_offers_are_of_whole_channels():
    config = config_of(SMALL, {"model.width": 4, "sites.late": "narrower", "sites.deadline": 1.0})
    assert [offer.widths for offer in levers.offers(config, 2)] == [
        (1.0, 1.0),
        (0.5, 0.5),
        (0.25, 0.25),
    ]


def test_strategy_options_are_left_as_they_are():
    config = Config(
        strategy=StrategyConfig(compression="top_k", compression_options={"fraction": 0.5})
    )
    assert levers.of_config(config) == levers.Levers()
