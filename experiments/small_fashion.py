"""Write Fashion-MNIST as pictures of 8 x 8 pixels, small enough for studies of thousands of sites.

    python experiments/small_fashion.py --data-dir DIR results/small_fashion.npz

Each pixel is the mean of 4 x 4, of pictures with a margin of two black pixels. DIR holds TFDS data;
what is missing is downloaded into it.
"""

import argparse
from pathlib import Path

import numpy as np

from lipsjax.datasets import load


def smaller(images: np.ndarray, *, by: int = 4, margin: int = 2) -> np.ndarray:
    """Average squares of grey values, uint8 [N, H, W, C], within a black margin.

    >>> smaller(np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1), by=2, margin=0)[0, :, :, 0]
    array([[ 2,  4],
           [10, 12]], dtype=uint8)
    """
    images = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    n, height, width, channels = images.shape
    squares = images.reshape(n, height // by, by, width // by, by, channels)
    return np.rint(squares.mean(axis=(2, 4))).astype(np.uint8)


def main() -> None:
    """Read, average, write."""
    parser = argparse.ArgumentParser(description="Write Fashion-MNIST as pictures of 8 x 8 pixels.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    data = load("fashion_mnist", data_dir=options.data_dir)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        options.out,
        x_train=smaller(data.train.inputs),
        y_train=data.train.labels,
        x_test=smaller(data.test.inputs),
        y_test=data.test.labels,
    )
    print(f"{len(data.train.labels)} and {len(data.test.labels)} pictures in {options.out}")


if __name__ == "__main__":
    main()
