"""TFDS image classification sets, read from array_record files without TensorFlow.

A set is *prepared* (downloaded and converted) once, by TFDS itself, which needs
TensorFlow and a network; see `how_to_prepare`. It is *read* here as
`tfds.data_source` reads it, but through the prepared directory and not through the
code that generates the set: that code reaches for the network when a version is missing.

References:
  TFDS and random access, https://www.tensorflow.org/datasets/data_source.
"""

import contextlib
import importlib.util
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lipsjax.datasets.base import MOST_PATH, DataError, Dataset, show
from lipsjax.datasets.prepared import check
from lipsjax.types import Examples

_NAME = re.compile(
    r"(?P<set>[a-z]\w*)(/(?P<config>\w[\w.+-]*))?(:(?P<version>\d+\.\d+\.\d+))?", re.ASCII
)
_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
_TEST_SPLITS = ("test", "validation")
_PIL_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # channels -> Pillow's name for them
_BATCH = 4096  # records read at once: few calls, and little memory beside the result


def from_tfds(name: str, data_dir: str | Path) -> Dataset:
    """Reads a prepared TFDS set. Never uses the network.

    The test split is `test`, or `validation` where there is none.

    Args:
      name: as TFDS writes it, `set[/config][:version]`, such as `fashion_mnist`
        or `emnist/balanced`; without a version the newest prepared one is read.
      data_dir: TFDS's data directory, which holds `set[/config]/version/`.

    Returns:
      Images [N, H, W, C] uint8.

    Raises:
      DataError: no such directory, set, configuration or version; files of another
        format than array_record, missing or damaged; features other than one `image`
        of fixed size and one `label`; no test split.
    """
    try:
        folder = _find_prepared(name, Path(data_dir).expanduser())
    except (OSError, RuntimeError) as error:  # RuntimeError: "~name" of nobody
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"data_dir {show(repr(str(data_dir)), MOST_PATH)} cannot be read: {show(reason)}"
        ) from error
    with _one_line(name, folder):
        _check_file_format(name, folder)
        if importlib.util.find_spec("array_record") is None:
            raise DataError(
                f"{name!r} is read through array_record, which is not installed: pip install "
                "array_record, where there is one for the system, or save its images as an .npz "
                "file and give that"
            )

        import tensorflow_datasets as tfds  # imported here because it is slow

        # of a type that NumPy does not know, it asks TensorFlow, and prints a box if there is none
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            builder = tfds.builder_from_directory(folder)
        shape, num_classes = _image_classification(name, builder.info.features)
        splits = builder.info.splits
        held_out = next((split for split in _TEST_SPLITS if split in splits), None)
        if "train" not in splits or held_out is None:
            raise DataError(
                f"{name!r} has the splits {show(sorted(splits))}; needed are 'train' and one of "
                f"{_TEST_SPLITS}"
            )
        train, test = (_read(builder, split, shape) for split in ("train", held_out))
    return Dataset(name, train, test, num_classes)


def how_to_prepare(name: str, data_dir: str | Path) -> str:
    """Says in one line how to prepare a set where there is a network."""
    return (
        "prepare it on a machine with a network: pip install 'lipsjax[prepare]' && python -c "
        f"\"import tensorflow_datasets as tfds; tfds.builder('{show(name)}', "
        f"data_dir='{show(data_dir, MOST_PATH)}', "
        "file_format='array_record').download_and_prepare()\""
    )


