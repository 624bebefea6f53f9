"""Several processes of one command: process 0 decides and touches files, all do the same.

Every process runs the same program and must make the same calls of this module, in the same order.
"""

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")


def is_main() -> bool:
    """Tell whether this is process 0, which records and prints."""
    return jax.process_index() == 0


def agree(decide: Callable[[], T]) -> T:
    """Return in every process what a function returns in process 0; it is called there alone.

    Args:
      decide: returns what can be pickled, such as a plan or a state on the host.

    Raises:
      Exception: in every process, whatever the call raises in process 0.

    Example:
      >>> agree(lambda: 3)
      3
    """
    if jax.process_count() == 1:
        return decide()
    outcome = _try(decide) if is_main() else None
    value, error = pickle.loads(_broadcast(pickle.dumps(outcome)))
    if error is not None:
        raise error
    return value


def together(do: Callable[[], T]) -> T:
    """Call a function in every process; if it fails in one, it fails in all.

    Raises:
      Exception: what the call raises here.
      ValueError: if it raises in another process; its own line says why.
    """
    if jax.process_count() == 1:
        return do()
    value, error = _try(do)
    failed = multihost_utils.process_allgather(np.array(error is not None))
    if error is not None:
        raise error
    if failed.any():
        raise ValueError(f"process {np.flatnonzero(failed)[0]} failed; its own last line says why")
    return value


def _try(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return function(), None
    except Exception as error:  # to be raised by the caller, once the others know
        return None, error


def _broadcast(content: bytes) -> bytes:
    """Send bytes from process 0 to all."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    padded = np.zeros(1 << size.bit_length(), np.uint8)  # few sizes, few programs
    if is_main():
        padded[:size] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded))[:size].tobytes()
