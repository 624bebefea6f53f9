"""What each class of devices has for its money, on the page and in files, by hand."""

import csv
import math

import numpy as np
import pytest

from helpers import fake_study
from lipsjax import recording
from lipsjax.analysis.comparison import compare
from lipsjax.analysis.money import spendings
from lipsjax.report import hours
from lipsjax.report.glossary import WORDS
from lipsjax.report.html import render
from lipsjax.report.markdown import markdown

# seed -> accuracy of each of four sites: two with a pi, one with a rig, one with a device that has
# no price
ENDS = {
    "dense": [[0.80, 0.80, 0.90, 0.5], [0.82, 0.82, 0.90, 0.5], [0.84, 0.84, 0.90, 0.5]],
    "local": [[0.70, 0.70, 0.90, 0.5], [0.74, 0.74, 0.90, 0.5], [0.72, 0.72, 0.90, 0.5]],
    "fewer": [[0.78, 0.80, 0.90, 0.6], [0.81, 0.79, 0.90, 0.6], [0.80, 0.82, 0.90, 0.6]],
    "longer": [[0.84, 0.84, 0.91, 0.6], [0.86, 0.86, 0.92, 0.6], [0.88, 0.88, 0.93, 0.6]],
    "left-out": [[0.7, 0.7, 0.9, 0.5]] * 3,
}
SECONDS = {"dense": 360.0, "local": 36.0, "fewer": 180.0, "longer": 540.0, "left-out": 360.0}
PRICES = {"pi": 1.0, "rig": 4.0, "own": 0.0}
T2 = 4.302652729911275  # Student's t of two degrees of freedom at 97.5%


def study_of(path, arms, *, prices=PRICES, seeds=3):
    """A study of ten turns a site; who is left out has none on its pis."""
    fake_study.write_study(path, arms=arms, seeds=seeds, rounds=4, clients=4, test_examples=1000)
    study = fake_study.with_sites(recording.read_study(path), ENDS)

    def sited(trial):
        devices = [
            {
                "name": name,
                "turns": 0.0 if (trial.arm, name) == ("left-out", "pi") else 10.0,
                "steps": 1.0,
                "turn_seconds": SECONDS[trial.arm],
                "price_per_hour": prices[name],
            }
            for name in ("pi", "pi", "rig", "own")
        ]
        run = trial.recording
        rounds = len(run.scalars["round"])
        clock = {"simulated_seconds": np.full(rounds, 60.0), "idle_share": np.zeros(rounds)}
        setup = run.setup | {"devices": devices}
        return trial._replace(recording=run._replace(setup=setup, scalars=run.scalars | clock))

    return study._replace(trials=tuple(map(sited, study.trials)))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return study_of(tmp_path_factory.mktemp("money"), tuple(ENDS))


def found_of(study):
    return {(each.arm, each.devices): each for each in spendings(study)}


def test_the_return_over_training_alone_by_hand(study):
    """Two pis for an hour each at 1; 10, 8 and 12 points more than alone."""
    found = found_of(study)["dense", "pi"]
    assert found.cost[:3] == (2.0, 2.0, 2.0)
    assert found.alone.arm == "local"
    assert found.alone.points.mean == pytest.approx(10.0)
    half = T2 * 2 / math.sqrt(3) / 2  # points per unit of money
    assert found.returned[:3] == pytest.approx((5.0, 5.0 - half, 5.0 + half))
    assert (found.reference, found.lever.n) == (None, 0)
    rig = found_of(study)["dense", "rig"]  # no better than alone, in any seed
    assert rig.returned.mean == pytest.approx(0.0)
    assert rig.returned.low < 0 < rig.returned.high  # a test example is a test example
    assert found_of(study)["local", "pi"].alone is None


def test_levers_against_the_reference_by_hand(study):
    """Half the hours for 1, 2 and 3 points less; half as many more for 4 points more in each."""
    fewer, longer = (found_of(study)[arm, "pi"] for arm in ("fewer", "longer"))
    assert fewer.reference.arm == "dense"
    assert fewer.reference.cost.mean == pytest.approx(-1.0)
    assert fewer.saves
    half = T2 / math.sqrt(3)
    assert fewer.lever[:3] == pytest.approx((-2.0, -2.0 - half, -2.0 + half))
    assert not longer.saves
    assert longer.reference.cost.mean == pytest.approx(1.0)
    half = T2 * 100 / (2 * 1000) / math.sqrt(3)  # one test example of two sites
    assert longer.lever[:3] == pytest.approx((4.0, 4.0 - half, 4.0 + half))
    rig = found_of(study)["longer", "rig"]  # 2 points for 2 of money more
    assert rig.lever.mean == pytest.approx(1.0)


def test_no_number_where_a_cost_is_unknown_or_zero(study):
    found = found_of(study)
    for arm in ENDS:
        own = found[arm, "own"]
        assert all(math.isnan(x.mean) for x in (own.cost, own.returned, own.lever))
    out = found["left-out", "pi"]
    assert out.cost.mean == 0.0
    assert math.isnan(out.returned.mean)
    assert out.lever.mean == pytest.approx(-6.0)  # 12 points less, and all of 2 is saved
    same = found["left-out", "rig"]
    assert same.reference.cost.mean == 0.0
    assert math.isnan(same.lever.mean)


