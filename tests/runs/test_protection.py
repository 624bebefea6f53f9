"""Privacy and secure sums from the command line: what is recorded, and what is refused."""

import json

import pytest

from helpers import commands
from helpers.commands import refusal
from lipsjax.privacy import epsilon
from lipsjax.runs.config import Execution
from lipsjax.runs.replay import open_run

PLAIN = (*commands.MLP[:4], "--model.norm", "none", "--rounds", "3")
GUARDED = ("--privacy.clip", "0.5", "--privacy.noise-multiplier", "4")


def rows(out):
    return [
        json.loads(x) for x in (commands.run_dir(out) / "metrics.jsonl").read_text().splitlines()
    ]


def test_every_round_records_what_has_been_spent(tmp_path):
    ended = commands.run(tmp_path, *PLAIN, *GUARDED)
    assert ended.status == 0, ended
    spec = open_run(commands.run_dir(tmp_path), Execution()).prepared.simulation.spec
    ledger = spec.strategy.ledger(spec.run)
    spent = [row["epsilon"] for row in rows(tmp_path)]
    assert spent == [epsilon(ledger.first(t + 1)) for t in range(3)]
    assert spent == sorted(spent)


def test_what_protects_examples_records_what_each_site_has_spent(tmp_path):
    of_examples = (*GUARDED, "--privacy.unit", "example", "--local.epochs", "2")
    ended = commands.run(tmp_path, *PLAIN, *of_examples)
    assert ended.status == 0, ended
    spec = open_run(commands.run_dir(tmp_path), Execution()).prepared.simulation.spec
    ledger = spec.strategy.ledger(spec.run)
    assert (ledger.unit, ledger.releases[0].rounds) == ("example", 6)
    assert [row["epsilon"] for row in rows(tmp_path)] == [
        epsilon(ledger.first(t + 1)) for t in range(3)
    ]


@pytest.mark.slow
def test_without_noise_no_epsilon_is_recorded(tmp_path):
    ended = commands.run(tmp_path, *PLAIN, *GUARDED[:2], "--privacy.noise-multiplier", "0")
    assert ended.status == 0, ended
    assert [row["epsilon"] for row in rows(tmp_path)] == [None] * 3


def test_secure_sums_are_counted_and_what_they_cut(tmp_path):
    plain, secure = tmp_path / "plain", tmp_path / "secure"
    assert commands.run(plain, *PLAIN).status == 0
    ended = commands.run(secure, *PLAIN, "--secure.bits", "16", "--secure.clip", "4")
    assert ended.status == 0, ended
    first, second = rows(plain)[0], rows(secure)[0]
    assert second["uplink_bits"] > first["uplink_bits"]
    assert second["share_cut"] == 0
    assert second["loss_train"] == pytest.approx(first["loss_train"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--privacy.epsilon", "8"), "privacy.epsilon needs privacy.clip"),
        (("--privacy.noise-multiplier", "1"), "privacy.noise_multiplier needs privacy.clip"),
        (("--privacy.adaptive", "0.5"), "privacy.adaptive needs privacy.clip"),
        (("--privacy.delta", "1e-6"), "privacy.delta needs privacy.clip"),
        (("--privacy.noise-cohort-size", "9"), "privacy.noise_cohort_size needs privacy.clip"),
        ((*GUARDED, "--privacy.noise-cohort-size", "2"), "must be at least 3, the clients"),
        (("--privacy.clip", "1"), "either noise_multiplier or epsilon, and not both"),
        ((*GUARDED, "--privacy.epsilon", "8"), "either noise_multiplier or epsilon, and not both"),
        ((*GUARDED, "--privacy.delta", "0.5"), "delta must be below 1 / 3, the clients, not 0.5"),
        ((*GUARDED, "--model.norm", "batch"), "--model.norm group"),
        ((*GUARDED, "--strategy.cohort", "2"), "--participation.sampling poisson"),
        ((*GUARDED, "--strategy.name", "scaffold"), "messages are more than models"),
        (("--privacy.unit", "example"), "privacy.unit needs privacy.clip"),
        (
            (*GUARDED, "--privacy.unit", "example", "--privacy.reference", "received"),
            "privacy.reference is of clients' updates",
        ),
        (
            (*GUARDED, "--privacy.unit", "example", "--privacy.adaptive", "0.5"),
            "privacy.adaptive is of clients' updates",
        ),
        ((*GUARDED, "--secure.bits", "16"), "too small for its ledger"),
        ((*GUARDED, "--strategy.aggregation", "median"), "its noise is for a sum"),
        ((*GUARDED, "--model.normalise", "True"), "goes with no model.normalise"),
        (("--secure.bits", "40"), "bits must be in 2..24, not 40"),
        (("--participation.sampling", "poisson"), "needs a cohort below 3, the clients"),
    ],
)
def test_what_protects_nobody_is_refused(tmp_path, argv, words):
    assert words in refusal(commands.run(tmp_path, *PLAIN, *argv))
    assert commands.nothing_left(tmp_path)
