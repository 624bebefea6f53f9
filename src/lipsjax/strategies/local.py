"""No federation at all: what every site can do without the others."""

from lipsjax.strategy import Strategy, fedavg, keep_local


def local() -> Strategy:
    """Train every client alone, from the common initial model; nothing is ever sent.

    The reference that says whether to federate at all. The server averages the models all the same,
    so that their mean can be measured; no client ever receives it.

    Returns:
      A :class:`Strategy` whose client state is the client's whole model, [K, P], and which moves no
      bits.

    Example:
      >>> strategy = local()
      >>> strategy.is_shared("params/stem/kernel")
      False
    """
    alone = "clients train alone: nothing is sent, averaged or received"
    everything = keep_local(fedavg(), lambda path: True)
    wrappers = (
        *("transient_sparsity", "constant_topk", "dsd", "keep_local", "compress"),
        *("sign_majority", "clip", "median", "trimmed_mean", "faulty", "ditto", "ifa", "feddst"),
    )
    return everything._replace(refuses=dict.fromkeys(wrappers, alone))
