"""Attack clients of a recorded run, and record beside it what was found.

::

    OUT/runs/HASH/attacks/NAME.json   what was attacked, by whom, with what knowledge
                          NAME.jsonl  a line per victim, as it comes: an attack that was stopped
                                      goes on with the next
                          NAME-CLIENT.npz  reconstructions and originals, where they are asked for

NAME is ``ROUND-ATTACK-ATTACKER-DIGEST`` of the settings.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lipsjax import attacks, recording
from lipsjax.attacks import attackers
from lipsjax.attacks.attackers import Knowledge, Target
from lipsjax.attacks.victims import Moment, given_to, in_chunks, moment
from lipsjax.recording import files
from lipsjax.recording.attacks import Attacker, read_victims
from lipsjax.rounds import RoundSpec
from lipsjax.runs.attack_config import AttackConfig, Name, listed
from lipsjax.runs.build import built_for
from lipsjax.runs.machine import here
from lipsjax.runs.prepare import Prepared
from lipsjax.runs.replay import Replay, Say, replay
from lipsjax.simulation import Simulation
from lipsjax.strategies.delta import shared_params
from lipsjax.strategy import Rank
from lipsjax.types import Model, PyTree

FEWEST_CLIENTS = 4
"""Of a round, for attacks that compare clients."""


class Unit(NamedTuple):
    """One attack by one attacker on one round."""

    attack: Name
    attacker: Attacker
    round: int
    name: str  # of its files


def search_of(config: AttackConfig, attack: Name) -> attacks.Search:
    """Return how an attack by matching searches."""
    search = attacks.DLG if attack == "gradient" else attacks.COSINE
    if config.steps is not None:
        search = search._replace(steps=config.steps)
    if config.total_variation is not None and attack == "cosine":
        search = search._replace(total_variation=config.total_variation)
    return search


def settings_of(config: AttackConfig, attack: Name) -> dict[str, Any]:
    """Return what of a config decides what an attack finds."""
    settings: dict[str, Any] = {"bitmaps": config.bitmaps, "seed": config.seed}
    if attack in ("gradient", "cosine"):
        settings |= {"labels": config.labels, "restarts": config.restarts}
        settings |= search_of(config, attack)._asdict()
    return settings


def units_of(config: AttackConfig) -> Iterator[Unit]:
    """Yield every attack of a config, round by round."""
    for t in sorted(config.rounds):
        for attack in config.attacks:
            for attacker in config.attackers:
                settings = files.canonical(settings_of(config, attack))
                digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
                yield Unit(attack, attacker, t, f"{t}-{attack}-{attacker}-{digest}")


def fitting(config: AttackConfig, prepared: Prepared) -> AttackConfig | None:
    """Return what of a study's attacks an arm can have; None of one whose messages nobody sees.

    Bitmaps are of arms with masks of each client's own.
    """
    left = tuple(a for a in config.attacks if a != "bitmaps" or _has_bitmaps(prepared))
    seen = left and _shared(prepared) and not _unreadable(prepared.simulation.spec)
    return dataclasses.replace(config, attacks=left) if seen else None


def _has_bitmaps(prepared: Prepared) -> bool:
    sparsifier = prepared.simulation.spec.sparsifier
    return sparsifier is not None and not sparsifier.shared


def _shared(prepared: Prepared) -> dict[str, Any]:
    """Return the shapes of the parameters that clients send, by path."""
    spec = prepared.simulation.spec
    initial = jax.eval_shape(spec.model.init, jax.random.key(0))
    return shared_params(spec.strategy, spec.run, initial)


def _unreadable(spec: RoundSpec) -> str:
    """Return why no attack here reads the messages of a run; "" if they do."""
    if Rank.SECURE in spec.strategy.wrappers:
        return "secure aggregation hides each client's message, so none can be attacked by itself"
    if spec.participation.turns is not None:
        return (
            "messages of clients that do not wait for each other are from models of before, which "
            "no attack here reads"
        )
    if Rank.PART in spec.strategy.wrappers:
        return (
            "clients that hold a part of the model train that part alone, and attacks here train "
            "the whole"
        )
    return ""


def check(config: AttackConfig, prepared: Prepared) -> None:
    """Refuse attacks that a run does not allow.

    Raises:
      ValueError: naming the attack, why it cannot be, and what helps.
    """
    spec, shapes = prepared.simulation.spec, _shared(prepared)
    if not shapes:
        raise ValueError(
            f"{spec.strategy.name} sends nothing, so nothing can be attacked; attack another arm"
        )
    if reason := _unreadable(spec):
        raise ValueError(f"{reason}; attack another arm")
    last = max(config.rounds)
    if min(config.rounds) < 0 or last >= spec.run.rounds:
        raise ValueError(
            f"attack.rounds must be in 0..{spec.run.rounds - 1}, not {listed(config.rounds)}"
        )
    if config.clients != "all":
        wrong = [k for k in config.clients if not 0 <= k < spec.run.num_clients]
        if wrong:
            raise ValueError(
                f"attack.clients must be in 0..{spec.run.num_clients - 1}, not {wrong[0]}"
            )
    needs_labels = {"gradient", "cosine"} & {*config.attacks} and not config.labels
    if "label" in config.attacks or needs_labels:
        path = attackers.bias_path(spec.model.layers[-1])
        if path not in shapes:
            raise ValueError(
                f"the attack on labels reads the classifier's bias, and {path} is not sent: leave "
                "label out, and give labels"
            )
        try:
            _ = spec.run.sgd
        except ValueError as error:
            raise ValueError(
                f"the attack on labels needs to know how far local steps go: {error}"
            ) from None
    if "linear" in config.attacks:
        first = spec.model.layers[0]
        needed = {"/".join(("params", *first.path)), attackers.bias_path(first)}
        if first.kind != "dense" or not needed <= set(shapes):
            raise ValueError(
                "the attack on a linear layer needs a model whose first layer is dense, has a bias "
                f"and is sent, as an mlp's with norm none; here it is {first.name}, {first.kind}"
            )
    if {"membership", "bitmaps"} & {*config.attacks} and spec.cohort < FEWEST_CLIENTS:
        raise ValueError(
            f"membership and bitmaps compare clients: they need at least {FEWEST_CLIENTS} in a "
            f"round, not {spec.cohort}"
        )
    reconstruct = {"linear", "gradient", "cosine"} & {*config.attacks}
    is_image = np.ndim(prepared.data.train.inputs) == 4
    if reconstruct and is_image and importlib.util.find_spec("dm_pix") is None:
        raise ValueError("likeness of images is measured by dm-pix: pip install 'lipsjax[attacks]'")
    if reconstruct:
        values = np.asarray(prepared.data.train.inputs)
        if values.min() == values.max():
            raise ValueError(
                f"every value of every input is {values.min():g}: there is nothing to reconstruct"
            )
    if "membership" in config.attacks:
        empty = np.flatnonzero(~np.asarray(prepared.data.test_mask)[: spec.run.num_clients].any(1))
        if len(empty):
            raise ValueError(
                f"membership needs test examples of every client, as those who are no members, and "
                f"client {empty[0]} has none"
            )
    if "bitmaps" in config.attacks and not _has_bitmaps(prepared):
        raise ValueError(
            "bitmaps needs masks of each client's own, as those of LIPS; here are none"
        )


def attack_run(
    run: Replay, config: AttackConfig, *, chunk: int, minutes: float | None, say: Say
) -> bool:
    """Attack a run; what is recorded already is not attacked again.

    Args:
      run: of :func:`lipsjax.runs.replay.open_run`.
      config: what is attacked.
      chunk: victims attacked at once, in one program; memory grows with it.
      minutes: after which nothing new is begun; None: never.
      say: told how far it is.

    Returns:
      Whether all of it is done.
    """
    check(config, run.prepared)
    until = time.monotonic() + 60 * minutes if minutes is not None else np.inf
    folder = run.run_dir / "attacks"
    todo = [unit for unit in units_of(config) if not _is_done(folder, unit, run, config)]
    if not todo:
        say(f"{run.run_dir.name}: all attacks are recorded")
        return True
    target = target_of(run.prepared)
    cohort_of = functools.partial(
        run.prepared.simulation.cohort, jax.random.key(run.prepared.config.seed)
    )
    rounds = sorted({unit.round for unit in todo})
    for t, host in zip(rounds, replay(run, rounds, say), strict=True):
        when = moment(host, cohort_of(t))
        for unit in (unit for unit in todo if unit.round == t):
            if not _attack(run, target, config, unit, when, chunk, until, say):
                return False
    return True


def target_of(prepared: Prepared) -> Target:
    """Return the data of a run on the device, and what is known of them."""
    inputs = np.asarray(prepared.data.train.inputs)
    is_bytes = np.issubdtype(inputs.dtype, np.integer)
    bounds = (0.0, 1.0) if is_bytes else (float(inputs.min()), float(inputs.max()))
    normalise = prepared.normalise
    if normalise is not None:
        mean, deviation = (jnp.asarray(x, jnp.float32) for x in normalise)
        normalise = mean, deviation
    data = jax.tree.map(jnp.asarray, prepared.data)
    return Target(data, *bounds, normalise)


def victims_of(config: AttackConfig, when: Moment) -> np.ndarray:
    """Return the clients of a round that are attacked."""
    return np.sort(when.cohort) if config.clients == "all" else np.array(config.clients)


def header(run: Replay, config: AttackConfig, unit: Unit) -> dict[str, Any]:
    """Return what is recorded of an attack beside its victims: the threat model, in words too."""
    knowledge = Knowledge(unit.attacker, config.bitmaps, config.labels)
    spec = run.prepared.simulation.spec
    known = attackers.masks_are_known(spec, knowledge)
    return {
        "attack": unit.attack,
        "attacker": unit.attacker,
        "round": unit.round,
        "behaviour": recording.BEHAVIOUR,
        "settings": settings_of(config, unit.attack),
        "masks_known": bool(known and unit.attacker == "aware"),
        "threat": threat(spec, unit, knowledge),
    }


def threat(spec: RoundSpec, unit: Unit, knowledge: Knowledge) -> str:
    """Return who attacks, what is seen and what is known, in a sentence or two."""
    words = [
        "A server that keeps to the protocol sees each client's message of one round, the model "
        "that went out, and how clients train, but not the order of their batches; it knows the "
        "number of examples, of classes, the range of inputs and their normalisation"
    ]
    if unit.attack in ("gradient", "cosine"):
        words.append("labels are given" if knowledge.labels else "labels are inferred")
    if unit.attack in ("membership", "bitmaps"):
        words.append(
            "it has the candidates, and sees all clients' messages"
            if unit.attack == "membership"
            else "it sees all clients' mask bitmaps, and knows the class mixes of all but one"
        )
    if attackers.is_plain(spec):
        words.append("there is no defence to know, so that both attackers are one")
    elif unit.attacker == "unaware":
        words.append("it takes the message for that of a client that neither masks nor compresses")
    elif spec.sparsifier is None:
        words.append("it knows the compression, and matches what was sent alone")
    elif attackers.masks_are_known(spec, knowledge):
        words.append("it knows each client's mask, and matches what was sent alone")
    else:
        words.append("it knows the rule of masks, and guesses them from what was sent")
    return "; ".join(words) + "."


@functools.lru_cache(maxsize=32)
def program_of(
    simulation: Simulation,
    model: Model,
    attack: Name,
    knowledge: Knowledge,
    search: attacks.Search,
    restarts: int,
) -> Callable[..., PyTree]:
    """Return an attack on a chunk of victims; runs that differ in the seed share its program."""
    spec = simulation.spec
    if attack == "label":
        one = attackers.find_labels(spec, knowledge)
    elif attack == "linear":
        one = attackers.read_inputs(spec, knowledge)
    else:
        one = attackers.match(spec, model, knowledge, search, restarts=restarts)
    return jax.jit(jax.vmap(one, in_axes=(None, None, 0, 0)))


@functools.lru_cache(maxsize=8)
def _received(simulation: Simulation, knowledge: Knowledge) -> Callable[..., PyTree]:
    return jax.jit(jax.vmap(attackers.updates(simulation.spec, knowledge), in_axes=(None, None, 0)))


@functools.lru_cache(maxsize=8)
def _scoring(model: Model) -> Callable[..., PyTree]:
    return jax.jit(attackers.member_scores(model))


def forget_programs() -> None:
    """Let go of all compiled attacks; each holds pieces of memory, of which a process has few.

    Linux allows 65,530 of them to a process, and the attacks of ten arms need more.
    """
    for cached in (program_of, _received, _scoring):
        cached.cache_clear()
    jax.clear_caches()


def model_of(prepared: Prepared) -> Model:
    """Return the clients' model with convolutions by patches, which can be differentiated twice."""
    plan = prepared.plan | {"conv": "patches"}
    setup = prepared.setup
    among = prepared.data, setup["num_classes"], prepared.normalise, setup["site_names"], here()
    return built_for(prepared.config, *among, plan).simulation.spec.model


