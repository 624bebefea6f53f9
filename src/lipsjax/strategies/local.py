"""No federation at all: what every site can do without the others."""

from lipsjax.strategies.keep_local import keep_local
from lipsjax.strategy import Rank, Strategy, fedavg


def local() -> Strategy:
    """Train every client alone, from the common initial model; nothing is ever sent.

    The reference that says whether to federate at all. The server averages the models all the same,
    so that their mean can be measured; no client ever receives it.

    Returns:
      A :class:`Strategy` whose client state is the client's whole model, [K, P], and which moves no
      bits.

    Example:
      >>> from lipsjax.strategy import RunContext
      >>> local().is_shared(RunContext(rounds=1, num_examples=(1,)), "params/stem/kernel")
      False
    """
    alone = "clients train alone: nothing is sent, averaged or received"
    everything = keep_local(fedavg(), lambda path: True)
    return everything._replace(name="local", refuses=dict.fromkeys(Rank, alone))
