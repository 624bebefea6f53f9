"""Distortions of training images, inside the compiled step; nothing is stored twice.

Each draws from one key per image, so that an image's distortion depends on nothing else. Pixels
from beyond the border are 0.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from lipsjax.datasets.base import INPUTS
from lipsjax.types import Array

Augment = Callable[[Array, Array], Array]
"""(keys [B], images [B, H, W, C]) -> images of the same shape and type."""


def flip(key: Array, image: Array) -> Array:
    """Mirror an image, left to right, with chance 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def crop(key: Array, image: Array) -> Array:
    """Move an image by up to an eighth of its sides, each way, all moves alike.

    For 32 x 32 pixels that is the usual random crop after padding by 4.
    """
    height, width, _ = image.shape
    by = jnp.array([height // 8, width // 8])
    start = jax.random.randint(key, (2,), 0, 2 * by + 1)
    padded = jnp.pad(image, [(n, n) for n in (height // 8, width // 8)] + [(0, 0)])
    return jax.lax.dynamic_slice(padded, (*start, 0), image.shape)


def rotate(key: Array, image: Array, degrees: float = 15) -> Array:
    """Turn an image about its middle by an angle from -15 to 15 degrees, all alike.

    Pixels are interpolated linearly; whole numbers are rounded again.
    """
    angle = jax.random.uniform(key, (), jnp.float32, -1, 1) * jnp.deg2rad(degrees)
    return turned(image, angle)


def turned(image: Array, angle: Array) -> Array:
    """Return an image [H, W, C] turned about its middle by an angle, in radians.

    Example:
      >>> image = jnp.arange(9.0).reshape(3, 3, 1)
      >>> turned(image, jnp.float32(jnp.pi / 2))[..., 0].round(3).tolist()
      [[6.0, 3.0, 0.0], [7.0, 4.0, 1.0], [8.0, 5.0, 2.0]]
    """
    height, width, _ = image.shape
    middle = jnp.array([height - 1, width - 1], jnp.float32) / 2
    y, x = jnp.meshgrid(
        jnp.arange(height, dtype=jnp.float32) - middle[0],
        jnp.arange(width, dtype=jnp.float32) - middle[1],
        indexing="ij",
    )
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    source = jnp.stack([cos * y - sin * x + middle[0], sin * y + cos * x + middle[1]])
    whole = jnp.issubdtype(image.dtype, jnp.integer)
    values = image.astype(jnp.float32) if whole else image

    def channel(plane):
        return map_coordinates(plane, list(source.astype(plane.dtype)), order=1, mode="constant")

    out = jax.vmap(channel, in_axes=-1, out_axes=-1)(values)
    return (jnp.round(out) if whole else out).astype(image.dtype)


AUGMENTATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "flip": flip,
    "crop": crop,
    "rotate": rotate,
}


def augmentation(names: Sequence[str], input_shape: Sequence[int]) -> Augment | None:
    """Return the distortions of that name, one after the other; None for none.

    Args:
      names: of :data:`AUGMENTATIONS`, each at most once.
      input_shape: [H, W, channels]; series and features have no distortions.

    Raises:
      ValueError: for a name that does not exist or is given twice, or inputs that are no images.

    Example:
      >>> distort = augmentation(["flip", "crop"], (8, 8, 1))
      >>> keys = jax.random.split(jax.random.key(0), 2)
      >>> distort(keys, jnp.ones((2, 8, 8, 1))).shape
      (2, 8, 8, 1)
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise ValueError(f"augmentation must be among {', '.join(AUGMENTATIONS)}, not {name!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"augmentation must name each at most once, not {list(names)}")
    if not names:
        return None
    if len(input_shape) != 3:
        kind = INPUTS.get(1 + len(input_shape), "inputs")
        raise ValueError(
            f"augmentation {', '.join(names)} is of images alone, and the data are {kind}: leave "
            "it out"
        )

    def one(key, image):
        for name, own in zip(names, jax.random.split(key, len(names)), strict=True):
            image = AUGMENTATIONS[name](own, image)
        return image

    return jax.vmap(one)