def _attack(
    run: Replay,
    target: Target,
    config: AttackConfig,
    unit: Unit,
    when: Moment,
    chunk: int,
    until: float,
    say: Say,
) -> bool:
    """Do one attack on victims that have no line yet; return whether there was time for all."""
    folder = run.run_dir / "attacks"
    folder.mkdir(exist_ok=True)
    about, lines = folder / f"{unit.name}.json", folder / f"{unit.name}.jsonl"
    recording.write_json(about, header(run, config, unit))
    files.cut(lines, lambda row, _: "client" in row)
    if attackers.is_plain(run.prepared.simulation.spec):
        other = "aware" if unit.attacker == "unaware" else "unaware"
        twin = folder / f"{unit.name.replace(f'-{unit.attacker}-', f'-{other}-')}.jsonl"
        have = {row["client"] for row in read_victims(lines)}
        recording.append(lines, [r for r in read_victims(twin) if r["client"] not in have])
    done = {row["client"] for row in read_victims(lines)}
    left = [int(k) for k in victims_of(config, when) if int(k) not in done]
    if unit.attack in ("membership", "bitmaps"):
        chunks = [left] if left else []
    else:
        chunks = [left[i : i + chunk] for i in range(0, len(left), chunk)]
    total = len(left) + len(done)
    chunk = min(chunk, total)  # a last chunk that is not full runs the same program
    for clients in chunks:
        if time.monotonic() > until:
            say(f"{unit.name}: {len(done)} of {total} victims, and no time left")
            return False
        start = time.perf_counter()
        rows = _rows(run, target, config, unit, when, np.array(clients), chunk)
        seconds = time.perf_counter() - start
        recording.append(lines, [{**row, "seconds": seconds / len(clients)} for row in rows])
        done |= set(clients)
        say(f"{unit.name}: {len(done)} of {total} victims, {seconds:.1f} s")
    return True


