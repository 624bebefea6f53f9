"""Pictures of one's own: a folder of `class/*.png` or `site/class/*.png`, read by Pillow.

Equal files give equal arrays, in the order of sites, classes and names.

References:
  Pillow's modes, https://pillow.readthedocs.io/en/stable/handbook/concepts.html#modes.
"""

import contextlib
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from lipsjax.datasets.assembly import Found, assemble
from lipsjax.datasets.base import MOST_PATH, DataError, Dataset, show
from lipsjax.datasets.files import check_room, expanded, open_file
from lipsjax.datasets.options import AS_NAMED, ReadOptions, check_sizes, part_named, parted
from lipsjax.datasets.own import labelled

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Endings of pictures that are read."""
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_OVERLOOKED = ("readme", "license", "licence", "thumbs.db", "desktop.ini")
"""What names of files begin with that are no examples; hidden files are passed over too."""
_DEEPEST = 3
"""Folders around a picture: its part, its site and its class."""
_ORIENTATION = 0x0112
"""The Exif tag that says how a camera was held."""


class _Picture(NamedTuple):
    """A picture that was found."""

    part: str  # "" where the folder has none
    site: str  # "" where the folder has none
    label: str
    path: Path


def from_pictures(folder: str | Path, options: ReadOptions = AS_NAMED) -> Dataset:
    """Reads a folder of pictures: `class/*.png` or `site/class/*.png`, or these below train, test.

    Args:
      folder: of pictures, PNG, JPEG, BMP or TIFF, of grey values or colours of 8 bits. Palettes,
        bits and opaque alpha are brought to these without loss, and a camera's rotation is undone.
        Files that are hidden, and those called README or LICENSE, are passed over.
      options: resize brings all pictures to one size, by means of what lies below a pixel;
        validation says what becomes of a folder of that name.

    Returns:
      The data set, not validated: images [N, H, W, C] uint8. Classes and sites are called as their
      folders are.

    Raises:
      DataError: a folder or file that does not belong, or pictures that cannot be read or differ in
        size or channels.

    Example:
      >>> import tempfile
      >>> from PIL import Image
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for name in ("crack", "fine"):
      ...         (Path(folder) / name).mkdir()
      ...         for i in range(5):
      ...             Image.new("L", (4, 3), 9 * i).save(f"{folder}/{name}/{i}.png")
      ...     dataset = from_pictures(folder)
      >>> dataset.train.inputs.shape, dataset.class_names
      ((8, 3, 4, 1), ('crack', 'fine'))
    """
    folder = expanded(folder)
    where = show(folder, MOST_PATH)
    found = _found(folder)
    in_test = None
    if found[0].part:
        kept, in_test = parted(where, np.array([each.part for each in found]), options)
        found = [found[i] for i in kept]
    elif options.validation is not None:
        parted(where, np.array(["train"]), options)  # refuses it
    names = [str(each.path.relative_to(folder)) for each in found]

    def opened() -> Iterator[tuple[str, BinaryIO]]:
        for name, each in zip(names, found, strict=True):
            with open_file(each.path) as file:
                yield show(f"{where}: {name}", MOST_PATH), file

    images = decode(where, opened(), len(found), options.resize)
    labels = np.array([each.label for each in found])
    numbers, classes = labelled(where, "classes", labels, in_test, "images")
    site = np.array([each.site for each in found]) if found[0].site else None
    name = folder.absolute().name
    return assemble(name, Found(images, numbers, classes, site, in_test=in_test), where)


def holds_pictures(folder: Path) -> bool:
    """Tells whether a folder holds folders, and nothing but what lies about in one of pictures.

    >>> holds_pictures(Path("/dev/null"))
    False
    """
    return folder.is_dir() and any(path.is_dir() for path in _entries(folder))


# Where pictures lie.


def _entries(folder: Path) -> list[Path]:
    """Returns what counts of a folder, in the order of its names."""
    try:
        found = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        where = show(folder, MOST_PATH)
        raise DataError(f"{where} cannot be read: {show(error.strerror or error)}") from None
    return [
        path
        for path in found
        if not path.name.startswith(".") and not path.name.lower().startswith(_OVERLOOKED)
    ]


def _found(folder: Path) -> list[_Picture]:
    """Returns all pictures, sorted by part, site, class and name."""
    where = show(folder, MOST_PATH)
    files, empty = _walked(folder, folder)
    if not files:
        raise DataError(
            f"{where} holds no pictures; allowed are CLASS/NAME or SITE/CLASS/NAME, of "
            f"{', '.join(SUFFIXES)}"
        )
    parts = [path.relative_to(folder).parts[:-1] for path in files]
    if () in parts:
        raise DataError(
            f"{where}: {show(files[parts.index(())].name)} lies in no folder of its class; allowed "
            "are CLASS/NAME or SITE/CLASS/NAME"
        )
    first = {path.relative_to(folder).parts[0] for path in (*files, *empty)}
    split = all(part_named(name) for name in first)
    levels = {len(each) - split for each in parts}
    if (split and 0 in levels) or max(levels) > 2 or len(levels) > 1:
        shallow = files[min(range(len(parts)), key=lambda i: len(parts[i]))].relative_to(folder)
        deep = files[max(range(len(parts)), key=lambda i: len(parts[i]))].relative_to(folder)
        also = "" if len(levels) == 1 else f", {show(shallow)} not"
        raise DataError(
            f"{where}: {show(deep)} lies in {len(deep.parts) - 1} folders{also}; allowed are "
            "CLASS/NAME or SITE/CLASS/NAME, one of them for all, both perhaps below train and test"
        )
    texts = [[unicodedata.normalize("NFC", name).strip() for name in each] for each in parts]
    pictures = sorted(
        _Picture(
            each[0] if split else "", each[-2] if len(each) - split == 2 else "", each[-1], path
        )
        for each, path in zip(texts, files, strict=True)
    )
    classes = {each.label for each in pictures}
    for path in empty:  # a site without pictures of some class is what one would expect
        if len(path.relative_to(folder).parts) != len(parts[0]) or path.name not in classes:
            raise DataError(f"{where}: the folder {show(path.relative_to(folder))} is empty")
    return pictures


def _walked(folder: Path, top: Path) -> tuple[list[Path], list[Path]]:
    """Returns the files below a folder, and the folders below it that are empty."""
    files, empty = [], []
    for path in _entries(folder):
        below = path.relative_to(top)
        if path.is_dir():
            if len(below.parts) > _DEEPEST:
                raise DataError(
                    f"{show(top, MOST_PATH)}: the folder {show(below)} is nested too deeply; "
                    "allowed are CLASS/NAME or SITE/CLASS/NAME"
                )
            inner = _walked(path, top)
            files, empty = files + inner[0], empty + inner[1]
            if not any(inner):
                empty.append(path)
        elif path.suffix.lower() in SUFFIXES:
            files.append(path)
        else:
            raise DataError(
                f"{show(top, MOST_PATH)}: {show(below)} is no picture that is read; allowed are "
                f"{', '.join(SUFFIXES)}"
            )
    return files, empty


# What pictures hold.


def decode(
    where: str, sources: Iterator[tuple[str, BinaryIO]], count: int, resize: Sequence[int]
) -> np.ndarray:
    """Decodes pictures of one size and one kind of channels.

    Args:
      where: what messages call all of them.
      sources: of each picture its name for messages, and the file.
      count: N, of the pictures.
      resize: height and width to bring them to; none: they must be of one size.

    Returns:
      [N, H, W, C] uint8, C being 1 (grey) or 3 (colours).

    Raises:
      DataError: a picture that is broken, of other size or channels than the first, or of values
        that 8 bits do not hold.
    """
    if resize:
        check_sizes("resize", resize, (2,), "a height and a width")
    images = np.empty((0, 0, 0, 0), np.uint8)
    first = ""
    for position, (name, file) in enumerate(sources):
        pixels = _pixels(name, file, resize)
        if position == 0:
            check_room(where, count * pixels.size)
            images, first = np.empty((count, *pixels.shape), np.uint8), name
        if pixels.shape != images.shape[1:]:
            one, other = images.shape[1:], pixels.shape
            hint = "" if one[:2] == other[:2] else "; data.resize brings them to one size"
            raise DataError(
                f"{first} is {_size(one)}, {name.removeprefix(f'{where}: ')} is {_size(other)}; "
                f"allowed is one size and one kind{hint}"
            )
        images[position] = pixels
    return images


def _size(shape: Sequence[int]) -> str:
    """Returns height, width and channels in words."""
    return f"{shape[0]}x{shape[1]} in {'grey' if shape[2] == 1 else 'colours'}"


def _pixels(name: str, file: BinaryIO, resize: Sequence[int]) -> np.ndarray:
    """Decodes one picture to [H, W, C] uint8."""
    from PIL import Image, ImageOps

    with _one_line(name), Image.open(file, formats=_FORMATS) as opened:
        width, height = opened.size
        check_room(name, width * height * 4)
        if getattr(opened, "n_frames", 1) > 1:
            raise DataError(f"{name} holds several pictures; allowed is one in a file")
        _check_depth(name, opened)
        picture: Any = opened
        if opened.getexif().get(_ORIENTATION, 1) != 1:
            picture = ImageOps.exif_transpose(opened)
        picture = _plain(name, picture)
        if resize:
            picture = picture.resize((resize[1], resize[0]), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture)
    return pixels.reshape(*pixels.shape[:2], -1)


def _check_depth(name: str, picture: Any) -> None:
    """Refuses more than 8 bits a value, of which Pillow would drop some without a word."""
    tags = getattr(picture, "tag_v2", {})
    bits = max(np.atleast_1d(tags.get(258, 1)).tolist())  # TIFF's BitsPerSample
    if picture.mode[0] in "IF" or bits > 8 or any("16" in str(tile[3]) for tile in picture.tile):
        raise DataError(
            f"{name} has more than 8 bits a value; allowed are 8: save what is measured as "
            "floating numbers in an .npz file"
        )


def _plain(name: str, picture: Any) -> Any:
    """Returns a picture of mode L or RGB; refuses what would lose something."""
    mode = picture.mode
    if mode in ("L", "RGB"):
        if "transparency" not in picture.info:
            return picture
        picture = picture.convert("RGBA")
    elif mode == "1":
        return picture.convert("L")
    elif mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    elif mode not in ("LA", "RGBA"):
        raise DataError(
            f"{name} is of mode {show(mode)}; allowed are grey values and RGB, of 8 bits, and what "
            "becomes these without loss"
        )
    if picture.mode not in ("LA", "RGBA"):
        return picture
    if picture.getchannel("A").getextrema()[0] < 255:
        raise DataError(
            f"{name} has pixels that one can see through; allowed are opaque ones: lay it on a "
            "background first"
        )
    return picture.convert("L" if mode in ("L", "LA") else "RGB")


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turns what Pillow says of a damaged picture into one line."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except DataError:
        raise
    except MemoryError:
        raise DataError(f"{name} does not fit into memory") from None
    except Image.UnidentifiedImageError:
        raise DataError(
            f"{name} is no picture that is read; allowed are {', '.join(_FORMATS)}"
        ) from None
    except (
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
        OSError,
        EOFError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
        SyntaxError,
        struct.error,
        zlib.error,
    ) as error:  # Pillow's readers raise all of these for damaged files
        raise DataError(f"{name} cannot be read: {show(error, 120) or 'it is not whole'}") from None
