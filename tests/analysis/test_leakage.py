"""What recorded attacks come to: means, intervals, and what a null model gives."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from lipsjax.analysis.leakage import (
    _areas,
    _true_positives,
    leaks,
    membership,
    tell_apart,
)
from lipsjax.analysis.stats import mean_interval
from lipsjax.recording.attacks import AttackRecording


def attack(rows, name="cosine", attacker="aware", t=1):
    about = {"attack": name, "attacker": attacker, "round": t, "threat": "a server"}
    return AttackRecording(about, rows, f"{t}-{name}-{attacker}-0", Path())


def images(client, identified):
    rest = dict.fromkeys(("mse", "mse_of_mean", "psnr"), [0.1] * len(identified))
    return {"client": client, "identified": identified, "ssim": [None] * len(identified), **rest}


def test_of_one_seed_an_interval_is_over_victims():
    rows = [images(0, [1.0, 0.0]), images(1, [1.0, 1.0]), images(2, [0.0, 0.0])]
    (found, *_) = (x for x in leaks([[attack(rows)]]) if x.measure == "identified")
    assert found.over == "victims"
    assert found.interval == mean_interval([0.5, 1.0, 0.0])


def test_of_several_it_is_over_the_seeds_means():
    first = [images(0, [1.0]), images(1, [0.0])]
    second = [images(0, [1.0]), images(1, [1.0])]
    found = [x for x in leaks([[attack(first)], [attack(second)]]) if x.measure == "identified"]
    assert [(x.over, x.victims) for x in found] == [("seeds", 4)]
    assert found[0].interval == mean_interval([0.5, 1.0])


def test_attackers_and_rounds_are_kept_apart():
    runs = [[attack([images(0, [1.0])], attacker=a, t=t) for a in ("aware", "unaware")]
            for t in (3, 1)]  # fmt: skip
    found = [(x.round, x.attacker) for x in leaks(runs) if x.measure == "identified"]
    assert found == [(1, "aware"), (1, "unaware"), (3, "aware"), (3, "unaware")]


@pytest.mark.parametrize("seed", range(5))
def test_true_and_false_positives_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    members, others = rng.normal(0.7, size=150).round(1), rng.normal(size=400).round(1)
    found = tell_apart(members, others, false_positives=0.05)
    truth = np.r_[np.ones(150), np.zeros(400)]
    scores = np.r_[members, others]
    assert found.auc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert found.true_positives == pytest.approx(true[false <= 0.05].max(), abs=1e-12)
    assert found.false_positives <= 0.05


def victims(rng, shift, count=40, each=25):
    """Return scores of victims whose members are shifted, each victim on a level of its own."""
    rows = []
    for client in range(count):
        level = rng.normal()
        members, others = level + shift + rng.normal(size=each), level + rng.normal(size=each)
        scores = dict.fromkeys(("loss", "global", "lira", "fedmia"), None)
        rows.append(
            {
                "client": client,
                "members": {name: members.tolist() for name in scores},
                "others": {name: others.tolist() for name in scores},
            }
        )
    return rows


def test_a_null_model_gives_one_percent_within_its_interval():
    rng = np.random.default_rng(0)
    held = total = 0
    for _ in range(20):
        found = membership([victims(rng, 0.0)])["loss tpr"]
        held += found.low <= 0.01 <= found.high
        total += 1
    assert held / total >= 0.8
    found = membership([victims(rng, 0.0)])
    assert found["loss auc"].low <= 0.5 <= found["loss auc"].high


def test_members_that_score_higher_are_found():
    found = membership([victims(np.random.default_rng(1), 2.0)])
    assert found["lira auc"].low > 0.7
    assert found["lira tpr"].low > 0.01


def test_victims_that_count_several_times_are_as_if_they_were_there_so_often():
    rng = np.random.default_rng(3)
    members = [rng.normal(size=n).round(1) for n in (30, 20, 50)]
    others = [rng.normal(size=n).round(1) for n in (60, 110, 90)]
    times = np.array([[1, 1, 1], [2, 0, 1], [0, 3, 1]])
    areas, positives = _areas(members, others, times), _true_positives(members, others, times)
    for counts, area, positive in zip(times, areas, positives, strict=True):
        chosen = np.repeat(np.arange(3), counts)
        apart = tell_apart(
            np.concatenate([members[i] for i in chosen]),
            np.concatenate([others[i] for i in chosen]),
        )
        assert area == pytest.approx(apart.auc, abs=1e-12)
        assert positive == pytest.approx(apart.true_positives, abs=1e-12)
