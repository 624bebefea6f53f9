"""Checkpoints of a run: ``checkpoints/ROUNDS-DIGEST.npz``, each there whole or not at all.

The digest is of the file, so that a damaged one is told from a whole one before it is parsed; the
one before it is kept for that case. State is small and on the host when it is saved, so NumPy's
own format does: a save takes milliseconds, and a full disk is one error (Orbax prints tracebacks
of its threads then, and for damaged files too).
"""

import hashlib
import io
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lipsjax import recording
from lipsjax.types import PyTree, Variables

KEPT = 2

Warn = Callable[[str], None]


class Checkpoints:
    """The checkpoints of one run directory, which no other process writes to.

    Args:
      run_dir: of the run.
      kept: rounds done whose checkpoints stay, beside the newest two.

    Example:
      >>> import tempfile
      >>> checkpoints = Checkpoints(Path(tempfile.mkdtemp()))
      >>> checkpoints.save(5, {"w": np.ones(3)})
      >>> checkpoints.restore({"w": np.zeros(3)}, print)
      (5, {'w': array([1., 1., 1.])})
    """

    def __init__(self, run_dir: Path, kept: Collection[int] = ()):
        self._directory = run_dir / "checkpoints"
        self._kept = frozenset(kept)
        for left in self._directory.glob(".*.tmp"):  # of a process killed while it saved
            left.unlink()

    def save(self, rounds: int, state: PyTree) -> None:
        """Save a state of NumPy leaves after this many rounds; drop what need not be kept.

        Raises:
          OSError: if it cannot be written; those before are then left as they were.
        """
        content = io.BytesIO()
        np.savez(content, **_leaves(state))
        self._directory.mkdir(exist_ok=True)
        name = f"{rounds}-{_digest(content.getvalue())}.npz"
        with recording.whole_file(self._directory / name) as file:
            file.write(content.getvalue())
        for old in self._saved()[KEPT:]:
            if _rounds(old) not in self._kept:
                old.unlink()

    def restore(
        self, like: PyTree, warn: Warn, *, at_most: int | None = None
    ) -> tuple[int, PyTree] | None:
        """Restore the newest whole checkpoint; delete newer ones that are damaged.

        Args:
          like: a state of the same structure, shapes and types.
          warn: called with a line for every checkpoint that is damaged and passed over.
          at_most: rounds done that it may have; None: any.

        Returns:
          Rounds done and the state, or None if there is no whole checkpoint.

        Raises:
          ValueError: if a whole checkpoint holds another state.
        """
        for path in self._saved():
            if at_most is not None and _rounds(path) > at_most:
                continue
            content = path.read_bytes()
            if _digest(content) == path.stem.partition("-")[2]:
                try:
                    return _rounds(path), _parse(content, like)
                except (KeyError, ValueError):
                    raise ValueError(
                        f"{path} holds the state of another version; choose another --out"
                    ) from None
            warn(f"the checkpoint after round {_rounds(path)} is damaged and passed over")
            path.unlink()
        return None

    def clear(self) -> None:
        """Delete all checkpoints."""
        for path in self._saved():
            path.unlink()

    def _saved(self) -> list[Path]:
        """Return all checkpoints, newest first."""
        return sorted(self._directory.glob("[0-9]*-*.npz"), key=_rounds, reverse=True)


def read_global_model(run_dir: Path) -> tuple[int, Variables]:
    """Read the global model of the newest whole checkpoint; nothing is deleted.

    Args:
      run_dir: of a run.

    Returns:
      Rounds done, and the model as nested dicts of NumPy arrays.

    Raises:
      RecordingError: if there is no whole checkpoint.
    """
    for path in sorted(run_dir.glob("checkpoints/[0-9]*-*.npz"), key=_rounds, reverse=True):
        content = path.read_bytes()
        if _digest(content) != path.stem.partition("-")[2]:
            continue
        found: dict[str, Any] = {name: {} for name in Variables._fields}
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            for name in file.files:
                state, *parts = name.split(".")
                if state != "global_model":
                    continue
                inner = found
                for part in parts[:-1]:
                    inner = inner.setdefault(part, {})
                inner[parts[-1]] = file[name]
        return _rounds(path), Variables(**found)
    raise recording.RecordingError(f"{run_dir} holds no whole checkpoint of a run")


def _rounds(path: Path) -> int:
    return int(path.stem.partition("-")[0])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _parse(content: bytes, like: PyTree) -> PyTree:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        # extension types such as bfloat16 come back as bytes of the same size
        leaves = [
            file[path].view(leaf.dtype).reshape(leaf.shape) for path, leaf in _leaves(like).items()
        ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _leaves(state: PyTree) -> dict[str, Any]:
    """Return the leaves by path, in the order of the tree."""
    flat = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(x) for path, x in flat
    }