@contextlib.contextmanager
def _one_line(name: str, folder: Path) -> Iterator[None]:
    """Turns whatever the readers raise into one DataError of one line."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    # TFDS, protobuf, Riegeli and Pillow share no class of error narrower than this one.
    except Exception as error:
        reason = show(" ".join(f"{type(error).__name__}: {error}".split()), 300)
        raise DataError(
            f"{str(folder)!r} cannot be read ({reason}); if its files are damaged, delete them and "
            f"{how_to_prepare(name, 'DIR')}"
        ) from error


def _find_prepared(name: str, data_dir: Path) -> Path:
    """The directory `data_dir/set[/config]/version` that a name asks for."""
    asked = _NAME.fullmatch(name)
    if asked is None:
        raise DataError(
            f"data set name {show(repr(name))}; allowed is set[/config][:x.y.z], as in TFDS"
        )
    what_to_do = how_to_prepare(name, data_dir)
    if not data_dir.is_dir():
        where = show(repr(str(data_dir)), MOST_PATH)
        raise DataError(f"data_dir {where} is not a folder; {what_to_do}")
    folder = data_dir / asked["set"] / (asked["config"] or "")
    if not folder.is_dir():
        raise DataError(f"no {name!r} in data_dir {str(data_dir)!r}; {what_to_do}")
    versions = [path.name for path in folder.iterdir() if _VERSION.fullmatch(path.name)]
    if not versions:
        configs = sorted({path.parts[-3] for path in folder.glob("*/*/dataset_info.json")})
        if configs:
            raise DataError(
                f"{name!r} needs a configuration; {str(folder)!r} holds {show(configs)}"
            )
        raise DataError(f"no prepared version in {str(folder)!r}; {what_to_do}")
    version = asked["version"] or max(versions, key=lambda v: tuple(map(int, v.split("."))))
    if version not in versions:
        raise DataError(
            f"no version {version!r} of {asked['set']!r} in {str(folder)!r}, which holds "
            f"{show(sorted(versions))}"
        )
    return folder / version


def _check_file_format(name: str, folder: Path) -> None:
    """Refuses TFRecord files, which only TensorFlow reads."""
    # what TFDS wrote before it had a choice
    file_format = check(folder).get("fileFormat", "tfrecord")
    if file_format != "array_record":
        raise DataError(
            f"{str(folder)!r} holds {show(file_format)} files, and only array_record files can be "
            "read without TensorFlow; choose a new data_dir, then "
            f"{how_to_prepare(name, 'NEW_DIR')}"
        )


def _image_classification(name: str, features: Any) -> tuple[tuple[int, ...], int]:
    """The shape of an image and the number of classes that TFDS features describe."""
    import tensorflow_datasets as tfds

    named = isinstance(features, tfds.features.FeaturesDict)
    found: dict[str, Any] = dict(features.items()) if named else {}
    image: Any = found.get("image")
    label: Any = found.get("label")
    # Compared by `type`, since an image of labels (segmentation) is a subclass of an image.
    if (type(image), type(label)) != (tfds.features.Image, tfds.features.ClassLabel):
        raise DataError(
            f"{name!r} is not a set for image classification: its features are "
            f"{show(sorted(found))}; needed are an image called 'image' and a class called 'label'"
        )
    if None in image.shape or image.np_dtype != np.uint8 or image.shape[-1] not in _PIL_MODES:
        raise DataError(
            f"{name!r} has images of shape {image.shape} and type {np.dtype(image.np_dtype)}; "
            "allowed are images of one size, of 1 to 4 channels and of type uint8"
        )
    if label.num_classes is None:
        raise DataError(f"{name!r} does not say how many classes it has")
    return image.shape, label.num_classes


def _read(builder: Any, split: str, shape: tuple[int, ...]) -> Examples:
    """Reads and decodes every example of one split."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordReader
    from PIL import Image

    info = builder.info.splits[split]
    if not info.num_examples:
        raise DataError(f"split {split!r} of {str(builder.data_dir)!r} has no examples")
    paths = list(map(Path, info.filepaths))
    if len(set(paths)) != len(paths):
        raise ValueError(f"several shards of split {split!r} are {paths[0].name}")
    for path, length in zip(paths, info.shard_lengths, strict=True):
        if not path.is_file():
            raise DataError(f"shard {str(path)!r} of split {split!r} is missing; prepare it again")
        there = ArrayRecordReader(str(path)).num_records()
        if there != length:
            raise ValueError(f"{path.name} holds {there} examples, not {length}")
    # TFDS would decode with OpenCV where that is installed, to other pixels for JPEG; so that
    # equal files give equal images, Pillow decodes them here (in three quarters of the time).
    skip = {"image": tfds.decode.SkipDecoding()}
    source = builder.as_data_source(split, decoders=skip)
    labels = np.empty(info.num_examples, np.int64)
    images = np.empty((0, *shape), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, len(labels), _BATCH):
            positions = range(start, min(start + _BATCH, len(labels)))
            for position, example in zip(positions, source.__getitems__(positions), strict=True):
                decoded = _decode(example["image"], shape)
                if position == 0:  # the shape that is declared is true, so that there is room
                    images = np.empty((len(labels), *shape), np.uint8)
                images[position] = decoded
                labels[position] = example["label"]
    return Examples(images, labels)


def _decode(encoded: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Decodes one PNG, JPEG, BMP or GIF image to [H, W, C] uint8."""
    from PIL import Image

    mode = _PIL_MODES[shape[-1]]
    with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG", "BMP", "GIF")) as picture:
        if picture.size != shape[1::-1]:  # before it is decoded
            raise ValueError(f"an image of {picture.size} pixels where {shape} was declared")
        pixels = np.asarray(picture if picture.mode == mode else picture.convert(mode))
    if pixels.shape not in (shape, shape[:-1]):
        raise ValueError(f"an image of shape {pixels.shape} where {shape} was declared")
    return pixels.reshape(shape)
