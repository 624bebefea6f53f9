"""What a run is: frozen, typed, and free of JAX, so that ``--help`` is quick.

:class:`Config` is the science; its canonical form is hashed into the name of the run's directory.
:class:`Execution` is how and where it is run; it is resolved into a recorded plan and never
hashed. Every field carries the comment that ``--help`` shows.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

import tyro

from lipsjax.runs.parts import Kind

Schedule = Literal["constant", "linear", "cosine", "cubic"]
Operation = Literal["mask", "scale", "shrink_perturb"]
Criterion = Literal["saliency", "magnitude", "lowest", "random", "gradient", "inverted"]
Sharing = Literal["client", "shared"]
Scope = Literal["layer", "global", "erk"]
Refill = Literal["zero", "init", "noise"]
GradientSource = Literal["last_local", "fresh", "stored"]
Trigger = Literal["schedule", "inertia"]
Norm = Literal["batch", "group", "none"]
NormPolicy = Literal["global", "local", "local_with_biases"]
StrategyName = Literal[
    "fedavg",
    "fedprox",
    "scaffold",
    "feddyn",
    "fednova",
    "fedavgm",
    "fedadagrad",
    "fedadam",
    "fedyogi",
    "moon",
    "fedper",
    "fedrep",
    "fedbabu",
    "fedbuff",
    "ditto",
    "fedpart",
    "ifa",
    "feddst",
    "constant_topk",
    "dsd",
    "local",
]
RateSchedule = Literal["constant", "linear", "cosine"]
Augmentation = Literal["flip", "crop", "rotate"]
Compression = Literal["none", "top_k", "quantise", "sign_majority"]
Aggregation = Literal["mean", "median", "trimmed_mean"]
Fault = Literal["label_flip", "noise", "sign_flip", "nan"]
Sampling = Literal["uniform", "examples", "poisson", "cyclic"]
Reference = Literal["global", "received"]
Mechanism = Literal["gaussian", "banded"]
Late = Literal["fewer_steps", "left_out", "narrower", "sends_less"]
Dtype = Literal["float32", "bfloat16"]
Precision = Literal["highest", "high", "default"]
Conv = Literal["auto", "loop", "patches", "grouped"]
ModelName = Literal[
    "mlp", "cnn", "conv1d", "vgg5", "resnet6", "resnet8", "resnet10", "resnet18", "vit"
]
Sizes = Literal["equal", "lognormal", "power"]
Features = Literal["alike", "noise", "rotation", "brightness"]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]
PartitionKind = Literal["iid", "dirichlet", "shards", "natural"]

MODELS = Kind(
    "model.name",
    "lipsjax.models",
    get_args(ModelName),
    passed=("num_classes", "input_shape"),
    needed=("num_classes",),
    options="model.options",
)
STRATEGIES = Kind(
    "strategy.name", "lipsjax.strategies", get_args(StrategyName), options="strategy.options"
)
CRITERIA = Kind("sparsity.criterion", "lipsjax.criteria", get_args(Criterion))
PARTITIONS = Kind(
    "partition.kind",
    "lipsjax.partitions",
    get_args(PartitionKind),
    passed=("dataset", "rng", "clients"),
    needed=("dataset", "rng", "clients"),
    options="partition.options",
)
MEASURES = Kind("evaluation.measures", "lipsjax.measures", ())
KINDS = (MODELS, STRATEGIES, CRITERIA, PARTITIONS, MEASURES)
"""Parts that a config names, and that may come from outside; data sets have a look at paths too."""
DATASETS = Kind(
    "dataset",
    "lipsjax.datasets",
    ("digits", "breast_cancer", "wine", "synthetic", "mnist1d", "watch"),
    options="dataset_options",
)


def _part_of(kind: Kind) -> Any:
    """Return how the command line reads the name of a part."""

    def read(said: list[str]) -> str:
        kind.check(said[0], "it")
        return said[0]

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join((*kind.built_in, 'MODULE:FUNCTION'))}}}",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    )


def read_options(entries: Sequence[str]) -> dict[str, float | bool]:
    """Read ``NAME=VALUE ...`` as a command line has it.

    Raises:
      ValueError: naming the entry and what is allowed.

    Example:
      >>> read_options(["momentum=0.5", "nesterov=true"])
      {'momentum': 0.5, 'nesterov': True}
    """
    options: dict[str, float | bool] = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        if entry == "none" and len(entries) == 1:
            return {}
        if name in options:
            raise ValueError(f"options name {name} twice")
        try:
            truth = {"true": True, "false": False}.get(value.lower())
            options[name] = float(value) if truth is None else truth
        except ValueError:
            raise ValueError(
                f"options must be like momentum=0.9 nesterov=true, not {entry!r}"
            ) from None
    return options


def read_part_options(entries: Sequence[str]) -> dict[str, int | float | bool | str]:
    """Read ``NAME=VALUE ...`` of a part: integers stay integers, and words are texts.

    Raises:
      ValueError: naming the entry and what is allowed.

    Example:
      >>> read_part_options(["width=8", "rate=0.5", "bias=false", "kind=wide"])
      {'width': 8, 'rate': 0.5, 'bias': False, 'kind': 'wide'}
    """
    options: dict[str, int | float | bool | str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if entry == "none" and len(entries) == 1:
            return {}
        if not (name and equals):
            raise ValueError(f"options must be like width=8 rate=0.5 kind=wide, not {entry!r}")
        if name in options:
            raise ValueError(f"options name {name} twice")
        options[name] = _read_value(value)
    return options


def _read_value(text: str) -> int | float | bool | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


Options = Annotated[
    dict[str, float | bool],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=VALUE ...]",
        instance_from_str=read_options,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda options: [f"{name}={value}" for name, value in options.items()],
    ),
]
PartOptions = Annotated[
    dict[str, int | float | bool | str],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=VALUE ...]",
        instance_from_str=read_part_options,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda options: [f"{name}={value}" for name, value in options.items()],
    ),
]

EACH = ("each",)
"""What holds out every site in turn."""
SitesHeldOut = Annotated[
    tuple[str | int, ...] | Literal["each"],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[SITE ...]|each",
        instance_from_str=tuple,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda sites: [str(site) for site in sites],
    ),
]
"""Sites by name or number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How one's own files are read. What a format has no use for is refused."""

    label: str | None = None
    """Column of labels, of CSV and parquet; none: label."""
    site: str | None = None
    """Column of sites; none: site, if there is one. So are group, time and test."""
    group: str | None = None
    """Column of what must not be parted, as a patient's number."""
    time: str | None = None
    """Column of when examples were taken: numbers or dates."""
    test: str | None = None
    """Column that says what is for testing: train and test, 0 and 1, or false and true."""
    features: tuple[str, ...] = ()
    """Columns of inputs, in this order, others left out; none: all that are left."""
    shape: tuple[int, ...] = ()
    """Height, width and perhaps channels of images whose values are columns."""
    resize: tuple[int, ...] = ()
    """Height and width that pictures are brought to."""
    validation: Literal["train", "test", "leave_out"] | None = None
    """What becomes of a validation part, where there is one: it must be said."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartitionConfig:
    """Which client holds which examples."""

    kind: Annotated[str, _part_of(PARTITIONS)] = "dirichlet"
    """iid: drawn from the whole; dirichlet: a class mix of each client; shards: a few classes;
    natural: the sites that the data name, as they are; or an own part, as of model.name."""
    alpha: float = 0.1
    """Dirichlet concentration: small is heterogeneous. Read by kind = dirichlet only."""
    classes: int = 2
    """Classes of each client. Read by kind = shards only."""
    clients: int = 20
    """Number of registered clients K; of kind = natural as many as there are sites."""
    hold_out_sites: SitesHeldOut = ()
    """Sites, by name or number, that never train and are scored at the end; each, in a study: every
    site in turn, a cell of the grid each. kind = natural only."""
    score_whole: bool = False
    """Score sites that are held out on all of their examples, not on those for testing alone; then
    none are left to fine-tune on. Read by hold_out_sites only."""
    split: Literal["auto", "given", "stratified", "group", "time"] = "auto"
    """How a site's examples part into training and test: by class, by groups that stay together,
    the last in time; auto: as the data say, else by group, else by class. kind = natural only."""
    test_share: float = 0.2
    """Share of a site's examples for testing, where the data do not say. kind = natural only."""
    most_examples: int | None = None
    """At most so many training examples of each site, drawn; none: all. kind = natural only."""
    train_examples: int | tuple[int, ...] = 30
    """Training examples per client: one number for all, or one for each. Not of kind = natural."""
    sizes: Sizes = "equal"
    """lognormal, power: clients differ in size, train_examples being their mean."""
    size_skew: float = 1.0
    """Deviation of the logarithm, or exponent of the power law. Read by those two sizes only."""
    features: Features = "alike"
    """What distorts the images of each client, its own way: noise, rotation, brightness. Of images
    alone."""
    feature_skew: float = 0.5
    """How far clients differ so: 0 not at all, 1 the most. Not read by features = alike."""
    test_examples: int = 30
    """Test examples per client, of the same class mix as its training examples."""
    new_clients: int = 0
    """Further clients that never train; scored after the last round, as new sites would be."""
    pooled: bool = False
    """One site holds the examples of all clients: what federation stands in for. A control."""
    overlap: bool = False
    """Let clients share training examples, as the published sampler does."""
    options: PartOptions = dataclasses.field(default_factory=dict)
    """Arguments of an own kind. Read by it only."""

    def __post_init__(self):
        """Write each as the list of one word that it is on a command line."""
        if self.hold_out_sites == EACH[0]:
            object.__setattr__(self, "hold_out_sites", EACH)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network that every client trains."""

    name: Annotated[str, _part_of(MODELS)] = "cnn"
    """cnn: a stem, three middle convolutions, a classifier; vgg5, resnet6, 8, 10: of LIPS. conv1d
    is a cnn of series in time, mlp takes any inputs, and all others take images alone. An own
    part: its name in an installed package, or package.module:function, whose code is then run."""
    options: PartOptions = dataclasses.field(default_factory=dict)
    """Arguments of an own model, as units=8; their types are those of its function."""
    init: str | None = None
    """Start every client from the weights of a safetensors file, as lipsjax export or PyTorch wrote
    it; none: they are drawn."""
    width: int | None = None
    """Channels of the stem of cnn and conv1d, and of a ResNet's first stage, units of an mlp's
    layers, of a vit's tokens; none: 64 of a ResNet, 32 of others."""
    depth: int = 3
    """Middle layers of an mlp, blocks of a vit; the others have their own."""
    normalise: bool = False
    """Give every channel or feature mean 0 and deviation 1 over what clients that train hold; of
    images in clients that are made up, over the training split."""
    norm: Norm = "batch"
    """After every convolution, or layer of an mlp (not group). A vit has LayerNorm: not read."""
    dtype: Dtype = "float32"
    """Arithmetic of layers; parameters, statistics, losses and averages are always float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """How one client trains between two aggregations."""

    epochs: int = 5
    """Passes over the client's own examples per round."""
    batch_size: int = 20
    """Examples per step; the last step of an epoch takes what is left."""
    optimizer: str = "sgd"
    """Name of an optimizer of optax (sgd, adam, adamw, ...), fresh every round."""
    learning_rate: float = 0.05
    """Step size of the local optimizer."""
    schedule: RateSchedule = "constant"
    """How the step size goes, round by round, from learning_rate towards 0 after the last."""
    weight_decay: float = 0.0
    """Added to the gradient, times the weights, before the optimizer sees it."""
    augmentation: tuple[Augmentation, ...] = ()
    """Distortions of training images, drawn anew in every epoch: flip, crop, rotate."""
    options: Options = dataclasses.field(default_factory=lambda: {"momentum": 0.9})
    """All further arguments of the optimizer, replaced as a whole: none, or in TOML {}, clears."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrategyConfig:
    """What clients and server exchange and keep."""

    name: Annotated[str, _part_of(STRATEGIES)] = "fedavg"
    """Federated strategy; or an own part, as of model.name."""
    options: PartOptions = dataclasses.field(default_factory=dict)
    """Its own arguments, as mu=0.1 of fedprox; what is not given is as in its paper."""
    norm: NormPolicy = "global"
    """global: averaged; local: kept per client (FedBN); local_with_biases: all biases too."""
    compression: Compression = "none"
    """What clients send, compressed: top_k with error feedback, random rounding, or a vote."""
    compression_options: Options = dataclasses.field(default_factory=dict)
    """Arguments of the compression, as fraction=0.01 of top_k."""
    aggregation: Aggregation = "mean"
    """How messages become one; median and trimmed_mean need cohort x parameters values."""
    trim: float = 0.1
    """Share that trimmed_mean leaves out at each end. Read by aggregation = trimmed_mean only."""
    clip_norm: float | None = None
    """Largest norm of a client's delta that the server takes; none: any."""
    cohort: int | None = None
    """Clients that are drawn for a round; none: all of them."""

    def __post_init__(self):
        """Keep the options of built-in strategies floating, as they always were recorded."""
        if self.name in STRATEGIES.built_in:
            floating = {n: float(v) if type(v) is int else v for n, v in self.options.items()}
            object.__setattr__(self, "options", floating)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParticipationConfig:
    """Which clients a round draws, and what becomes of them."""

    sampling: Sampling = "uniform"
    """uniform; examples: in proportion to them, and then every message weighs alike; poisson: each
    for itself, so that cohorts differ in size, strategy.cohort being what it is on average."""
    dropout: float = 0.0
    """Chance that a client that was drawn never trains."""
    mid_round_dropout: float = 0.0
    """Chance that a client that trains stops midway, and sends nothing."""
    stragglers: float = 0.0
    """Chance that a client that arrives did fewer of its local steps."""
    min_work: float = 0.1
    """Share of its steps that a straggler does at least."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaultConfig:
    """Faulty clients, to test what withstands them."""

    clients: int = 0
    """How many are faulty, in every round that draws them."""
    kind: Fault = "label_flip"
    """label_flip: wrong labels; noise, sign_flip, nan: on, of and for what it sends."""
    scale: float = 1.0
    """Of the noise, or of the negated delta."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """Differential privacy of clients, or of the examples within each.

    Clients: a bound on each one's update, and noise on their sum. Examples: a bound on each one's
    gradient, and noise on each batch's.
    """

    clip: float | None = None
    """Largest norm of a client's update, or of an example's gradient; none: nothing is protected.
    The rest is read with it."""
    unit: Literal["client", "example"] = "client"
    """What is protected: clients, from all but the server, or examples, from the server too."""
    epsilon: float | None = None
    """That the whole run may spend: the least noise that keeps within it is found."""
    noise_multiplier: float | None = None
    """Deviation of the noise over the clip, where epsilon is not given."""
    delta: float = 1e-5
    """Of (epsilon, delta); below one over the number of clients."""
    adaptive: float | None = None
    """Share of updates that the clip shall follow, from clip on; none: it stays."""
    reference: Reference = "global"
    """What an update is from: global, the model that went out whole, so that what LIPS zeroes
    counts against the clip; received: what the client received."""
    mechanism: Mechanism = "gaussian"
    """Noise of every round for itself; or banded, of which later rounds take back a part: clients
    in turn (participation.sampling cyclic)."""
    noise_cohort_size: int | None = None
    """Clients in a round that the noise is for, to simulate a larger federation; none: those that
    take part."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SecureConfig:
    """Secure aggregation: sums of integers, of which the server sees no term."""

    bits: int | None = None
    """Of one integer; none: sums are of floats. The rest is read with it."""
    clip: float = 1.0
    """Largest change of one value; what is beyond is cut, and counted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SitesConfig:
    """What sites compute on and are linked by: a simulated clock, and what waits for whom."""

    devices: tuple[str, ...] = ()
    """Device classes of the sites, dealt out in turn: pi-zero-2w, pi-4, pi-5, m2-air, ryzen-5600x;
    or a FILE.csv with a row for each site; none: there is no clock. The rest is read with it."""
    deadline: float | None = None
    """Seconds of a round after which the server waits for nobody; none: it waits for all."""
    late: Late = "fewer_steps"
    """What becomes of sites that would be late, or over their budget: they do fewer steps; are
    left_out; or train a model that is narrower, or send less of top_k, halved as often as it takes,
    and then do fewer steps. Read by deadline and budget only."""
    budget: float | None = None
    """Money that each site may spend on its device in the whole run, as a column of a FILE.csv has
    it for each; none: any."""
    price_per_hour: tuple[float, ...] = ()
    """Of a device in use, one price for each device class or site, in turn; none: those of a
    FILE.csv; known classes have none."""
    widths: tuple[float, ...] = ()
    """Share of the channels, or units, of every layer that a site trains, one for each device class
    or site, in turn, as in HeteroFL; none: all."""
    densities: tuple[float, ...] = ()
    """Share of the middle layers' weights, the largest, that a site trains and holds, all others
    being zero there; the same way; none: all."""
    fractions: tuple[float, ...] = ()
    """Fraction of top_k (strategy.compression) of a site, the same way; none: that of
    strategy.compression_options."""
    buffer: int | None = None
    """Clients after whose updates the server makes a new model, waiting for nobody else (of
    strategy.name = fedbuff, in place of strategy.cohort); none: in rounds. rounds then counts
    updates of the server."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparsityConfig:
    """Transient sparsity (LIPS): what is zeroed, when, and by which rule.

    The criterion and what follows it are read by operation = mask only, but for kinds.
    """

    density: float = 0.5
    """Fraction d0 of the middle layers' weights that is kept in the first sparse round."""
    schedule: Schedule = "linear"
    """How the density goes from d0 at the first round to 1 at the last (constant: it does not)."""
    every: int = 5
    """A round is followed by a sparse broadcast when its index is a multiple of this."""
    operation: Operation = "mask"
    """mask; or, as controls, scale by sqrt(d), and shrink_perturb, which adds sqrt(1 - d) noise."""
    criterion: Annotated[str, _part_of(CRITERIA)] = "saliency"
    """Which weights are kept: the largest of this score; or an own part, as of model.name."""
    sharing: Sharing = "client"
    """client: each client has its own mask; shared: one mask from the clients' mean score."""
    scope: Scope = "layer"
    """Each layer keeps the same density, all compete, or layers follow Erdos-Renyi-kernel (erk)."""
    refill: Refill = "zero"
    """What masked weights are set to: zero, their initial values, or fresh initial noise."""
    hold: int = 0
    """Local steps after which masked weights are set back again; 0: they are free at once."""
    gradient: GradientSource = "last_local"
    """last_local: of the last batch; fresh: at the global model; stored: last_local for cohorts."""
    kinds: tuple[Literal["conv", "dense"], ...] | None = None
    """Kinds of middle layers that are masked; none: convolutions, or dense of a model without."""
    trigger: Trigger = "schedule"
    """schedule; or inertia, which is this project's own: a round is followed by a sparse broadcast
    if the inertia index of the last rounds is above the threshold, and the layers that lag most
    keep least. every then says which rounds may be, and density what a layer keeps that stands
    still."""
    threshold: float = 0.0
    """Of the inertia index, below 1. Read by trigger = inertia only."""
    window: int = 3
    """Rounds that began unmasked over which that is a mean. Read by trigger = inertia only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is evaluated, and how often."""

    every: int = 1
    """Rounds between evaluations; the last round is always evaluated."""
    global_examples: int | None = 1000
    """At most this many examples of the test split make the global test set; none: all."""
    clients_on_global: bool = True
    """Also evaluate each client's own model on the global test set (costs cohort x test)."""
    tune_epochs: int = 0
    """Epochs, at the full rate, of fine-tuning after the last round, to be scored; 0: none."""
    measures: tuple[str, ...] = ()
    """Own measures of a round's global model, before and after it; named as model.name says."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The science of one run; equal configs and plans give equal bits."""

    dataset: str = "digits"
    """digits, breast_cancer, wine, synthetic, mnist1d, watch; FILE.npz, .csv or .parquet; a folder
    of pictures, parquet or IDX files, or of Hugging Face's save_to_disk; a TFDS set; or an own
    part, as of model.name."""
    dataset_options: PartOptions = dataclasses.field(default_factory=dict)
    """Arguments of an own data set."""
    seed: int = 0
    """Seed of the partition, the initialisation, the cohorts, the batches and the masks."""
    rounds: int = 40
    """Communication rounds T."""
    data: DataConfig = DataConfig()
    partition: PartitionConfig = dataclasses.field(default_factory=PartitionConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    local: LocalConfig = dataclasses.field(default_factory=LocalConfig)
    strategy: StrategyConfig = dataclasses.field(default_factory=StrategyConfig)
    participation: ParticipationConfig = ParticipationConfig()
    faults: FaultConfig = FaultConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    secure: SecureConfig = SecureConfig()
    sites: SitesConfig = SitesConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    sparsity: Annotated[SparsityConfig | None, tyro.conf.Suppress] = None
    """Transient sparsity; none is dense."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How and where a run is executed; recorded as its plan, never part of its identity."""

    out: str = "results"
    """Directory of studies and runs."""
    data_dir: str | None = None
    """TFDS data directory; digits and synthetic need none."""
    devices: int | None = None
    """Devices that clients are spread over; none: all that can be used (on a CPU, its cores)."""
    chunk: int | Literal["auto"] = "auto"
    """Clients trained at once on each device; auto: 1 on CPU, else up to 32 that fit in memory."""
    conv: Conv = "auto"
    """How convolutions are computed; auto: loop on CPU, grouped elsewhere."""
    precision: Precision = "highest"
    """Of float32 products on accelerators: highest is float32 itself, which a CPU always has."""
    rounds_per_call: int = 10
    """Rounds per compiled call; metrics and a checkpoint are written after each."""
    keep_checkpoints: tuple[int, ...] = ()
    """Rounds before which the state is kept, for lipsjax attack to begin there; others are dropped,
    but for the newest two."""
    workers: int | Literal["auto"] = "auto"
    """Processes that run trials of a sweep side by side; auto: one a core on CPU, else one."""
    trackers: tuple[TrackerName, ...] = ()
    """Also log metrics to these, under OUT: tensorboard, wandb, mlflow."""
    coordinator: str | None = None
    """HOST:PORT of process 0, of several; auto: found by JAX (SLURM, Open MPI, Cloud TPU pods)."""
    processes: int | None = None
    """How many processes start this command, with a coordinator; each has its own clients' data."""
    process: int | None = None
    """Which of them this is, from 0; process 0 records and prints."""

    def __post_init__(self):
        """Read ``~`` as a shell would."""
        for name in ("out", "data_dir"):
            path = getattr(self, name)
            object.__setattr__(self, name, path and os.path.expanduser(path))  # noqa: PTH111


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prices:
    """What a study's costs and gains are worth, in one currency; what is not given is not shown."""

    per_gb: float | None = None
    """Of moving a gigabyte (10^9 bytes) between a client and the server, either way."""
    per_device_hour: float | None = None
    """Of an hour of one device as fast as those here; evaluation counts, compiling does not."""
    per_point: float | None = None
    """What a point (1 %) of accuracy is worth."""


WHERE_GIVEN = (
    *(("model", "options"), ("model", "init")),
    *(("partition", "options"), ("evaluation", "measures")),
    ("partition", "score_whole"),
)
"""Fields that are recorded where they are given alone: most runs have none of them."""


def num_clients(config: Config) -> int:
    """Return how many clients train: K, or the one that holds what all would."""
    return 1 if config.partition.pooled else config.partition.clients


def cohort_size(config: Config) -> int:
    """Return how many clients take part in a round; of pooled data, the one there is."""
    if config.partition.pooled:
        return 1
    asked = config.strategy.cohort if config.sites.buffer is None else config.sites.buffer
    return num_clients(config) if asked is None else asked


def source(config: Config) -> tuple[str, DataConfig, tuple[tuple[str, Any], ...]]:
    """Return what a data set is loaded by: its name, how it is read, the options of an own one.

    >>> source(Config(dataset="mine:bars", dataset_options={"size": 6}))[2]
    (('size', 6),)
    """
    return config.dataset, config.data, tuple(sorted(config.dataset_options.items()))


def fit_devices(execution: Execution, config: Config) -> Execution:
    """Return an execution of a trial on no more devices than its clients can fill."""
    devices = execution.devices
    return dataclasses.replace(execution, devices=devices and min(devices, cohort_size(config)))


TRIGGERS = ("trigger", "threshold", "window")
"""Fields of sparsity that a trigger has beside a schedule."""
GIVEN_UP = ("widths", "densities", "fractions")
"""Fields of sites that say which part of a round each site does."""
MONEY = ("budget", "price_per_hour")
"""Fields of sites that say what their devices cost, and may."""
WITHOUT_CONVOLUTIONS = ("mlp", "vit")
"""Models of this package that have none between stem and classifier."""


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as nested dicts, as it is recorded and hashed.

    Fields of own parts and the like are left out where they are empty, those of triggers where
    there is none, and those of privacy, secure sums and sites where there is none of it, so that
    runs without have the names that they had before there were any. For the same reason the kinds
    that masks have by default are written out.

    >>> "options" in to_dict(Config())["model"]
    False
    >>> to_dict(Config(sparsity=SparsityConfig()))["sparsity"]["kinds"]
    ('conv',)
    """
    values = dataclasses.asdict(config)
    if isinstance(config, Config):
        for section, field in WHERE_GIVEN:
            if not values[section][field]:
                del values[section][field]
        if not values["dataset_options"]:
            del values["dataset_options"]
        if config.privacy == PrivacyConfig():
            del values["privacy"]
        else:  # likewise fields that came later
            usual = dataclasses.asdict(PrivacyConfig())
            for name in ("unit", "mechanism", "noise_cohort_size"):
                if values["privacy"][name] == usual[name]:
                    del values["privacy"][name]
        if config.secure == SecureConfig():
            del values["secure"]
        if config.sites == SitesConfig():
            del values["sites"]
        else:
            for name in (*GIVEN_UP, *MONEY):
                if values["sites"][name] in (None, ()):
                    del values["sites"][name]
        if config.sparsity is not None:
            _write_out(values["sparsity"], config)
    return values


def _write_out(sparsity: dict[str, Any], config: Config) -> None:
    """Bring a section of sparsity to the form in which it is recorded."""
    if all(sparsity[name] == getattr(SparsityConfig, name) for name in TRIGGERS):
        for name in TRIGGERS:
            del sparsity[name]
    if sparsity["kinds"] is None:
        is_dense = config.model.name in WITHOUT_CONVOLUTIONS
        sparsity["kinds"] = ("dense",) if is_dense else ("conv",)
