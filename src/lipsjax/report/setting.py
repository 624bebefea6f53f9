"""A recorded study's setting in words, for readers of its report."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lipsjax.analysis.wording import counted
from lipsjax.datasets.base import show
from lipsjax.recording import BEHAVIOUR, Recording, StudyRecording, describe_behaviour

_MOST_NAMES = 20

_CRITERIA = {
    "saliency": "the largest |gradient × weight|",
    "magnitude": "the largest |weight|",
    "lowest": "the smallest |weight|",
    "inverted": "the smallest |gradient × weight|",
    "random": "chosen at random",
    "gradient": "the largest |gradient|",
}
_MODELS = ("mlp", "cnn", "conv1d", "vgg5", "resnet6", "resnet8", "resnet10", "resnet18", "vit")
_REFILLS = {
    "zero": "set to zero",
    "init": "set back to their initial values",
    "noise": "replaced by fresh initial noise",
}
_SCOPES = {
    "layer": "each layer keeps the same share",
    "global": "layers compete for one share",
    "erk": "shares by Erdős–Rényi kernel",
}
_NORM_POLICIES = {
    "global": "averaged by the server",
    "local": "kept by each client",
    "local_with_biases": "kept by each client, and so are all biases",
}
_ABSENCES = {
    "dropout": "dropout",
    "mid_round_dropout": "mid-round dropout",
    "stragglers": "stragglers",
}


def describe_setting(recording: Recording) -> list[tuple[str, str]]:
    """What every arm of a study shares, as read from one of its runs.

    Args:
      recording: a finished run.

    Returns:
      Pairs of a term and its description, in the order of a methods section.
    """
    config, setup = recording.config, recording.setup
    partition, local = config["partition"], config["local"]
    middle = ", ".join(layer["name"] for layer in setup["layers"] if layer["role"] == "middle")
    options = ", ".join(f"{key} {value}" for key, value in local["options"].items())
    cohort = config["strategy"]["cohort"]
    evaluation = config["evaluation"]
    # what the code now would give with other numbers says so first
    is_other = recording.behaviour != BEHAVIOUR
    marked = describe_behaviour(recording.behaviour, recording.plan["versions"])
    return [
        *([("Version", marked)] if is_other else []),
        ("Data set", f"{_data(config['dataset'])}, {setup['num_classes']} classes"),
        ("Clients", _named(describe_partition(partition), setup.get("site_names"))),
        (
            "Model",
            f"{_model(config['model'], setup['num_params'])} "
            f"({_NORM_POLICIES[config['strategy']['norm']]}). Middle layers: {middle}",
        ),
        (
            "Strategy",
            f"{_strategy(config['strategy'])}, {config['rounds']} rounds, "
            f"{'all clients' if cohort is None else f'{cohort} clients drawn'} in every round"
            + _participants(config),
        ),
        (
            "Local training",
            f"{counted(local['epochs'], 'epoch')} per round, batches of {local['batch_size']}, "
            f"{local['optimizer']}, learning rate {local['learning_rate']}"
            + (f", {options}" if options else "")
            + _tuned(local),
        ),
        (
            "Evaluation",
            f"every {_ordinal(evaluation['every'])}, global test set of "
            + (
                "all test examples"
                if evaluation["global_examples"] is None
                else f"at most {evaluation['global_examples']:,} examples"
            ),
        ),
        ("Seeds", seeds_stand_for(partition)),
    ]


def seeds_stand_for(partition: Mapping[str, Any]) -> str:
    """What the seeds of a study stand for, so that nobody reads its intervals as of other sites.

    Args:
      partition: the config's section.

    Returns:
      One sentence.

    Example:
      >>> seeds_stand_for({"kind": "iid"}).split(":")[0]
      'Seeds are redraws from these data, not other data'
    """
    if partition["kind"] != "natural":
        return (
            "Seeds are redraws from these data, not other data: of initial weights, batches, and "
            "which client holds which examples."
        )
    drawn = ["initial weights", "batches"]
    if partition["most_examples"] is not None:
        drawn.append("which examples a site keeps")
    if partition["split"] != "given":
        drawn.append("which of a site's examples are for testing")
    return (
        f"Seeds are redraws from these data, not other sites: of {', '.join(drawn[:-1])} and "
        f"{drawn[-1]}."
    )


def in_a_phrase(recording: Recording) -> str:
    """What a study is of, in a few words: data, clients and model.

    Args:
      recording: a finished run.

    Returns:
      A noun phrase.
    """
    config = recording.config
    partition, train = config["partition"], config["partition"]["train_examples"]
    examples = train if isinstance(train, int) else f"{min(train)} to {max(train)}"
    kind = partition["kind"]
    if kind == "natural":
        sites = counted(partition["clients"], "site")
        return (
            f"{_data(config['dataset'])} at {sites}, {config['model']['name']}, "
            f"{counted(config['rounds'], 'round')}"
        )
    mix = {"dirichlet": f"Dirichlet({partition['alpha']})", "iid": "all alike"}.get(kind, kind)
    clients = counted(partition["clients"], "client")
    if kind in ("iid", "dirichlet", "shards"):  # the others read no number of examples
        clients += f" of {examples} examples"
    return (
        f"{_data(config['dataset'])} at {clients} "
        f"({mix}), {config['model']['name']}, {counted(config['rounds'], 'round')}"
    )


def _model(model: Mapping[str, Any], num_params: int) -> str:
    """Name a network, its size and its normalisation."""
    norm = "layer" if model["name"] == "vit" else model["norm"]
    inputs = " of inputs with mean 0 and deviation 1" if model.get("normalise") else ""
    if model["name"] not in _MODELS:  # a part from outside, which has its own normalisation
        return f"{model['name']}{_options(model)}{inputs}, {num_params:,} parameters"
    begun = ", begun from given weights" if model.get("init") else ""
    return f"{model['name']}{inputs}, {num_params:,} parameters, {norm} normalisation{begun}"


def describe_arm(study: StudyRecording, arm: str) -> str:
    """What one arm does, and in which fields of the config it differs from the reference.

    Args:
      study: the recorded study.
      arm: name of one of its arms.

    Returns:
      One or two sentences; that nothing is known yet if no trial of the arm is finished.
    """
    runs = {trial.arm: trial.recording for trial in reversed(study.trials)}
    if arm not in runs:
        return "No trial is finished yet."
    configs = {name: run.config for name, run in runs.items()}
    config = configs[arm]
    words = [describe_sparsity(_as_masked(runs[arm]))]
    reference = study.references[arm]
    if arm != reference and reference in configs:
        own, other = (_flat(c) for c in (config, configs[reference]))
        changed = [
            f"{key} = {own.get(key)} ({reference}: {other.get(key)})"
            for key in own.keys() | other.keys()
            if own.get(key) != other.get(key) and key.split(".")[0] not in ("seed", "sparsity")
        ]
        if changed:
            words.append(f"Also differs in {'; '.join(sorted(changed))}.")
    return " ".join(words)


def _as_masked(run: Recording) -> Mapping[str, Any] | None:
    """The section of sparsity, with kinds of layers that the model has.

    By default convolutions are masked, or dense layers of a model without, which the config of
    a model from outside does not say.
    """
    sparsity = run.config["sparsity"]
    if sparsity is None:
        return None
    present = {layer.get("kind") for layer in run.setup["layers"] if layer["role"] == "middle"}
    kinds = [kind for kind in sparsity["kinds"] if kind in present]
    return sparsity if kinds else {**sparsity, "kinds": sorted(filter(None, present))}


def describe_sparsity(sparsity: Mapping[str, Any] | None) -> str:
    """What clients receive, in one or two sentences.

    Args:
      sparsity: the config's section; None is dense.

    Returns:
      The sentences.

    Example:
      >>> describe_sparsity(None)
      'Dense: every client receives the whole global model after every round.'
    """
    if sparsity is None:
        return "Dense: every client receives the whole global model after every round."
    start = f"{100 * sparsity['density']:g}%"
    schedule = sparsity["schedule"]
    share = start if schedule == "constant" else f"{start} at first, 100% at the end ({schedule})"
    operation = sparsity.get("operation", "mask")  # older recordings do not say so
    if operation != "mask":
        return (
            f"A control without masks: after every {_ordinal(sparsity['every'])} clients receive "
            f"the global model with {' and '.join(sparsity['kinds'])} weights of its middle layers "
            f"times sqrt(d), d = {share}"
            + (", and sqrt(1 - d) of fresh initial noise." if "perturb" in operation else ".")
        )
    criterion = sparsity["criterion"]
    kept = _CRITERIA.get(criterion, f"the largest {criterion}")
    kinds = " and ".join(sparsity["kinds"])
    owner = (
        "each client has its own mask" if sparsity["sharing"] == "client" else "one mask for all"
    )
    score = (
        f"; gradient: {sparsity['gradient']}"
        if criterion in ("saliency", "gradient", "inverted") or criterion not in _CRITERIA
        else ""
    )
    held = (
        "Nothing holds the mask in local training."
        if sparsity["hold"] == 0
        else f"The mask is held for the first {counted(sparsity['hold'], 'local step')}."
    )
    when, scope = f"after every {_ordinal(sparsity['every'])}", _SCOPES[sparsity["scope"]]
    name = "Transient sparsity"
    if sparsity.get("trigger", "schedule") == "inertia":
        name = "Adaptive transient sparsity"
        rounds = counted(sparsity["window"], "round")
        when += f", if the inertia index of the last {rounds} that began unmasked is above "
        when += f"{sparsity['threshold']:g},"
        share = f"from 100% down to {start}, the less the more the layer lags"
        scope = "in each layer by its own inertia"
    return (
        f"{name}: {when} clients receive the "
        f"global model with part of the {kinds} weights of its middle layers "
        f"{_REFILLS[sparsity['refill']]}. Kept are {share}, {kept} ({scope}; "
        f"{owner}{score}). {held}"
    )


def _tuned(local: Mapping[str, Any]) -> str:
    """What is done to learning rate, weights and images; nothing where nothing is."""
    words = []
    if local.get("schedule", "constant") != "constant":
        words.append(f"{local['schedule']} decay over rounds")
    if local.get("weight_decay"):
        words.append(f"weight decay {local['weight_decay']:g}")
    if local.get("augmentation"):
        words.append(f"images distorted by {' and '.join(local['augmentation'])}")
    return "".join(f", {word}" for word in words)


def _strategy(strategy: Mapping[str, Any]) -> str:
    """A strategy and what is wrapped around it."""
    words = [strategy["name"]]
    words[0] += _options(strategy)
    if strategy.get("compression", "none") != "none":
        words.append(f"updates compressed by {strategy['compression']}")
    if strategy.get("clip_norm") is not None:
        words.append(f"deltas clipped to {strategy['clip_norm']:g}")
    if strategy.get("aggregation", "mean") != "mean":
        words.append(f"aggregated by {strategy['aggregation']}")
    return ", ".join(words)


def _participants(config: Mapping[str, Any]) -> str:
    """What keeps clients from arriving, and how many are faulty; nothing where all is well."""
    everyone = {"sampling": "uniform", "dropout": 0, "mid_round_dropout": 0, "stragglers": 0}
    # recordings from before there was any of this do not say so
    chances, faults = config.get("participation", everyone), config.get("faults", {"clients": 0})
    words = [
        f"{100 * chances[name]:g}% {words}" for name, words in _ABSENCES.items() if chances[name]
    ]
    if config["strategy"]["cohort"] is not None and chances["sampling"] == "examples":
        words.insert(0, "drawn by their examples")
    if config["strategy"]["cohort"] is not None and chances["sampling"] == "poisson":
        words.insert(0, "each drawn for itself")
    if config["strategy"]["cohort"] is not None and chances["sampling"] == "cyclic":
        words.insert(0, "in turn")
    if faults["clients"]:
        words.append(f"{counted(faults['clients'], 'faulty client')} ({faults['kind']})")
    return "".join(f", {word}" for word in [*words, *_protection(config)])


def _protection(config: Mapping[str, Any]) -> Iterator[str]:
    """How updates are protected; nothing of recordings from before there was any protection."""
    privacy, secure = config.get("privacy", {"clip": None}), config.get("secure", {"bits": None})
    if privacy["clip"] is not None:
        bound = f"updates of norm {privacy['clip']:g} at most"
        if privacy["adaptive"] is not None:
            bound += f" at first, then of their {100 * privacy['adaptive']:g}% quantile"
        if privacy["epsilon"] is not None:
            promise = f"epsilon {privacy['epsilon']:g} at delta {privacy['delta']:g}"
        else:
            promise = f"a noise multiplier of {privacy['noise_multiplier']:g}"
        if privacy.get("mechanism") == "banded":
            promise += ", with banded noise"
        if privacy.get("noise_cohort_size") is not None:
            promise += (
                f", with noise as of rounds of {privacy['noise_cohort_size']:,} clients, which "
                "simulates a larger federation and protects nobody in this one"
            )
        if privacy.get("unit") == "example":
            yield (
                f"differential privacy of each site's examples by {promise} (one example replaced "
                f"by nothing), gradients of norm {privacy['clip']:g} at most"
            )
        else:
            whole = {"global": "the whole model", "received": "what the client received"}
            yield (
                f"differential privacy of clients by {promise} (one client more or less), {bound}, "
                f"from {whole[privacy['reference']]}"
            )
    if secure["bits"] is not None:
        yield f"secure sums of {secure['bits']} bits within {secure['clip']:g}"


def describe_partition(partition: Mapping[str, Any]) -> str:
    """How the data is shared out among the clients.

    Args:
      partition: the config's section.

    Returns:
      A phrase.

    Example:
      >>> wanted = {"kind": "shards", "classes": 2, "clients": 5, "overlap": False}
      >>> describe_partition(wanted | {"train_examples": 30, "test_examples": 9})
      '5 clients with 30 training and 9 test examples each, 2 classes each'
    """
    if partition["kind"] == "natural":
        return _describe_sites(partition)
    train, kind = partition["train_examples"], partition["kind"]
    if kind not in ("iid", "dirichlet", "shards"):  # a part from outside, which has its own say
        given = _options(partition)
        return f"{counted(partition['clients'], 'client')} by {kind}{given}{_apart(partition)}"
    sizes = partition.get("sizes", "equal")  # older recordings do not say so
    examples = f"{train if isinstance(train, int) else f'{min(train)} to {max(train)}'} training"
    if sizes != "equal":
        law = {"lognormal": "log-normal", "power": "power-law"}[sizes]
        examples += f" examples on average ({law}, skew {partition['size_skew']:g})"
    mix = "examples drawn alike (iid)"
    if kind == "dirichlet":
        mix = f"class mixes drawn from Dirichlet({partition['alpha']})"
    elif kind == "shards":
        mix = f"{partition['classes']} {'class' if partition['classes'] == 1 else 'classes'} each"
    shared = ", clients may share examples" if partition["overlap"] else ""
    new = partition.get("new_clients", 0)
    shared += f"; {counted(new, 'further client')} for the end, without training" if new else ""
    return (
        f"{counted(partition['clients'], 'client')} with {examples} and "
        f"{partition['test_examples']} test examples each, {mix}{shared}{_apart(partition)}"
    )


def _options(section: Mapping[str, Any]) -> str:
    """The options of a part in brackets; nothing where there are none."""
    told = ", ".join(f"{name} {value}" for name, value in section.get("options", {}).items())
    return f" ({told})" if told else ""


def _describe_sites(partition: Mapping[str, Any]) -> str:
    """How the sites that the data name are used, in a phrase."""
    parted = {
        "auto": "parted as the data say, else by groups, else by class",
        "given": "parted as the data say",
        "stratified": "parted class by class",
        "group": "parted by groups that stay together",
        "time": "the last in time for testing",
    }
    text = f"{counted(partition['clients'], 'site')} as the data name them"
    if partition["most_examples"] is not None:
        text += f", at most {partition['most_examples']} training examples each"
    if partition["hold_out_sites"]:
        text += f"; held out: {', '.join(map(str, partition['hold_out_sites']))}"
        text += ", scored on all of their examples" if partition.get("score_whole") else ""
    return f"{text}; examples {parted[partition['split']]}{_apart(partition)}"


def _apart(partition: Mapping[str, Any]) -> str:
    """What else is done to the clients' data, to end a phrase."""
    features = describe_features(partition)
    pooled = "; all of it pooled at one site" if partition.get("pooled") else ""
    return pooled + (f"; {features}" if features else "")


