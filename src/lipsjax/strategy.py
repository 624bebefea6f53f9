"""A federated strategy as a value: a NamedTuple of pure functions, and what they are told.

A round calls them in this order, each for ONE client (the simulation vmaps) or for the server::

    receive -> loss, optimizer -> [local training] -> encode -> send -> [mean] -> update

and, where a strategy has a ``sparsifier``, decides afterwards what is broadcast. Where one has a
``personal_model``, the client trains that too, after the model that it received.

Every function reads the run from its context: the static :class:`RunContext`, the round, the key,
the states. Nothing that the run knows is given to a strategy a second time.
"""

import enum
import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lipsjax import tree
from lipsjax.local import LocalTraining, Sgd, sgd_of
from lipsjax.privacy.ledger import Ledger
from lipsjax.types import (
    Array,
    GradientOf,
    Kernels,
    Layer,
    LocalResult,
    LossFn,
    Params,
    PyTree,
    Variables,
)

BITS = 32
"""Of a value in a message."""


class RunContext:
    """What is known of a run before it starts; static, and the same for clients and server.

    Args:
      rounds: T.
      num_examples: [K] training examples of each client.
      layers: of the model, in order.
      training: optimizer, epochs and batch size of the clients.
      cohort: C, clients that are drawn for a round, or are so on average; None: all K.
      all_arrive: whether every client that is drawn does all its steps and sends.
      sampling: how they are drawn, as of :class:`lipsjax.rounds.Participation`.
      slots: clients that a round has room for; None: C. A Poisson cohort may be larger than C.
      overflow: chance, over all rounds, that a cohort is larger than its slots.

    Example:
      >>> run = RunContext(rounds=3, num_examples=(5, 7), cohort=1)
      >>> run.num_clients, run.cohort
      (2, 1)
    """

    def __init__(
        self,
        *,
        rounds: int,
        num_examples: tuple[int, ...],
        layers: tuple[Layer, ...] = (),
        training: LocalTraining | None = None,
        cohort: int | None = None,
        all_arrive: bool = True,
        sampling: str = "uniform",
        slots: int | None = None,
        overflow: float = 0.0,
    ):
        self.rounds = rounds
        self.num_examples = num_examples
        self.layers = layers
        self.cohort = len(num_examples) if cohort is None else cohort
        self.all_arrive = all_arrive
        self.sampling = sampling
        self.slots = self.cohort if slots is None else slots
        self.overflow = overflow
        self._training = training

    @property
    def num_clients(self) -> int:
        """Clients that train in the run, K."""
        return len(self.num_examples)

    @property
    def poisson(self) -> bool:
        """Whether each client is drawn for itself, so that cohorts differ in size."""
        return self.sampling == "poisson" and self.cohort < self.num_clients

    @property
    def rate(self) -> float:
        """Chance that a client is in a round, drawn for itself; 1 where it may be in every one.

        It is C / K, up to the next of the draws' 2^-23.
        """
        if not self.poisson:
            return 1.0
        return math.ceil(np.float32(self.cohort / self.num_clients) * 2**23) / 2**23

    @property
    def period(self) -> int:
        """Rounds from one in which a client may be to the next; K / C where they are in turn."""
        return self.num_clients // self.cohort if self.sampling == "cyclic" else 1

    @property
    def turns(self) -> int:
        """Rounds in which a client may be."""
        return math.ceil(self.rounds / self.period)

    @property
    def training(self) -> LocalTraining:
        """How clients train.

        Raises:
          ValueError: if the context was made without.
        """
        if self._training is None:
            raise ValueError("it needs a run with local training, not one without")
        return self._training

    @functools.cached_property
    def sgd(self) -> Sgd:
        """Learning rate and momentum, for strategies that divide by how far local steps go.

        Raises:
          ValueError: if the local optimizer is not plain SGD at a constant rate.
        """
        if self.training.rate is not None:
            raise ValueError(
                "it divides by how far local steps go, so it needs a constant learning "
                "rate, not a schedule over rounds"
            )
        with jax.ensure_compile_time_eval():
            found = sgd_of(self.training.optimizer)
        if found is None:
            raise ValueError(
                "it divides by how far local steps go, so it needs optax.sgd without "
                "nesterov as local optimizer, not one whose steps are not a learning rate times "
                "gradients and their momentum"
            )
        return found


