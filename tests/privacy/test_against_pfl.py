"""The noise that a setting of pfl-research asks for, against the accountant of pfl itself.

Run where pfl is installed (``pip install pfl prv-accountant multiprocess``); they are no extra, as
pfl asks for versions of its own.
"""

import pytest

from lipsjax.privacy import Ledger, Release, epsilon, noise_multiplier

pytest.importorskip("dp_accounting")
accountants = pytest.importorskip("pfl.privacy.privacy_accountant")

SETTING = {"epsilon": 2.0, "delta": 1e-6}
COHORT, POPULATION, ROUNDS = 1000, 1_000_000, 1500
"""Of the noise: what a federation of that size would draw; rounds as in its CIFAR-10 benchmark."""


def test_noise_is_that_of_pfl():
    theirs = accountants.PLDPrivacyAccountant(
        num_compositions=ROUNDS,
        sampling_probability=COHORT / POPULATION,
        mechanism="gaussian",
        min_bound_noise_parameter=0.4,
        **SETTING,
    )
    mine = noise_multiplier(2.0, 1e-6, sampling=COHORT / POPULATION, rounds=ROUNDS)
    assert mine == pytest.approx(theirs.noise_parameter, rel=2e-3)
    release = Release(theirs.noise_parameter, COHORT / POPULATION, ROUNDS)
    ledger = Ledger("client", "add_or_remove_one", (release,), 1e-6)
    assert epsilon(ledger) == pytest.approx(2.0, rel=5e-3)
