"""From a ledger to epsilon, and back from epsilon to noise, by dp-accounting (extra `privacy`)."""

import functools
import math
from typing import Any, Literal

from lipsjax.privacy.ledger import Ledger, Release

Accountant = Literal["pld", "rdp"]
ACCOUNTANTS = ("pld", "rdp")
"""Privacy loss distributions, which are tight, and Renyi differential privacy, which is older."""
ROUNDING = 1e-9
"""Of noise above the least, so that epsilon is not above its target by the last digit."""
HOPELESS = 100.0
"""Beyond it Renyi's epsilon is given for the tight one, whose distributions fill the memory."""


@functools.lru_cache(maxsize=4096)
def epsilon(ledger: Ledger, *, accountant: Accountant = "pld") -> float:
    """Return the epsilon that a ledger spends at its delta; inf: none can be given.

    By "pld" where nobody is drawn it is in closed form, as Gaussians one after the other are one
    Gaussian; and where more than 100 are spent of drawn clients, that of "rdp", which is larger.

    Args:
      ledger: what is released; its chance of failure is a part of its delta.
      accountant: "pld" or "rdp".

    Raises:
      ValueError: for a delta out of range, or without dp-accounting.

    References:
      Doroshenko et al., "Connect the Dots: Tighter Discrete Approximations of Privacy Loss
      Distributions", arXiv 2207.04380; Mironov, "Renyi Differential Privacy", arXiv 1702.07476.

    Example:
      >>> ledger = Ledger("client", "add_or_remove_one", (Release(4.0, 1.0, 40),), 1e-2)
      >>> [round(epsilon(ledger, accountant=a), 3) for a in ACCOUNTANTS]
      [4.322, 5.037]
    """
    check_delta(ledger.delta)
    if accountant not in ACCOUNTANTS:
        raise ValueError(f"accountant must be one of {', '.join(ACCOUNTANTS)}, not {accountant!r}")
    left = ledger.delta - ledger.failure
    if left <= 0:
        return math.inf
    releases = [r for r in ledger.releases if r.rounds]
    if not releases:
        return 0.0
    if any(r.noise_multiplier == 0 for r in releases):
        return math.inf
    if accountant == "pld" and all(r.sampling == 1 for r in releases):
        together = sum(r.rounds / r.noise_multiplier**2 for r in releases) ** -0.5
        return float(_library().get_epsilon_gaussian(together, left))

    def by(name: Accountant) -> float:
        found = _accountant(name, ledger)
        for release in releases:
            found.compose(_event(release), release.rounds)
        return float(found.get_epsilon(left))

    older = by("rdp")
    return older if accountant == "rdp" or older > HOPELESS else by("pld")


@functools.lru_cache(maxsize=256)
def noise_multiplier(
    target: float, delta: float, *, sampling: float, rounds: int, failure: float = 0.0
) -> float:
    """Return the least noise multiplier that keeps rounds within some epsilon, by PLD.

    Args:
      target: epsilon, above 0.
      delta: of (epsilon, delta), from which the chance of failure is taken.
      sampling: chance of a unit to be in a round.
      rounds: releases, one after the other.
      failure: as of :class:`~lipsjax.privacy.ledger.Ledger`.

    Raises:
      ValueError: for a value out of range, or without dp-accounting.

    Example:
      >>> z = noise_multiplier(8.0, 1e-5, sampling=1.0, rounds=40)
      >>> ledger = Ledger("client", "add_or_remove_one", (Release(z, 1.0, 40),), 1e-5)
      >>> 7.99 < epsilon(ledger) <= 8.0
      True
    """
    check_noise(None, target, delta)
    if delta <= failure:
        raise ValueError(
            f"delta must be above {failure:g}, the chance that a round has more clients than "
            f"slots, not {delta:g}"
        )
    library = _library()
    if sampling == 1:
        of_one = float(library.get_sigma_gaussian(target, delta - failure))
        return of_one * math.sqrt(rounds) * (1 + ROUNDING)

    def event(z: float) -> Any:
        return library.SelfComposedDpEvent(_event(Release(z, sampling, rounds)), rounds)

    def least(make: Any, bracket: Any) -> float:
        return float(
            library.calibrate_dp_mechanism(make, event, target, delta - failure, bracket, tol=1e-4)
        )

    # PLD takes long where there is far too little noise, so RDP, which asks for more, goes first
    enough = least(library.rdp.RdpAccountant, library.LowerEndpointAndGuess(0.01, 1.0))
    if target > HOPELESS:
        return enough
    bracket = library.ExplicitBracketInterval(enough / 2, enough * 1.01)
    found = least(library.pld.PLDAccountant, bracket)
    # where Renyi's epsilon would be given for it, that must keep within the target too
    older = library.rdp.RdpAccountant().compose(event(found)).get_epsilon(delta - failure)
    return found if older <= HOPELESS else enough


def check_delta(delta: float) -> None:
    """Raise ValueError if delta is not in (0, 1)."""
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), not {delta}")


def check_noise(noise_multiplier: float | None, epsilon: float | None, delta: float) -> None:
    """Raise ValueError unless one of noise and epsilon is given, and in its range."""
    if (noise_multiplier is None) == (epsilon is None):
        raise ValueError("privacy needs either noise_multiplier or epsilon, and not both")
    if noise_multiplier is not None and not 0 <= noise_multiplier < math.inf:
        raise ValueError(f"noise_multiplier must be at least 0 and finite, not {noise_multiplier}")
    if epsilon is not None and not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be above 0 and finite, not {epsilon}")
    check_delta(delta)


def _event(release: Release) -> Any:
    library = _library()
    event = library.GaussianDpEvent(release.noise_multiplier)
    if release.sampling < 1:
        event = library.PoissonSampledDpEvent(release.sampling, event)
    return event


def _accountant(name: str, ledger: Ledger) -> Any:
    library = _library()
    relation = library.NeighboringRelation[ledger.relation.upper()]
    if name == "pld":
        return library.pld.PLDAccountant(relation)
    return library.rdp.RdpAccountant(neighboring_relation=relation)


def check_installed() -> None:
    """Raise ValueError if epsilon cannot be counted here."""
    _library()


def _library() -> Any:
    try:
        import dp_accounting
        import dp_accounting.pld
        import dp_accounting.rdp
    except ImportError:
        raise ValueError(
            "epsilon is counted by dp-accounting: pip install 'lipsjax[privacy]'"
        ) from None
    return dp_accounting