class Broadcast(NamedTuple):
    """What is sent to one client beside the global model: a mask, one bit a maskable weight."""

    packed_masks: Kernels  # uint8 [ceil(size / 8)] per masked layer
    key: Array  # of the refill
    sparse: Array  # () bool; False: the model goes out as it is. Never batched over clients
    density: Array  # () float, of the schedule; 1 where it is not sparse


class ClientContext(NamedTuple):
    """What one client knows in a round."""

    run: RunContext
    variables: Variables  # the global model; once it has been received, what the client starts from
    server_state: PyTree = ()
    client_state: PyTree = ()
    broadcast: Broadcast | None = None
    round: Any = 0  # () int32
    key: Any = None  # for what the strategy draws itself, for this client in this round
    client_id: Any = 0  # () int32
    epoch_steps: Any = 1  # () int32, real steps of an epoch
    global_model: Any = None  # whole, as it was before the client received its part of it
    staleness: Any = 0  # () int32, updates of the server since that model went out


class ServerContext(NamedTuple):
    """What the server knows when messages have arrived."""

    run: RunContext
    global_model: Variables  # before the update
    server_state: PyTree = ()
    round: Any = 0  # () int32
    key: Any = None  # of the server, the same in every round: fold in the round
    arrived: Any = None  # () int32, clients whose messages arrived
    share: Any = 1.0  # () their share of the weight of all K clients; arrived / K if they are equal
    held: Kernels | None = None  # bool, masked weights that nobody who arrived could train


class Trigger(NamedTuple):
    """The rule by which the inertia of layers, and no schedule, decides on sparse broadcasts."""

    threshold: float  # that the inertia index must be above
    window: int  # rounds that began unmasked, of which it is the mean
    every: int  # rounds whose index is a multiple of this may be followed by a sparse broadcast
    levels: Callable[[Array], Array]  # inertia of the masked layers -> their density levels, int32


class Sparsifier(NamedTuple):
    """The rule by which a broadcast is thinned out; ``transient_sparsity`` makes it.

    ``kept`` is asked once, on the host; the rest is called inside the compiled round, for one
    client, and only where the round is followed by a sparse broadcast.
    """

    layers: tuple[Layer, ...]  # the masked ones
    gradient: str | None  # "last_local", "fresh", "stored"; None: the score needs none
    shared: bool  # one mask, from the clients' mean score
    hold: float  # local steps after which masked weights are set back; inf: all
    kept: Callable[[Variables], tuple[np.ndarray, np.ndarray]]
    """variables -> densities [T] and kept counts [T, groups]; with a trigger, of each level."""
    score: Callable[[Params, Kernels, Array], Kernels]
    """(params, gradient, key) -> what decides which weights are kept, not negative."""
    mask: Callable[[Kernels, Array], Kernels]  # (scores, kept [groups]) -> packed masks
    last: Callable[[Kernels], Kernels]  # last gradients of all layers asked for -> of the masked
    stored: Callable[[PyTree], "StoredGradient"]  # client state -> its last gradient
    trigger: Trigger | None = None  # None: the schedule of ``kept`` says when


class StoredGradient(NamedTuple):
    """The last gradient that a client keeps between its rounds."""

    gradient: Kernels  # of the masked layers
    exists: Array  # () bool, whether the client has trained


class PersonalModel(NamedTuple):
    """A second model that a client trains in every round, on the same batches."""

    start: Callable[[ClientContext], Variables]
    loss: Callable[[LossFn, ClientContext], LossFn]


