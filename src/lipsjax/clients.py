"""From a partition to stacked arrays: the border between host and device.

Clients are stacked on a leading axis; where they hold different numbers of
examples they are padded to the largest, and a mask tells real from padding.
Examples are stored once and clients hold positions, so that examples that clients
share cost no more than one copy.

Symbols: K clients, n and m the largest numbers of training and test examples of a
client, M pooled training examples, T test examples.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lipsjax.datasets import Dataset, Examples
from lipsjax.partition import Partition


class ClientData(NamedTuple):
    """What all clients hold: np.ndarray on the host, jax.Array once on devices."""

    train: Examples  # [M, ...], the training examples that some client of this process holds
    train_index: Any  # [K, n] int32, positions in train; 0 for padding, and for others' clients
    train_mask: Any  # [K, n] bool, True for real examples; these come first
    test: Examples  # [T, ...], the whole test split, and what copies of it clients have
    test_index: Any  # [K, m] int32, positions in test; padding repeats position 0
    test_mask: Any  # [K, m] bool, True for real examples; these come first
    global_index: Any  # [G] int32, positions in test of the global test set, ascending

    @property
    def num_clients(self) -> int:
        """Number of clients K."""
        return len(self.train_index)

    @property
    def num_examples(self) -> np.ndarray:
        """Training examples of each client, [K] int32."""
        return self.train_mask.sum(axis=1, dtype=np.int32)


def stack(
    dataset: Dataset,
    partition: Partition,
    *,
    global_examples: int | None,
    rng: np.random.Generator,
    global_from: np.ndarray | None = None,
    processes: int = 1,
    process: int = 0,
) -> ClientData:
    """Stacks the clients of a partition.

    Of several processes each holds the training examples of its own clients alone, a block of
    ceil(K / processes); the pools are padded to the largest, so that shapes agree. Masks and test
    sets are the same everywhere.

    Args:
      dataset: the data set that was shared out.
      partition: positions of each client's examples.
      global_examples: the global test set is a draw of this many test examples without
        replacement, or all of them where there are fewer; None for all.
      rng: draws the global test set; it is advanced only if a draw is needed.
      global_from: positions [G] of the test examples that the global test set is of, ascending;
        None for all.
      processes: among which the clients are shared out.
      process: which of them this is.

    Returns:
      Arrays with a leading client axis, the pool of training examples in the data
      set's order.

    Raises:
      ValueError: a partition without clients, a client without training examples, clients that
        are all without test examples, positions outside the data set, or global_examples < 1.

    Example:
      >>> from lipsjax.datasets import synthetic
      >>> held = (np.array([4, 2]), np.array([7]))
      >>> partition = Partition(held, held, np.full([2, 4], 0.25))
      >>> data = stack(
      ...     synthetic(), partition, global_examples=None, rng=np.random.default_rng(0)
      ... )
      >>> data.train_index
      array([[1, 0],
             [2, 0]], dtype=int32)
      >>> data.num_examples
      array([2, 1], dtype=int32)
    """
    if global_examples is not None and global_examples < 1:
        raise ValueError(f"global_examples is {global_examples}; allowed are None and >= 1")
    num_train, num_test = len(dataset.train.labels), len(dataset.test.labels)
    _check_positions("train", partition.train, num_train)
    _check_positions("test", partition.test, num_test)
    if len(partition.train) != len(partition.test):
        raise ValueError(
            f"the partition has {len(partition.train)} clients to train and "
            f"{len(partition.test)} to test; both must agree"
        )
    clients = len(partition.train)
    blocks = [own_clients(clients, processes, each) for each in range(processes)]
    pools = [np.unique(np.concatenate([partition.train[k] for k in ids])) for ids in blocks if ids]
    used = pools[process] if process < len(pools) else pools[0][:1]
    train_index, train_mask = _pad(
        [
            np.searchsorted(used, held) if k in blocks[process] else np.zeros(len(held), np.int64)
            for k, held in enumerate(partition.train)
        ]
    )
    used = np.pad(used, (0, max(map(len, pools)) - len(used)), mode="edge")
    test_index, test_mask = _pad(partition.test)
    allowed = np.arange(num_test) if global_from is None else global_from
    if global_examples is None or global_examples >= len(allowed):
        global_index = allowed
    else:
        global_index = np.sort(allowed[rng.choice(len(allowed), global_examples, replace=False)])
    return ClientData(
        train=Examples(dataset.train.inputs[used], dataset.train.labels[used]),
        train_index=train_index,
        train_mask=train_mask,
        test=dataset.test,
        test_index=test_index,
        test_mask=test_mask,
        global_index=global_index.astype(np.int32),
    )


def standardise(data: ClientData, mean: Sequence[float], deviation: Sequence[float]) -> ClientData:
    """Shift and scale floating inputs: ``(x - mean) / deviation``, channel by channel.

    Args:
      data: of floating inputs [M, ..., channels].
      mean: [channels], subtracted.
      deviation: [channels], divided by; a channel that never changes, of deviation 0, is shifted
        only.

    Returns:
      Copies of both pools; positions and labels are those of ``data``.

    Example:
      >>> rows = Examples(np.float32([[3, 7], [5, 7]]), np.int32([0, 1]))
      >>> data = ClientData(rows, [[0]], [[True]], rows, [[1]], [[True]], [0])
      >>> standardise(data, [4, 7], [2, 0]).train.inputs.tolist()
      [[-0.5, 0.0], [0.5, 0.0]]
    """

    def moved(examples: Examples) -> Examples:
        shift, scale = (np.asarray(x, examples.inputs.dtype) for x in (mean, deviation))
        return examples._replace(inputs=(examples.inputs - shift) / np.where(scale > 0, scale, 1))

    return data._replace(train=moved(data.train), test=moved(data.test))


def own_clients(clients: int, processes: int, process: int) -> range:
    """Return the ids of the clients whose examples a process holds.

    >>> [list(own_clients(5, 2, process)) for process in (0, 1)]
    [[0, 1, 2], [3, 4]]
    """
    block = -(-clients // processes)
    return range(min(process * block, clients), min((process + 1) * block, clients))


def _check_positions(split: str, clients: Sequence[np.ndarray], size: int) -> None:
    """Checks that each client holds positions in 0..size - 1; of testing, some may hold none."""
    if not clients:
        raise ValueError(f"the partition has no clients in its {split} part; allowed are >= 1")
    if not any(map(len, clients)):
        raise ValueError(f"no client holds {split} examples; allowed is at least one that does")
    for client, held in enumerate(clients):
        if split == "test" and held.shape == (0,):
            continue
        if held.ndim != 1 or len(held) == 0 or not np.issubdtype(held.dtype, np.integer):
            raise ValueError(
                f"client {client} holds {split} positions of shape {held.shape} and type "
                f"{held.dtype}; allowed is a vector of at least one integer"
            )
        for position in (held.min(), held.max()):
            if not 0 <= position < size:
                raise ValueError(
                    f"client {client} holds {split} position {position}; allowed are 0..{size - 1}"
                )


def _pad(clients: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stacks vectors of different lengths: [K, longest] int32, and the mask of real entries."""
    lengths = np.array([len(held) for held in clients])
    mask = np.arange(lengths.max()) < lengths[:, None]
    index = np.zeros(mask.shape, np.int32)
    index[mask] = np.concatenate(clients)  # both run client by client
    return index, mask
