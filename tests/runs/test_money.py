"""Prices and budgets of a config: who keeps within them, and what is refused."""

import numpy as np
import pytest

from helpers import commands, configs
from helpers.configs import SITED
from lipsjax.runs.config import Config, Execution, SitesConfig, to_dict
from lipsjax.runs.prepare import prepare
from lipsjax.runs.reads import unread

PRICES = {"sites.price_per_hour": [0.5, 1.0, 2.0]}
HEAD = "device,gflops,up_mbit,down_mbit"


def config_of(**changes):
    return configs.config_of(SITED, {"local.epochs": 5, **changes})


def prepared(**changes):
    return prepare(config_of(**changes), Execution(devices=1))


def costs(run):
    """Of each site in the run, as it is recorded."""
    return [
        d["price_per_hour"] * d["turns"] * d["turn_seconds"] / 3600 for d in run.setup["devices"]
    ]


def table_of(tmp_path, columns, *values):
    file = tmp_path / "sites.csv"
    rows = [f"rig,{value}" for value in values]
    file.write_text("\n".join([f"{HEAD},{columns}", *rows]).replace("rig,", "rig,1,1,1,") + "\n")
    return {"sites.devices": [str(file)]}


def test_what_has_no_price_is_recorded_as_before_there_were_any():
    sited = to_dict(Config(sites=SitesConfig(devices=("pi-4",))))["sites"]
    assert not set(sited) & {"budget", "price_per_hour"}
    given = to_dict(config_of(**PRICES, **{"sites.budget": 0.5}))["sites"]
    assert (given["budget"], given["price_per_hour"]) == (0.5, (0.5, 1.0, 2.0))


def test_fields_that_nothing_reads():
    money = {"sites.budget", "sites.price_per_hour", "sites.late"}
    assert money <= unread(Config())
    assert money & unread(config_of()) == {"sites.late"}
    assert not money & unread(config_of(**PRICES, **{"sites.budget": 0.5}))
    assert not money & unread(config_of(**{"sites.devices": ["sites.csv"]}))  # perhaps of budgets


@pytest.mark.parametrize("cohort", [1, pytest.param(None, marks=pytest.mark.slow)])
def test_a_budget_is_spread_over_the_turns_of_a_run(cohort):
    """Half of what all would cost the site that costs most; the others do what they did."""
    changes = {**PRICES, "strategy.cohort": cohort}
    free = prepared(**changes)
    spent = costs(free)
    assert [d["turns"] for d in free.setup["devices"]] == [4 * (cohort or 3) / 3] * 3
    most = int(np.argmax(spent))
    links = prepared(**changes, **{"local.epochs": 1})
    budget = (costs(links)[most] + spent[most]) / 2  # of 6 of 10 steps
    run = prepared(**changes, **{"sites.budget": budget})
    steps = [d["steps"] for d in run.setup["devices"]]
    assert steps == [0.6 if k == most else 1.0 for k in range(3)]
    assert costs(run)[most] == pytest.approx(budget)
    assert max(costs(run)) <= budget * (1 + 1e-9)
    assert run.simulation.spec.participation.limits == tuple(10 * s for s in steps)


def test_a_table_may_hold_prices_budgets_or_both(tmp_path):
    rows = ["2,0.1", "2,", "2,0.5"]
    run = prepared(**table_of(tmp_path, "price_per_hour,budget", *rows))
    assert [d["budget"] for d in run.setup["devices"]] == [0.1, None, 0.5]
    assert [d["price_per_hour"] for d in run.setup["devices"]] == [2.0] * 3
    only = prepared(**table_of(tmp_path, "budget", 0.5, 0.5, 0.5), **PRICES)
    assert [d["price_per_hour"] for d in only.setup["devices"]] == [0.5, 1.0, 2.0]
    for_all = {"sites.budget": 1.5 * costs(run)[0], "sites.late": "left_out"}
    one = prepared(**table_of(tmp_path, "price_per_hour", 2, 2, 4), **for_all)
    assert [d["turns"] for d in one.setup["devices"]] == [4.0, 4.0, 0.0]