def _rows(
    run: Replay,
    target: Target,
    config: AttackConfig,
    unit: Unit,
    when: Moment,
    clients: np.ndarray,
    chunk: int,
) -> list[dict[str, Any]]:
    """Attack some victims; return a row of each."""
    simulation, model = run.prepared.simulation, model_of(run.prepared)
    knowledge = Knowledge(unit.attacker, config.bitmaps, config.labels)
    if unit.attack == "membership":
        return _membership(simulation, model, target, knowledge, when, clients, chunk)
    if unit.attack == "bitmaps":
        return _bitmaps(target, config, when, clients)
    search = search_of(config, unit.attack)
    program = program_of(simulation, model, unit.attack, knowledge, search, config.restarts)
    given = given_to(when, clients)
    keys = jax.vmap(lambda k: attackers.key_of(when, k, config.seed))(jnp.asarray(clients))
    found = in_chunks(lambda rows: program(target, when, *rows), (given, keys), chunk=chunk)
    if unit.attack == "label":
        return [
            {"client": int(k), **{name: float(x) for name, x in each.items()}}
            for k, each in zip(clients, found, strict=True)
        ]
    folder = run.run_dir / "attacks"
    return [
        _likeness(target, config, unit, int(k), each, folder)
        for k, each in zip(clients, found, strict=True)
    ]