class Traffic(NamedTuple):
    """Bits that one client moves, before any mask of a ``sparsifier``."""

    up: np.ndarray  # int64 [T], sent in each round; [T, K] where clients send differently
    down: Callable[[int, int | None], Any]
    """(round, round in which the client received last, None if never) -> bits it receives; [K] of
    them where clients receive differently."""
    per_value: int = BITS
    """Bits up of one value of a masked layer, as it is encoded; 0 if what is sent does not grow."""

    def without(self, bits: Any) -> "Traffic":
        """Leave out bits of what neither goes up nor comes down; [K] of them, or as many of all.

        >>> traffic = Traffic(np.array([8, 8]), lambda t, last: 8).without(np.array([0, 4, 6]))
        >>> traffic.up.tolist(), traffic.down(0, None).tolist()
        ([[8, 4, 2], [8, 4, 2]], [8, 4, 2])
        """
        up = self.up[:, None] if np.ndim(bits) > self.up.ndim - 1 else self.up
        return self._replace(up=up - bits, down=lambda t, last: self.down(t, last) - bits)

    def sent(self, t: int, clients: np.ndarray) -> np.ndarray:
        """Return the bits that each of some clients sends in a round."""
        return _of_clients(self.up[t], clients)

    def received(self, t: int, last: int | None, clients: np.ndarray) -> np.ndarray:
        """Return the bits that each of some clients receives, who received last in one round."""
        return _of_clients(np.asarray(self.down(t, last), np.int64), clients)


def _of_clients(bits: np.ndarray, clients: np.ndarray) -> np.ndarray:
    """Pick clients from what is of each, or one number for all of them."""
    return bits[clients] if np.ndim(bits) else np.broadcast_to(bits, len(clients))


class Rank(enum.IntEnum):
    """What wrappers do to an update, in the order in which it happens.

    A wrapper goes around those of lower ranks, so that the innermost acts first: a fault falsifies
    the plain update, which is then encoded, and clipped as it is when the server has decoded it.
    """

    KEEP = 0  # leaves that clients keep for themselves
    PART = 1  # what each client holds of the model
    PERSONAL = 2  # a second model of each client
    EXAMPLES = 3  # a bound on every example's gradient, and noise on each batch's
    FAULT = 4  # what a faulty client does to its update
    ENCODE = 5  # the client's own encoding
    VOTE = 6  # an encoding of which the server counts votes
    CLIP = 7  # at the server, once it is decoded
    PRIVATE = 8  # a bound on every client's share of a sum, and noise on the sum
    SECURE = 9  # a sum of integers that nobody sees the terms of
    AGGREGATE = 10  # what stands for the mean
    UPDATE = 11  # the global model, once it is aggregated
    BROADCAST = 12  # what clients receive of it
    HOLD = 13  # a broadcast that binds local steps


RANKS = {
    "keep_local": Rank.KEEP,
    "submodels": Rank.PART,
    "ditto": Rank.PERSONAL,
    "private_examples": Rank.EXAMPLES,
    "faulty": Rank.FAULT,
    "canaries": Rank.FAULT,
    "compress": Rank.ENCODE,
    "sign_majority": Rank.VOTE,
    "clip": Rank.CLIP,
    "private": Rank.PRIVATE,
    "secure": Rank.SECURE,
    "median": Rank.AGGREGATE,
    "trimmed_mean": Rank.AGGREGATE,
    "ifa": Rank.UPDATE,
    "transient_sparsity": Rank.BROADCAST,
    "transient_shrink": Rank.BROADCAST,
    "constant_topk": Rank.BROADCAST,
    "dsd": Rank.BROADCAST,
}
"""The wrappers of this package."""


