"""What a run releases, what that costs in epsilon, and sums that nobody sees the terms of."""

from lipsjax.privacy.accounting import ACCOUNTANTS, epsilon, noise_multiplier
from lipsjax.privacy.audit import epsilon_lower_bound
from lipsjax.privacy.ledger import Ledger, Release

__all__ = ["ACCOUNTANTS", "Ledger", "Release", "epsilon", "epsilon_lower_bound", "noise_multiplier"]