def test_one_seed_gives_no_ratio(tmp_path):
    found = found_of(study_of(tmp_path, ("dense", "local", "fewer"), seeds=1))
    assert found["fewer", "pi"].reference.points.mean == pytest.approx(-1.0)
    assert math.isnan(found["fewer", "pi"].lever.mean)
    assert math.isnan(found["dense", "pi"].returned.mean)


def test_the_table(study):
    head, *lines = hours.money_lines(study)
    assert head == [
        *("arm", "devices", "cost", "points over local", "return, points per 1", "against"),
        *("cost, difference", "points, difference", "lever, points per 1"),
    ]
    assert len(lines) == len(ENDS) * len(PRICES)
    found = {(line[0], line[1]): line[2:] for line in lines}
    assert found["dense", "pi"][:3] == ["2.00", "+10.0 [5.0, 15.0]", "+5 [2.52, 7.48]"]
    assert found["dense", "pi"][3:] == ["", "", "", ""]
    assert found["fewer", "pi"][3:5] == ["dense", "-1.00"]
    assert found["fewer", "pi"][5:] == ["-2.0 [-4.5, 0.5]", "-2 [-4.48, 0.484] saved"]
    assert found["longer", "pi"][4] == "+1.00"
    assert found["longer", "pi"][6].endswith(" more")
    assert found["left-out", "rig"][4:] == ["0.00", "+0.0 [-0.2, 0.2]", ""]
    own = found["fewer", "own"]
    assert (own[0], own[2], own[4], own[6]) == ("", "", "", "")


def test_small_costs_are_shown_per_a_small_unit(tmp_path):
    """A hundredth of the prices: a hundred times as many points for 1, and as many for 0.01."""
    prices = {name: price / 100 for name, price in PRICES.items()}
    few = study_of(tmp_path, ("dense", "local"), prices=prices)
    head, line, *_ = hours.money_lines(few)
    assert head[4] == "return, points per 0.01"
    assert line[4] == "+5 [2.52, 7.48]"


@pytest.mark.usefixtures("sketched")
def test_the_page_and_markdown_show_it(study):
    page, text = render(study), markdown(study)
    for shown in (page, text):
        assert "What accuracy costs" in shown
        assert "Points over local".lower() in shown.lower()
        assert hours.WITHOUT_ALONE not in shown
    assert "−2 [−4.48, 0.484] saved" in page
    assert "-2 [-4.48, 0.484] saved" in text.replace("\\", "")
    word = next(word for word in WORDS if word.name == "Return")
    assert page.count(f'href="#{word.anchor}"') == 1


def test_without_an_arm_that_trains_alone_it_says_so(tmp_path):
    lone = study_of(tmp_path, ("dense", "fewer"))
    assert not any("over" in name for name in hours.money_lines(lone)[0])
    assert found_of(lone)["fewer", "pi"].lever.mean == pytest.approx(-2.0)
    assert hours.WITHOUT_ALONE.strip() in markdown(lone)


def test_without_prices_there_is_no_money(tmp_path):
    free = study_of(tmp_path, ("dense", "local"), prices=dict.fromkeys(PRICES, 0.0))
    assert spendings(free) == []
    assert hours.money_lines(free) == []
    assert "What accuracy costs" not in markdown(free)
    assert "cost" not in hours.levers(compare(free))[0]
    file = tmp_path / "device_classes.csv"
    file.write_text("of before")
    assert not hours.write_classes(free, file)
    assert not file.exists()


def test_costs_of_arms(study):
    """All devices that have a price: two pis at 1 and a rig at 4 for an hour."""
    rows = compare(study)
    costs = {row.arm: row.means["device_cost"].mean for row in rows}
    assert costs == pytest.approx(
        {"dense": 6.0, "local": 0.6, "fewer": 3.0, "longer": 9.0, "left-out": 4.0}
    )
    head, first, *_ = hours.levers(rows)
    assert (head[-1], first[-1]) == ("cost", "6.00")
    assert rows[2].differences["device_cost"].interval.mean == pytest.approx(-3.0)


def test_the_file_of_classes(study, tmp_path):
    file = tmp_path / "device_classes.csv"
    assert hours.write_classes(study, file)
    with file.open() as opened:
        rows = {(row["arm"], row["devices"]): row for row in csv.DictReader(opened)}
    assert len(rows) == len(ENDS) * len(PRICES)
    fewer = rows["fewer", "pi"]
    assert (fewer["alone"], fewer["reference"], fewer["lever_per"]) == ("local", "dense", "saved")
    names = ("cost", "alone_points", "return", "reference_cost", "reference_points", "lever")
    means = [float(fewer[f"{name}_mean"]) for name in names]
    assert means == pytest.approx([1.0, 8.0, 8.0, -1.0, -2.0, -2.0])
    assert rows["dense", "own"]["cost_mean"] == rows["dense", "pi"]["lever_low"] == ""
