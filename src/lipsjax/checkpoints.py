"""Checkpoints of a run, through Orbax: written to a temporary name, then renamed.

Each holds the leaves of a state by path, the number of rounds done, and a digest, so that a
damaged one is told from a whole one; the one before it is kept for that case.
"""

import hashlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from lipsjax.types import PyTree

KEPT = 2

Warn = Callable[[str], None]


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
      run_dir: of the run; they go to ``run_dir/checkpoints``.
    """

    def __init__(self, run_dir: Path):
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._directory = (run_dir / "checkpoints").absolute()
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, create=True, enable_async_checkpointing=False
        )
        return ocp.CheckpointManager(self._directory, options=options)

    def save(self, rounds: int, state: PyTree) -> None:
        """Save a state of NumPy leaves after this many rounds."""
        leaves = _leaves(state)
        self._manager.save(
            rounds,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(leaves),
                digest=ocp.args.JsonSave({"sha256": _digest(leaves), "rounds": rounds}),
            ),
        )

    def restore(self, like: PyTree, warn: Warn) -> tuple[int, PyTree] | None:
        """Restore the newest whole checkpoint.

        Args:
          like: a state of the same structure, shapes and types.
          warn: called with a line for every checkpoint that is damaged and passed over.

        Returns:
          Rounds done and the state, or None if there is no whole checkpoint.
        """
        for rounds in sorted(self._manager.all_steps(), reverse=True):
            try:
                return rounds, self._read(rounds, like)
            except Exception as error:
                reason = str(error).strip().splitlines() or [type(error).__name__]
                warn(
                    f"checkpoint after round {rounds} is damaged and passed over ({reason[0][:120]})"
                )
                self._manager.close()
                shutil.rmtree(self._directory / str(rounds), ignore_errors=True)
                self._manager = self._open()
        return None

    def _read(self, rounds: int, like: PyTree) -> PyTree:
        wanted = _leaves(like)
        found = self._manager.restore(
            rounds,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(wanted), digest=ocp.args.JsonRestore()
            ),
        )
        leaves = {path: np.asarray(leaf) for path, leaf in found["state"].items()}
        if found["digest"]["sha256"] != _digest(leaves):
            raise ValueError("its digest does not match")
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[path] for path in wanted])

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()


def _leaves(state: PyTree) -> dict[str, Any]:
    """Return the leaves by path, in the order of the tree."""
    flat = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(x) for path, x in flat
    }


def _digest(leaves: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for path, leaf in leaves.items():
        digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
