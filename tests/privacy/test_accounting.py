"""Epsilon against closed forms and published figures; the ledger that it is counted from."""

import math

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from lipsjax.privacy import ACCOUNTANTS, Ledger, Release, epsilon, noise_multiplier

dp_accounting = pytest.importorskip("dp_accounting")
pld = pytest.importorskip("dp_accounting.pld")


def spent(z, count, delta, sampling=1.0, failure=0.0, **options):
    return epsilon(ledger(z, count, delta, sampling, failure), **options)


def ledger(z, count, delta=1e-5, sampling=1.0, failure=0.0):
    return Ledger("client", "add_or_remove_one", (Release(z, sampling, count),), delta, failure)


def exact_epsilon(mu, delta):
    """Of a Gaussian mechanism of sensitivity mu and deviation 1 (Balle and Wang, 1805.06530)."""

    def excess(e):
        spent = norm.cdf(mu / 2 - e / mu) - math.exp(e) * norm.cdf(-mu / 2 - e / mu)
        return spent - delta

    return brentq(excess, 0, 100)


def test_full_participation_is_one_gaussian():
    """40 rounds of z = 4 are one release of sqrt(40) / 4 deviations."""
    exact = exact_epsilon(math.sqrt(40) / 4, 1e-2)
    assert exact == pytest.approx(4.3222, abs=1e-3)
    assert spent(4.0, 40, 1e-2) == pytest.approx(exact, abs=1e-3)
    by_pld = pld.PLDAccountant()
    by_pld.compose(dp_accounting.GaussianDpEvent(4.0), 40)
    assert by_pld.get_epsilon(1e-2) == pytest.approx(exact, abs=1e-3)
    assert spent(4.0, 40, 1e-2, accountant="rdp") == pytest.approx(5.0370, abs=1e-3)


def test_poisson_samples_are_amplified():
    """As published with dp-accounting's own tests of DP-SGD: q 0.01, z 4, 10,000 steps."""
    sampled = ledger(4.0, 10_000, 1e-5, 0.01)
    assert epsilon(sampled) == pytest.approx(0.9470, abs=1e-3)
    assert epsilon(sampled, accountant="rdp") == pytest.approx(1.0355, abs=1e-3)


@pytest.mark.parametrize(("z", "count", "sampling"), [(2.0, 10, 1.0), (1.0, 50, 0.1)])
def test_renyi_never_promises_more(z, count, sampling):
    tight, loose = (spent(z, count, 1e-4, sampling, accountant=a) for a in ACCOUNTANTS)
    assert tight <= loose


@pytest.mark.parametrize("sampling", [1.0, 0.2])
def test_hopeless_noise_is_counted_at_once_and_never_too_low(sampling):
    """Distributions of it would fill the memory: in closed form, or by RDP, which is larger."""
    z, rounds = 0.05, 100
    tight, loose = (spent(z, rounds, 1e-5, sampling, accountant=a) for a in ACCOUNTANTS)
    assert 1e3 < tight <= loose < math.inf
    assert (tight == loose) == (sampling < 1)


@pytest.mark.slow
@pytest.mark.parametrize("target", [85.0, 150.0])
def test_an_epsilon_that_is_asked_for_is_kept_by_whichever_accountant(target):
    """Where RDP, which is larger, takes over from PLD."""
    z = noise_multiplier(target, 1e-5, sampling=0.2, rounds=20)
    assert spent(z, 20, 1e-5, 0.2) <= target


@pytest.mark.parametrize(
    ("target", "sampling"),
    [(8.0, 1.0), (0.5, 1.0), pytest.param(4.0, 0.2, marks=pytest.mark.slow)],
)
def test_noise_is_the_least_that_keeps_within_epsilon(target, sampling):
    z = noise_multiplier(target, 1e-5, sampling=sampling, rounds=20)
    assert spent(z, 20, 1e-5, sampling) <= target
    assert spent(0.99 * z, 20, 1e-5, sampling) > target


def test_a_chance_of_failure_is_taken_from_delta():
    assert spent(4.0, 40, 1e-2, failure=9e-3) == spent(4.0, 40, 1e-2 - 9e-3)
    assert spent(4.0, 40, 1e-2, failure=1e-2) == math.inf


def test_without_noise_there_is_no_epsilon():
    assert spent(0.0, 3, 1e-5) == math.inf
    assert spent(0.0, 0, 1e-5) == 0


def test_the_ledger_of_the_first_rounds():
    assert ledger(4.0, 40).first(3) == ledger(4.0, 3)
    assert ledger(4.0, 40).first(99) == ledger(4.0, 40)


def test_releases_together_are_one():
    """An exact identity of Gaussians: their squared ratios of signal to noise add up."""
    both = Ledger("client", "add_or_remove_one", (Release(3.0, 1.0, 5), Release(4.0, 1.0, 5)), 1e-5)
    together = (3.0**-2 + 4.0**-2) ** -0.5
    assert epsilon(both) == pytest.approx(spent(together, 5, 1e-5), abs=1e-3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: spent(1.0, 1, 0.0), "delta must be in (0, 1), not 0.0"),
        (lambda: spent(1.0, 1, 1.0), "delta must be in (0, 1), not 1.0"),
        (lambda: spent(1.0, 1, 1e-5, accountant="x"), "accountant must be one of pld"),
        (lambda: noise_multiplier(-1.0, 1e-5, sampling=1.0, rounds=1), "epsilon must be above 0"),
        (lambda: noise_multiplier(math.inf, 1e-5, sampling=1.0, rounds=1), "and finite, not inf"),
        (
            lambda: noise_multiplier(1.0, 1e-13, sampling=0.1, rounds=1, failure=1e-12),
            "delta must be above 1e-12, the chance that a round has more clients than slots",
        ),
    ],
)
def test_bad_values_are_refused(call, words):
    with pytest.raises(ValueError) as refused:
        call()
    assert words in str(refused.value)
