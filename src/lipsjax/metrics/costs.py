"""What a round costs on the wire, in bits, counted exactly on the host.

Two ways of counting, because it matters who knows the masks (``docs/design.md``):

* *client masks*: the average goes out dense and every client zeroes by its own score. Nothing is
  saved. A ``shared`` mask of scores that only clients have is the one exception: their scores go
  up and the mask comes down in addition.
* *server masks*: on sparse rounds the server sends the kept values and a bitmap. It must know the
  mask, so scores that need a client's gradient go up first. ``fresh`` gradients are taken at the
  average, which must then have been sent: nothing is saved either.

Both count every receiver of a sparse round alike; with ``stored`` gradients a client that never
trained has none to send and receives the average, so *server masks* is then a bound.

Uplink is always dense: zeroed weights have grown back before anything is sent.
"""

from typing import NamedTuple


class Bits(NamedTuple):
    """Bits moved in a round, all clients of the cohort together."""

    uplink: int
    downlink: int
    uplink_server_masks: int
    downlink_server_masks: int


def round_bits(
    *,
    clients: int,
    values: int,
    bits_per_value: int = 32,
    maskable: int = 0,
    kept: int | None = None,
    gradient: str | None = None,
    shared: bool = False,
) -> Bits:
    """Count the bits of one round and of the broadcast that follows it.

    Args:
      clients: cohort size.
      values: values exchanged per client each way (parameters and running statistics).
      bits_per_value: width of a value.
      maskable: weights that can be masked.
      kept: of these, how many the following broadcast keeps; None: it is dense.
      gradient: where the score's gradient comes from ("last_local", "fresh", "stored"), or None
        if the score needs none.
      shared: whether one mask serves all clients.

    Returns:
      Bits of the cohort.

    Example:
      >>> round_bits(clients=2, values=10, maskable=8, kept=4, gradient="last_local")
      Bits(uplink=640, downlink=640, uplink_server_masks=1152, downlink_server_masks=400)
    """
    dense = clients * values * bits_per_value
    if kept is None:
        return Bits(dense, dense, dense, dense)
    scores = clients * maskable * bits_per_value if gradient else 0
    bitmap = clients * maskable
    together = shared and gradient is not None
    uplink, downlink = dense + scores * together, dense + bitmap * together
    if gradient == "fresh":
        return Bits(uplink, downlink, uplink, downlink)
    sparse = clients * (values - maskable + kept) * bits_per_value + bitmap
    return Bits(uplink, downlink, dense + scores, sparse)