class Strategy(NamedTuple):
    """What clients and server receive, minimise, send, and keep. All functions are pure.

    State is any pytree, ``()`` if there is none; the client state is that of one client, and the
    simulation keeps it stacked for all K.
    """

    init_server: Callable[[RunContext, Variables, Array], PyTree]
    """(run, initial model, key) -> server state."""
    init_client: Callable[[RunContext, Variables], PyTree]
    """(run, initial model) -> state of one client."""
    receive: Callable[[ClientContext], Variables]
    """What one client starts from; ``context.variables`` is the global model."""
    loss: Callable[[LossFn, ClientContext], LossFn]  # shape the loss that one client minimises
    optimizer: Callable[[optax.GradientTransformation, ClientContext], optax.GradientTransformation]
    encode: Callable[[ClientContext, LocalResult], tuple[LocalResult, PyTree]]
    """(context, result) -> the result as the server makes it out, and the new client state."""
    send: Callable[[ClientContext, LocalResult], tuple[PyTree, PyTree]]
    """(context, encoded result) -> (message, new client state)."""
    weight: Callable[[Array], Array]  # number of examples -> weight of the message in the mean
    update: Callable[[ServerContext, PyTree], tuple[Variables, PyTree]]
    """(context, mean message) -> (new global model, new server state)."""
    traffic: Callable[[RunContext, Variables], Traffic]  # of variables or their shapes
    predict_with: Callable[[ClientContext], Variables]
    """What a client predicts with; ``context.variables`` is what it would start from."""
    finetune_optimizer: Callable[
        [optax.GradientTransformation, ClientContext], optax.GradientTransformation
    ]
    """Shape the optimizer of one client that fine-tunes for itself, after the last round."""
    name: str = "the strategy"  # in error messages
    check: Callable[[RunContext], None] = lambda run: None
    """Raise ValueError if the strategy cannot work in a run; called when a simulation is built."""
    is_shared: Callable[[RunContext, str], bool] = lambda run, path: True
    """Whether clients exchange the leaf at a path."""
    held: Callable[[ClientContext], dict[str, Array]] = lambda context: {}
    """What a client holds of leaves that some hold in part: path -> bool of the leaf's shape;
    ``context.variables`` is what it started from."""
    unheld: Callable[[RunContext, Variables], dict[str, np.ndarray]] = lambda run, variables: {}
    """(run, model or shapes) -> values of these leaves that each client does not hold, [K] each."""
    learned: Callable[[ServerContext, PyTree, Variables], Variables] = lambda context, mean, new: (
        new
    )
    """(context, mean message, new global model) -> the new model without what a rule has set, as
    masks and re-initialisation do: the measured step is from the old model to this one."""
    aggregate: Callable[[PyTree, Array], PyTree] | None = None
    """(messages [C, ...], which of them arrived [C]) -> what stands for their mean; needs [C, P]
    values on every device. None: the weighted mean, of which only sums are kept."""
    combine: Callable[[ServerContext, PyTree], PyTree] | None = None
    """(context, weighted sum of messages) -> what stands for their mean; also of no message at all.
    None: the sum over the sum of weights. In a round without messages nothing stays of it, but
    where clients are protected."""
    weighs_itself: bool = False  # whether messages are weighed already, and a plain sum is due
    scalars: Callable[[ServerContext, PyTree], dict[str, Array]] | None = None
    """(context, what stands for the mean) -> numbers () of the round by name, to be recorded."""
    ledger: Callable[[RunContext], Ledger] | None = None
    """What a run releases, of a strategy that protects somebody."""
    personal_model: PersonalModel | None = None
    reveals: Callable[[RunContext, Variables, Variables, PyTree], dict[str, Array]] | None = None
    """(run, the global model that went out, what a client started from, its message) -> what the
    message says that training added to each shared parameter, by path; None: the message holds the
    trained model, and says all."""
    gradient: Callable[[RunContext], GradientOf] | None = None
    """What local steps take for the gradient of a batch; None: that of its loss."""
    gradient_layers: Callable[[RunContext], tuple[Layer, ...]] = lambda run: ()
    """Layers whose last gradients ``LocalResult`` holds."""
    relative: bool = False  # whether the server must know what each client started from
    takes_turns: bool = False
    """Whether the server knows what to make of messages from models that went out before."""
    canaries: str = ""
    """What canaries among the clients send their directions from; "" without any."""
    refuses: Mapping[Rank, str] = MappingProxyType({})  # rank of wrappers -> why they do not work
    wrappers: Mapping[Rank, str] = MappingProxyType({})  # what is around the innermost strategy
    sparsifier: Callable[[RunContext], Sparsifier] | None = None

    @property
    def unsummable(self) -> str:
        """Why a server that sees sums alone cannot work with the messages; "" if it can.

        >>> fedavg().unsummable
        ''
        """
        if self.aggregate is not None:
            return "it needs every message by itself"
        return self.refuses.get(Rank.SECURE, "")