@pytest.mark.slow  # compiles three widths
def test_who_is_over_the_budget_may_train_a_narrower_model():
    changes = {**PRICES, "model.width": 64, "sites.late": "narrower"}
    spent = costs(prepared(**changes))
    run = prepared(**changes, **{"sites.budget": 0.5 * max(spent)})
    widths = [d["width"] for d in run.setup["devices"]]
    assert widths[int(np.argmax(spent))] in (0.25, 0.5)
    assert max(costs(run)) <= 0.5 * max(spent)


BUDGET = {"sites.budget": 1.0}
BUFFER = {"strategy.name": "fedbuff", "sites.buffer": 2}
REFUSED = {
    "no devices": ({**BUDGET, "sites.devices": []}, "sites.budget needs sites.devices"),
    "prices alone": ({**PRICES, "sites.devices": []}, "sites.price_per_hour needs sites.devices"),
    "no price": (BUDGET, "a budget of sites needs the price of a device: sites.price_per_hour"),
    "all free": ({**BUDGET, "sites.price_per_hour": [0.0]}, "needs the price of a device"),
    "zero": ({**PRICES, "sites.budget": 0.0}, "sites.budget must be above 0, not 0"),
    "below zero": ({**PRICES, "sites.budget": -2.0}, "sites.budget must be above 0, not -2"),
    "too little": ({**PRICES, "sites.budget": 1e-12}, "sites.budget must be at least "),
    "turns": ({**PRICES, **BUDGET, **BUFFER}, "sites.buffer goes with no budget"),
    "negative price": ({"sites.price_per_hour": [-1.0]}, "must be at least 0, not -1"),
    "prices of two": (
        {"sites.price_per_hour": [1.0, 2.0]},
        "sites.price_per_hour must be one value for all sites, one for each of 3 device classes",
    ),
    "by examples": (
        {**PRICES, **BUDGET, "participation.sampling": "examples", "strategy.cohort": 2},
        "a budget of sites goes with no participation.sampling='examples'",
    ),
}
OF_TABLES = {
    "both prices": ("price_per_hour", (1, 1, 1), PRICES, "the column price_per_hour of the table"),
    "both budgets": (
        "price_per_hour,budget",
        ("1,1", "1,1", "1,1"),
        BUDGET,
        "sites.budget says what the column budget of the table in sites.devices does",
    ),
    "budgets alone": ("budget", (1, 1, 1), {}, "a budget of sites needs the price of a device"),
    "budgets and turns": (
        "price_per_hour,budget",
        ("1,1", "1,", "1,"),
        BUFFER,
        "sites.buffer goes with no budget",
    ),
    "a budget of zero": ("budget", (0, 1, 1), {}, "budget must be a number above 0, not 0"),
    "words": ("budget", ("much", 1, 1), {}, "row 1: budget must be a number, not 'much'"),
    "too little": (
        "price_per_hour,budget",
        ("1,1e-12", "1,1e-12", "1,1e-11"),
        {},
        "sites.budget must be at least ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_before_anything_is_written(case):
    changes, message = REFUSED[case]
    refused(message, changes)


@pytest.mark.parametrize("case", OF_TABLES)
def test_what_is_refused_of_tables(case, tmp_path):
    columns, values, changes, message = OF_TABLES[case]
    refused(message, {**table_of(tmp_path, columns, *values), **changes})


def refused(message, changes):
    with pytest.raises(ValueError) as caught:  # the message is compared below
        prepared(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_least_budget_that_is_named_is_enough():
    with pytest.raises(ValueError, match=r"sites\.budget must be at least") as caught:
        prepared(**PRICES, **{"sites.budget": 1e-12})
    least = float(str(caught.value).split("at least ")[1].split(",")[0])
    run = prepared(**PRICES, **{"sites.budget": least})
    assert sum(d["turns"] > 0 for d in run.setup["devices"]) == 1
    assert 0.98 * least < max(costs(run)) <= least


def test_a_command_says_it_in_one_line_and_leaves_nothing(tmp_path):
    out = tmp_path / "out"
    ended = commands.run(out, "--sites.devices", "pi-4", "--sites.budget", "0.5")
    commands.refusal(ended, "a budget of sites needs the price of a device", "price_per_hour")
    assert commands.nothing_left(out)
