"""What a round costs on the wire, in bits, counted exactly on the host.

Two ways of counting, because it matters who knows the masks (``docs/concepts/costs.md``):

* *client masks*: the global model goes out dense and every client zeroes by its own score. Nothing
  is saved. A ``shared`` mask of scores that only clients have is the one exception: their scores go
  up and the mask comes down in addition.
* *server masks*: on sparse rounds the server sends the kept values and a bitmap. It must know the
  mask, so scores that need a client's gradient go up first. ``fresh`` gradients are taken at the
  average, which must then have been sent: nothing is saved either.

Both count every receiver of a sparse round alike; with ``stored`` gradients a client that never
trained has none to send and receives the global model, so *server masks* is then a bound.

Where a mask is held through all local steps, what clients send is sparse too, and *server masks*
leaves it out. Elsewhere zeroed weights have grown back before anything is sent. A strategy whose
server must know what a client started from gets the mask of a sparse round as a bitmap, unless it
can work the mask out.
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
    uplink: int,
    downlink: int,
    bits_per_value: int = 32,
    maskable: int = 0,
    kept: int | None = None,
    kept_before: int | None = None,
    held: bool = False,
    relative: bool = False,
    gradient: str | None = None,
    shared: bool = False,
    sent_per_value: int = 32,
) -> Bits:
    """Count the bits of one round and of the broadcast that follows it.

    Args:
      clients: cohort size.
      uplink: bits that the cohort sends, without masks.
      downlink: bits that the cohort receives, without masks.
      bits_per_value: width of a value.
      maskable: weights that can be masked.
      kept: of these, how many the following broadcast keeps; None: it is dense.
      kept_before: how many the broadcast before this round kept; None: it was dense.
      held: whether masked weights stay as they are through all local steps.
      relative: whether the server must know what each client started from.
      gradient: where the score's gradient comes from ("last_local", "fresh", "stored"), or None
        if the score needs none.
      shared: whether one mask serves all clients.
      sent_per_value: width, as it is encoded, of a value that a client sends; 0 where what it sends
        does not grow with the values.

    Returns:
      Bits of the cohort.

    Example:
      >>> dense = {"clients": 2, "uplink": 640, "downlink": 640}  # of 10 values
      >>> round_bits(**dense, maskable=8, kept=4, gradient="last_local")
      Bits(uplink=640, downlink=640, uplink_server_masks=1152, downlink_server_masks=400)
    """
    up, down = uplink, downlink
    bitmap = clients * maskable
    of_clients, of_server = Bits(up, down, 0, 0), Bits(0, 0, up, down)
    if kept_before is not None:
        if relative and gradient and not shared:
            of_clients = of_clients._replace(uplink=up + bitmap)
        if held:
            fixed = clients * (maskable - kept_before) * sent_per_value
            of_server = of_server._replace(uplink_server_masks=up - fixed)
    if kept is not None:
        scores = clients * maskable * bits_per_value if gradient else 0
        together = shared and gradient is not None
        of_clients = Bits(of_clients.uplink + scores * together, down + bitmap * together, 0, 0)
        if gradient == "fresh":
            of_server = Bits(0, 0, of_clients.uplink, of_clients.downlink)
        else:
            thinned = clients * (maskable - kept) * bits_per_value
            of_server = Bits(0, 0, of_server.uplink_server_masks + scores, down - thinned + bitmap)
    return Bits(*of_clients[:2], *of_server[2:])