def check_wraps(strategy: Strategy, wrapper: str, rank: Rank | None = None) -> None:
    """Raise ValueError if `wrapper` cannot wrap `strategy`.

    Args:
      strategy: what would be wrapped.
      wrapper: a name of ``RANKS``, or of a wrapper from outside.
      rank: of a wrapper from outside.

    Raises:
      ValueError: for a name without a rank, with the strategy's reason, or if a wrapper of the same
        or a later rank is around it already.

    Example:
      >>> check_wraps(fedavg(), "halfway")
      Traceback (most recent call last):
      ValueError: wrapper must be one of keep_local, submodels, ditto, private_examples, \
faulty, canaries, compress, sign_majority, clip, private, secure, median, trimmed_mean, ifa, \
transient_sparsity, transient_shrink, constant_topk, dsd, not 'halfway'
    """
    if rank is None and wrapper not in RANKS:
        raise ValueError(f"wrapper must be one of {', '.join(RANKS)}, not {wrapper!r}")
    rank = RANKS[wrapper] if rank is None else rank
    if rank in strategy.refuses:
        raise ValueError(f"{wrapper} cannot wrap {strategy.name}: {strategy.refuses[rank]}")
    for other, name in sorted(strategy.wrappers.items()):
        if other == rank:
            raise ValueError(f"{wrapper} cannot wrap {name}: one of its kind is enough")
        if other > rank:
            raise ValueError(f"{wrapper} goes inside {name}, not around it: it acts before")


def wrapped(strategy: Strategy, wrapper: str, rank: Rank | None = None) -> Strategy:
    """Return a strategy that knows that it is wrapped, or raise as :func:`check_wraps`."""
    check_wraps(strategy, wrapper, rank)
    rank = RANKS[wrapper] if rank is None else rank
    return strategy._replace(wrappers={**strategy.wrappers, rank: wrapper})


class Nested(NamedTuple):
    """The state of a wrapper beside that of what it wraps."""

    outer: PyTree  # of the wrapper
    inner: PyTree  # of the strategy inside


Context = TypeVar("Context", ClientContext, ServerContext)


def nest(
    strategy: Strategy,
    *,
    init_server: Callable[[RunContext, Variables, Array], PyTree] | None = None,
    init_client: Callable[[RunContext, Variables], PyTree] | None = None,
) -> Strategy:
    """Return a strategy with room for a wrapper's state beside its own.

    Its functions take contexts whose states are :class:`Nested`, leave ``outer`` as it is, and do
    with ``inner`` what the strategy does. A wrapper replaces what it changes, and calls the rest.

    Args:
      strategy: what is wrapped.
      init_server: of the wrapper's state at the server; None: it keeps none there.
      init_client: of the wrapper's state at each client; None: it keeps none there.

    Example:
      >>> counted = nest(fedavg(), init_server=lambda run, initial, key: jnp.zeros((), jnp.int32))
      >>> run, initial = RunContext(rounds=1, num_examples=(1,)), Variables({}, {})
      >>> counted.init_server(run, initial, None).inner
      ()
    """

    def inside(context: Context) -> Context:
        if init_server is not None:
            context = context._replace(server_state=context.server_state.inner)
        if init_client is not None and isinstance(context, ClientContext):
            context = context._replace(client_state=context.client_state.inner)
        return context

    def start_server(run, initial, key):
        assert init_server is not None
        return Nested(init_server(run, initial, key), strategy.init_server(run, initial, key))

    def start_client(run, initial):
        assert init_client is not None
        return Nested(init_client(run, initial), strategy.init_client(run, initial))

    def keeping_outer(act):
        def outside(context, result):
            value, inner = act(inside(context), result)
            return value, context.client_state._replace(inner=inner)

        return outside if init_client is not None else lambda c, result: act(inside(c), result)

    def asked(function):
        return function and (lambda context, x: function(inside(context), x))

    def update(context, mean):
        model, inner = strategy.update(inside(context), mean)
        if init_server is None:
            return model, inner
        return model, context.server_state._replace(inner=inner)

    return map_context(strategy, inside)._replace(
        init_server=strategy.init_server if init_server is None else start_server,
        init_client=strategy.init_client if init_client is None else start_client,
        encode=keeping_outer(strategy.encode),
        send=keeping_outer(strategy.send),
        update=update,
        learned=lambda context, mean, new: strategy.learned(inside(context), mean, new),
        combine=asked(strategy.combine),
        scalars=asked(strategy.scalars),
    )


