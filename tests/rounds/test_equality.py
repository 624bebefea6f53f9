"""Version 0.1.0's figures, where they were right: float64 to 1e-9, with identical masks.

``python tests/helpers/equality.py`` holds all configurations; here are some with much in them, and
none that draws normal numbers, whose last bits depend on how XLA compiles.
"""

import numpy as np
import pytest

from helpers import equality


def test_every_recorded_configuration_is_held():
    recorded = {name.split("|")[0] for name in np.load(equality.RECORDED).files}
    assert recorded == set(equality.CASES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["lips stored", "ditto, top_k, lips", "fedpart", "dropout", "scaffold"]
)
def test_figures_of_0_1(name):
    recorded = equality.record(name, np.float64)
    worst, same_masks = equality.distance(name, recorded, np.load(equality.RECORDED))
    assert worst < 1e-9
    assert same_masks
