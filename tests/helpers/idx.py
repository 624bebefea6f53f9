"""Writes IDX files as MNIST came."""

import gzip
import struct

TYPES = {8: ">u1", 12: ">i4", 13: ">f4"}


def write_idx(path, array, kind=8):
    """Writes an array as values of a type; compressed where the name ends so."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    content = head + array.astype(TYPES[kind]).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
