"""What can be summed blindly, as the code says it, is what `docs/privacy.md` says."""

from pathlib import Path

import pytest

from helpers import worlds
from lipsjax import models, strategies, transient_sparsity
from lipsjax.local import LocalTraining
from lipsjax.simulation import build
from lipsjax.strategies import compress, fedavg, secure
from lipsjax.strategy import check_wraps

PAGE = Path(__file__).parents[2] / "docs" / "privacy.md"


def faulty(inner):
    return strategies.faulty(inner, clients=1, kind="noise", num_classes=4)


STRATEGIES = {
    "fedavg": fedavg,
    "fedprox": lambda: strategies.fedprox(mu=0.1),
    "fedavgm, fedadagrad, fedadam, fedyogi": strategies.fedadam,
    "moon": strategies.moon,
    "ditto": lambda: strategies.ditto(fedavg()),
    "fedper, fedrep, fedbabu, keep_local": lambda: strategies.keep_local(fedavg(), models.is_norm),
    "submodels": lambda: strategies.submodels(fedavg(), widths=(0.5,)),
    "scaffold": strategies.scaffold,
    "feddyn": strategies.feddyn,
    "fedbuff": strategies.fedbuff,
    "fednova": strategies.fednova,
    "feddst": strategies.feddst,
    "local": strategies.local,
    "top_k": lambda: compress(fedavg(), strategies.top_k()),
    "quantise": lambda: compress(fedavg(), strategies.quantise()),
    "sign_majority": lambda: strategies.sign_majority(fedavg()),
    "clip": lambda: strategies.clip(fedavg(), norm=1.0),
    "private": lambda: strategies.private(fedavg(), clip=1.0, noise_multiplier=1.0),
    "private_examples": lambda: strategies.private_examples(
        fedavg(), clip=1.0, noise_multiplier=1.0
    ),
    "faulty": lambda: faulty(fedavg()),
    "median": lambda: strategies.median(fedavg()),
    "trimmed_mean": lambda: strategies.trimmed_mean(fedavg()),
}
MASKS = {
    "masks of random, of magnitude, or that clients choose": {},
    "masks that all share by magnitude": {"criterion": "magnitude", "sharing": "shared"},
    "masks that all share by gradients": {"sharing": "shared"},
    "masks that hold for a whole round": {"hold": float("inf")},
}


def because(make):
    """Say why something is refused; "" if it is not."""
    try:
        make()
    except ValueError as error:
        return str(error)
    return ""


def with_masks(options):
    masked = transient_sparsity(secure(fedavg(), clip=1.0), **options)
    data = worlds.world([3, 4])
    training = LocalTraining(worlds.optax.sgd(0.1), 1, 4)
    return build(worlds.tiny_model(norm="group"), masked, training, rounds=2, data=data)


def lines():
    for name, make in STRATEGIES.items():
        reason = make().unsummable
        yield f"| {name} | {f'no: {reason}' if reason else 'yes'} |"
    for name, options in MASKS.items():
        reason = because(lambda options=options: with_masks(options))
        yield f"| {name} | {f'no: {reason}' if reason else 'yes'} |"


def test_the_page_has_the_table_that_the_code_makes():
    table = "\n".join(lines())
    assert table in PAGE.read_text(), f"docs/privacy.md should have\n\n{table}"


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_said_is_what_happens(name):
    strategy = STRATEGIES[name]()
    assert bool(strategy.unsummable) == bool(because(lambda: check_wraps(strategy, "secure")))
