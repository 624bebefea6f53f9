"""A round's masks as a file, for any system that can read one."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lipsjax.deploy.flower.masks import mask, mask_of_torch
from lipsjax.models import weights


def masks_of(
    arrays: Mapping[str, np.ndarray],
    gradients: Mapping[str, np.ndarray],
    density: float,
    *,
    torch_layout: bool = False,
) -> dict[str, np.ndarray]:
    """Return the mask of every array that has a gradient.

    Args:
      arrays: weights by name.
      gradients: by the names of those that are masked.
      density: kept fraction of each, in (0, 1].
      torch_layout: whether arrays lie as PyTorch has them; then of equal scores those are kept
        that come first in the simulator's layout.

    Returns:
      True where a weight is kept, by name.

    Raises:
      ValueError: for a density out of range, or gradients that are not of these arrays.

    Example:
      >>> held = {"conv": np.array([1.0, -3.0]), "head": np.ones(2)}
      >>> masks_of(held, {"conv": np.ones(2)}, 0.5)["conv"].tolist()
      [False, True]
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], not {density}")
    lacking = [name for name in gradients if name not in arrays]
    if lacking:
        raise ValueError(
            f"there is a gradient of {lacking[0]!r}, and the weights are "
            f"{', '.join(sorted(arrays))}"
        )
    chosen = mask_of_torch if torch_layout else mask
    return {name: chosen(arrays[name], g, density, name) for name, g in gradients.items()}


def write_masks(
    path: Path, weights_file: Path, gradients_file: Path, density: float, *, torch_layout: bool
) -> dict[str, np.ndarray]:
    """Write the masks of two safetensors files, weights and gradients, as a third; return them.

    Raises:
      ValueError: as :func:`masks_of`, or for a file that cannot be read.
    """
    arrays, gradients = (weights.read(file).arrays for file in (weights_file, gradients_file))
    masks = masks_of(arrays, gradients, density, torch_layout=torch_layout)
    weights.write(path, masks)
    return masks