def _likeness(
    target: Target,
    config: AttackConfig,
    unit: Unit,
    client: int,
    found: attacks.Found,
    folder: Path,
) -> dict[str, Any]:
    """Compare reconstructions with the victim's examples, within 0..1."""
    index = np.asarray(target.data.train_index[client])[np.asarray(target.data.train_mask[client])]
    pool, mine = _scaled(target, np.asarray(target.data.train.inputs)), index
    inputs = (np.asarray(found.inputs) - target.low) / (target.high - target.low)
    if unit.attack == "linear":
        order = np.argsort(np.asarray(found.objective))  # the strongest units first
        inputs = attacks.distinct(inputs[order], len(index))
    likeness = attacks.compare(inputs[: len(index)], pool[index], pool, mine)
    grey = np.mean((pool[index] - pool.mean(axis=0)) ** 2, axis=tuple(range(1, pool.ndim)))
    if config.images:
        whole = {"found": inputs[likeness.order], "true": pool[index]}
        path = folder / f"{unit.name}-{client}.npz"
        with recording.whole_file(path) as file:
            np.savez(file, **whole)
    row: dict[str, Any] = {"client": int(client), "examples": len(index)}
    row |= {n: np.asarray(getattr(likeness, n), float).tolist() for n in LIKENESS}
    row["mse_of_mean"] = grey.tolist()
    if unit.attack != "linear":
        row["objective"] = float(found.objective)
    return row