def map_context(strategy: Strategy, inside: Callable[[ClientContext], ClientContext]) -> Strategy:
    """Return a strategy whose client functions see another context; but for what changes state."""
    personal = strategy.personal_model
    if personal is not None:
        start, second_loss = personal
        personal = PersonalModel(
            start=lambda context: start(inside(context)),
            loss=lambda loss_fn, context: second_loss(loss_fn, inside(context)),
        )
    return strategy._replace(
        receive=lambda context: strategy.receive(inside(context)),
        loss=lambda loss_fn, context: strategy.loss(loss_fn, inside(context)),
        optimizer=lambda optimizer, context: strategy.optimizer(optimizer, inside(context)),
        held=lambda context: strategy.held(inside(context)),
        predict_with=lambda context: strategy.predict_with(inside(context)),
        finetune_optimizer=lambda optimizer, context: strategy.finetune_optimizer(
            optimizer, inside(context)
        ),
        personal_model=personal,
    )


def message_of(
    strategy: Strategy, context: ClientContext, result: LocalResult
) -> tuple[PyTree, PyTree]:
    """Encode and send what a client trained; return the message and its new state."""
    encoded, state = strategy.encode(context, result)
    return strategy.send(context._replace(client_state=state), encoded)


def constant_traffic(run: RunContext, *, up: int, down: int) -> Traffic:
    """Return the same bits for every round."""
    return Traffic(np.full(run.rounds, up, np.int64), lambda t, last: down)


def fedavg(*, weighted: bool = True) -> Strategy:
    """Federated averaging: the identity of every function of a strategy.

    ``w <- sum_k (n_k / n) w_k`` over the cohort, running statistics included.

    Args:
      weighted: whether the mean is by examples n_k, as published; else every client counts the
        same, as it should where clients are drawn by examples (arXiv 1812.06127, section 5).

    Returns:
      A :class:`Strategy` without state.

    References:
      McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
      Data", arXiv 1602.05629.

    Example:
      >>> fedavg().weight(30)
      30
    """

    def traffic(run, variables):
        bits = BITS * tree.size(variables)
        return constant_traffic(run, up=bits, down=bits)

    return Strategy(
        init_server=lambda run, initial, key: (),
        init_client=lambda run, initial: (),
        receive=lambda context: context.variables,
        loss=lambda loss_fn, context: loss_fn,
        optimizer=lambda optimizer, context: optimizer,
        encode=lambda context, result: (result, context.client_state),
        send=lambda context, result: (result.variables, context.client_state),
        weight=by_examples if weighted else uniform,
        update=lambda context, mean: (mean, context.server_state),
        traffic=traffic,
        predict_with=lambda context: context.variables,
        finetune_optimizer=lambda optimizer, context: optimizer,
        name="fedavg",
    )


def by_examples(num_examples: Array) -> Array:
    """Weigh a client by its examples."""
    return num_examples


def uniform(num_examples: Array) -> Array:
    """Weigh every client the same."""
    return jnp.ones_like(num_examples)
