"""Random keys, derived by name: the round, then the client, then the purpose.

A draw depends on nothing else, so chunking, sharding and the other clients cannot change it, and
arms that are compared meet the same cohorts and batches.
"""

import enum

import jax

from lipsjax.types import Array

SERVER = 2**31 - 1  # stands for the client in draws that belong to no client


class Purpose(enum.IntEnum):
    """What a key is used for; the numbers are part of what makes runs reproducible."""

    INIT = 0
    COHORT = 1
    BATCHES = 2
    MASK = 3
    REFILL = 4
    SERVER = 5  # what the server's state begins with
    CLIENT = 6  # what a strategy draws for a client
    OUTCOME = 7  # whether and how far a client trains
    FINETUNING = 8  # batches of fine-tuning
    ATTACK = 9  # what an attacker draws, who knows none of the others
    NOISE = 10  # on a sum, for privacy
    ROUNDING = 11  # of a client's message to integers
    CANARIES = 12  # which of them are members


def derive(key: Array, round_index: Array | int, client: Array | int, purpose: Purpose) -> Array:
    """Derive the key of one draw.

    Args:
      key: the run's root key, ``jax.random.key(seed)``; not consumed.
      round_index: () int, 0-based communication round.
      client: () int, the client's id, or ``SERVER``.
      purpose: what is drawn.

    Returns:
      A key of its own for every (round, client, purpose).

    Example:
      >>> import jax
      >>> root = jax.random.key(0)
      >>> a = derive(root, 3, 7, Purpose.BATCHES)
      >>> b = derive(root, 3, 7, Purpose.MASK)
      >>> bool((jax.random.key_data(a) == jax.random.key_data(b)).all())
      False
    """
    per_round = jax.random.fold_in(key, round_index)
    return jax.random.fold_in(jax.random.fold_in(per_round, client), int(purpose))
