"""Writes a made-up study in the recording format: curves with known effects, and no training."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lipsjax.recording import (
    BEHAVIOUR,
    Comparison,
    Decided,
    Decisions,
    Looks,
    StudyRecording,
)
from lipsjax.runs.config import Config, PartitionConfig, SparsityConfig, to_dict

LAYERS = (
    ("stem", "stem", "conv", 288),
    ("conv1", "middle", "conv", 9216),
    ("conv2", "middle", "conv", 9216),
    ("conv3", "middle", "conv", 18432),
    ("classifier", "classifier", "dense", 640),
)
MEASURES = ("drift_cosine", "drift_l1", "drift_l2", "relative_drift", "step", "client_step")
MEASURES += ("cancellation", "alignment", "grad_norm")


def write_study(
    out: Path,
    *,
    arms: tuple[str, ...] = ("dense", "lips"),
    cells: tuple[str, ...] = ("",),
    seeds: int = 5,
    rounds: int = 40,
    clients: int = 20,
    classes: int = 10,
    gain: float = 0.05,
    noise: float = 0.01,
    unstick: float = 1.5,
    bits_ratio: float = 1.0,
    missing: tuple[tuple[str, int], ...] = (),
    evaluate_every: int = 1,
    test_examples: int = 10_000,
    **study: object,
) -> Path:
    """Writes a study whose arms differ from the first by `gain` in accuracy, up to seeded noise.

    Args:
      out: folder of the study, made if it is not there.
      arms: names; the first is the reference, and is dense.
      cells: labels.
      gain: what every further arm adds to the reference's accuracies.
      noise: standard deviation over seeds of that gain.
      unstick: factor of every further arm on the relative step of the middle layers.
      bits_ratio: factor of every further arm on the downlink bits.
      missing: (arm, seed) of trials that are not finished.
      evaluate_every: rounds between evaluations.
      test_examples: of each client; made-up accuracies are no counts, so they are many.
      **study: fields of study.json to overwrite.
    """
    trials = []
    for cell in range(len(cells)):
        for index, arm in enumerate(arms):
            for seed in range(seeds):
                run = f"made-up-{cell:02d}-{index:02d}-{seed:02d}"  # no digest of its config
                trials.append({"arm": arm, "cell": cell, "seed": seed, "run": run})
                rng = np.random.default_rng((seed, cell, index))
                curves = _curves(
                    rounds,
                    level=np.random.default_rng((seed, cell)).normal(0.75, 0.03),
                    gain=float(index > 0) * (gain + rng.normal(0, noise)),
                    unstick=unstick if index else 1.0,
                    bits_ratio=bits_ratio if index else 1.0,
                    evaluate_every=evaluate_every,
                    rng=rng,
                    sparse=index > 0,
                )
                config = Config(
                    seed=seed,
                    rounds=rounds,
                    partition=PartitionConfig(clients=clients),
                    sparsity=SparsityConfig() if index else None,
                )
                counts = np.random.default_rng((seed, 7)).dirichlet(
                    np.full(classes, 0.3), size=clients
                )
                _write_run(
                    out / "runs" / run,
                    config=config,
                    counts=np.rint(60 * counts).astype(int),
                    curves=curves,
                    test_examples=test_examples,
                    seconds=20.0 + index + float(rng.normal(0, 0.5)),
                    finished=(arm, seed) not in missing,
                )
    description = "Does transient sparsity help clients with little data? Made-up numbers."
    record = {
        "name": "fake",
        "description": description,
        "command": "python -m lipsjax.experiments.sweep",
        "versions": {"lipsjax": "0.1.0", "jax": "0.10.2", "python": "3.11.4"},
        "platform": "cpu",
        "reference": arms[0],
        "arms": arms,
        "cells": [{"label": label, "overrides": {}} for label in cells],
        "trials": trials,
    }
    (out / "study.json").write_text(json.dumps(record | study))
    return out


def _curves(rounds, *, level, gain, unstick, bits_ratio, evaluate_every, rng, sparse):
    """metrics.jsonl of one run, as a list of objects."""
    t = np.arange(rounds)
    density = np.where(t % 5 == 0, 0.5 + 0.5 * t / rounds, 1.0) if sparse else np.ones(rounds)
    rise = 1 - np.exp(-(t + 1) / (rounds / 6))
    dense = (level + gain) * rise + rng.normal(0, 0.002, rounds)
    step = 0.4 * np.exp(-t / (rounds / 4))[:, None] + 0.02 * rng.uniform(0.8, 1.2, (rounds, 5))
    step[:, 1:4] *= 0.5 * unstick
    step[1:, 1:4] *= np.where(density[:-1] < 1, 1.6, 1.0)[:, None]
    rows = []
    for i in range(rounds):
        row = {
            "round": i,
            "density": density[i],
            "inertia_index": 1 - step[i, 1:4].mean() / step[i, [0, 4]].mean(),
            "uplink_bits": 2.4e7,
            "downlink_bits": 2.4e7 * bits_ratio,
            "uplink_bits_server_masks": 2.4e7 * (1 + sparse),
            "downlink_bits_server_masks": 2.4e7 * density[i],
            "loss_train": float(np.exp(-t[i] / 10)),
            "layers": {name: [None] * 5 if i < 2 else [0.5] * 5 for name in MEASURES},
        }
        row["layers"]["step"] = step[i].tolist()
        if i % evaluate_every == 0 or i == rounds - 1:
            row |= {
                "accuracy_before": within(dense[i] + 0.05 * rise[i]),
                "accuracy_dense": within(dense[i]),
                "accuracy_after": within(dense[i] - 0.3 * (1 - density[i])),
                "global_accuracy": within(0.8 * dense[i]),
                "global_accuracy_clients": within(0.4 * dense[i]),
            }
        rows.append(row)
    return rows


def within(accuracy):
    """A share, as accuracies are."""
    return min(max(accuracy, 0.0), 1.0)


def with_accuracies(study: StudyRecording, ends: dict[str, list[float]]) -> StudyRecording:
    """The study with other accuracies, personalised and global: arm -> the end of each seed."""
    return study._replace(
        trials=tuple(
            trial._replace(
                recording=trial.recording._replace(
                    scalars=trial.recording.scalars
                    | dict.fromkeys(
                        ("accuracy_dense", "global_accuracy"),
                        np.full(trial.recording.config["rounds"], ends[trial.arm][trial.seed]),
                    )
                )
            )
            for trial in study.trials
        )
    )


def with_sites(
    study: StudyRecording,
    ends: dict[str, list[list[float]]],
    *,
    names: tuple[str, ...] | None = None,
    held_out: dict[str, list[list[float]]] | None = None,
    classes: list[float] | None = None,
) -> StudyRecording:
    """The study with accuracies of sites that stay the same in all rounds.

    Args:
      study: of as many clients as there are sites, those that are held out included.
      ends: arm -> seed -> accuracy of each site that trains; "local" is made to train alone.
      names: of the sites; None: they are made up.
      held_out: arm -> seed -> accuracy of each site that never trains.
      classes: accuracy of each class, in all arms and seeds.
    """

    def changed(trial):
        run = trial.recording
        rounds = run.config["rounds"]
        by = {"clients": {"accuracy": np.tile(ends[trial.arm][trial.seed], (rounds, 1))}}
        if held_out:
            by["new_clients"] = {
                "accuracy": np.tile(held_out[trial.arm][trial.seed], (rounds, 1)),
            }
        if classes:
            by["classes"] = {"accuracy": np.tile(classes, (rounds, 1))}
        strategy = run.config["strategy"] | ({"name": "local"} if trial.arm == "local" else {})
        kind = "natural" if names else "dirichlet"
        config = run.config | {
            "strategy": strategy,
            "partition": run.config["partition"] | {"kind": kind},
        }
        setup = run.setup | {"site_names": names and list(names)}
        return trial._replace(recording=run._replace(config=config, setup=setup, by=by))

    return study._replace(trials=tuple(map(changed, study.trials)))


def with_diverged(study: StudyRecording, *ended: tuple[str, int]) -> StudyRecording:
    """The study as it is where some trials, (arm, seed), diverged."""
    diverged = tuple(
        {name: getattr(trial, name) for name in ("arm", "cell", "seed", "run")}
        | {"reason": "the loss is not finite in round 3"}
        for trial in study.trials
        if (trial.arm, trial.seed) in ended
    )
    left = tuple(t for t in study.trials if (t.arm, t.seed) not in ended)
    return study._replace(trials=left, diverged=diverged)


def _write_run(path, *, config, counts, curves, test_examples, seconds, finished):
    path.mkdir(parents=True)
    spread = np.diff(np.arange(counts.shape[1] + 1) * test_examples // counts.shape[1])
    setup = {
        "layers": [
            dict(zip(("name", "role", "kind", "size"), layer, strict=True)) for layer in LAYERS
        ],
        "num_params": 37_792,
        "survey": {"train_counts": counts.tolist(), "test_counts": [spread.tolist()] * len(counts)},
        "num_classes": counts.shape[1],
    }
    timing = {"first_round": 0, "rounds": len(curves), "seconds": seconds, "compile_seconds": 9.5}
    plan = {"processes": 1, "devices": 1, "chunk": 20, "conv": "patches"}
    plan |= {"precision": "highest", "rounds_per_call": 5, "platform": "cpu"}
    files = {
        "config.json": {
            "behaviour": BEHAVIOUR,
            "config": to_dict(config),
            "data_fingerprint": "0f" * 8,
        },
        "plan.json": plan | {"versions": {}},
        "setup.json": setup,
        "timings.jsonl": timing,
    }
    for name, content in files.items():
        (path / name).write_text(json.dumps(content) + "\n")
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curves))
    if finished:
        (path / "summary.json").write_text("{}")


def with_claims(study: StudyRecording, claims: Mapping[Comparison, str]) -> StudyRecording:
    """The study as one whose planned looks, after 2 and 4 seeds, decided so."""
    plan = Looks(
        margin=0.01,
        looks=(2, 4),
        order="recycled",
        alpha=0.025,
        equivalence=0.05,
        spending="obrien_fleming",
        comparisons=tuple(claims),
        cells=tuple(cell["label"] for cell in study.cells),
        seed=0,
        runs="",
    )
    found = tuple(Decided(each, claim, 2, 4, 0.0, -0.1, 0.1) for each, claim in claims.items())
    return study._replace(decisions=Decisions(plan, 2, None, False, found))