LIKENESS = ("mse", "psnr", "ssim", "identified")


def _scaled(target: Target, inputs: np.ndarray) -> np.ndarray:
    """Return inputs within 0..1."""
    if np.issubdtype(inputs.dtype, np.integer):
        return inputs / 255.0
    return (inputs - target.low) / (target.high - target.low)


def _membership(
    simulation: Simulation,
    model: Model,
    target: Target,
    knowledge: Knowledge,
    when: Moment,
    clients: np.ndarray,
    chunk: int,
) -> list[dict[str, Any]]:
    """Score each victim's own examples, and as many as it has of testing, which are no members."""
    received = _received(simulation, knowledge)
    everyone = in_chunks(
        lambda given: received(target, when, given),
        given_to(when, when.cohort),
        chunk=min(chunk, len(when.cohort)),
    )
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *everyone)
    score, data, rows = _scoring(model), target.data, []
    for client in clients:
        place = int(np.flatnonzero(when.cohort == client)[0])
        row: dict[str, Any] = {"client": int(client)}
        for kind, split, index, mask in (
            ("members", data.train, data.train_index, data.train_mask),
            ("others", data.test, data.test_index, data.test_mask),
        ):
            own, real = index[client], np.asarray(mask[client])
            found = jax.device_get(
                score(stacked, when, jnp.asarray(place), split.inputs[own], split.labels[own])
            )
            rest = np.arange(len(when.cohort)) != place
            scores = {
                "loss": found["loss"],
                "global": found["global"],
                "lira": attacks.against_others(found["margins"][place], found["margins"][rest]),
                "fedmia": attacks.against_others(found["cosines"][place], found["cosines"][rest]),
            }
            row[kind] = {name: np.asarray(x)[real].tolist() for name, x in scores.items()}
        rows.append(row)
    return rows


def _bitmaps(
    target: Target, config: AttackConfig, when: Moment, clients: np.ndarray
) -> list[dict[str, Any]]:
    """Read class mixes off mask bitmaps; the victims are of one attacker, and in one row each."""
    masks = np.concatenate(
        [np.unpackbits(np.asarray(b), axis=1) for b in given_to(when, clients).packed_masks], axis=1
    )
    labels, mask = np.asarray(target.data.train.labels), np.asarray(target.data.train_mask)
    classes = int(labels.max()) + 1
    mixes = np.stack(
        [
            np.bincount(labels[np.asarray(target.data.train_index[k])[mask[k]]], minlength=classes)
            / mask[k].sum()
            for k in clients
        ]
    )
    found = attacks.read_mixes(masks.astype(float), mixes, rng=np.random.default_rng(config.seed))
    about = {"explained": found.explained, "p": found.p, "null_mean": float(found.null.mean())}
    return [{"client": int(k), **about} for k in clients]


def _is_done(folder: Path, unit: Unit, run: Replay, config: AttackConfig) -> bool:
    """Tell whether every victim of an attack has a line."""
    if not (folder / f"{unit.name}.json").exists():
        return False
    done = {row["client"] for row in read_victims(folder / f"{unit.name}.jsonl")}
    sim, seed = run.prepared.simulation, run.prepared.config.seed
    cohort = sim.cohort(jax.random.key(seed), unit.round)
    wanted = set(cohort.tolist()) if config.clients == "all" else set(config.clients)
    return wanted <= done