def describe_features(partition: Mapping[str, Any]) -> str:
    """How the images of clients differ.

    Args:
      partition: the config's section.

    Returns:
      A phrase; empty where they do not differ.

    Example:
      >>> describe_features({"features": "rotation", "feature_skew": 0.5})
      'the images of each client are turned by its own angle, up to 45 degrees either way'
    """
    features = partition.get("features", "alike")  # older recordings do not say so
    if features == "alike":
        return ""
    skew = partition["feature_skew"]
    of_pixels = f"up to {skew / 2:.0%} of the range of pixels"
    how = {
        "noise": f"have noise of its own strength, {of_pixels}",
        "rotation": f"are turned by its own angle, up to {90 * skew:g} degrees either way",
        "brightness": f"have a brightness of its own, {of_pixels} either way",
    }
    return f"the images of each client {how[features]}"


def _named(text: str, names: Sequence[str] | None) -> str:
    """A phrase on sites and their names, where they have some; the first few of many."""
    if not names:
        return text
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{text} ({', '.join(show(name, 40) for name in names[:_MOST_NAMES])}{more})"


def _ordinal(every: int) -> str:
    """Completes "every": "round", "5 rounds"."""
    return "round" if every == 1 else f"{every} rounds"


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _data(name: str) -> str:
    """Return a data set's name; of a file, without the folders that lead to it."""
    return Path(name).name or name
