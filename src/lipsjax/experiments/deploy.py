"""Carry a run over into a federated system: ``lipsjax deploy flower STUDY.toml DIR``.

``lipsjax deploy masks WEIGHTS GRADIENTS FILE`` writes the masks of a round, for any other.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lipsjax.experiments import command
from lipsjax.runs import startup
from lipsjax.runs.config import cohort_size
from lipsjax.runs.study import Planned, Study, each_in_turn, expand, load_study


@dataclasses.dataclass(frozen=True)
class Deploy:
    """Make a Flower app of one run of a study: its model, partition and settings, and the mod.

    What cannot be carried over is refused by name, before anything is written.
    """

    system: Annotated[Literal["flower"], tyro.conf.Positional]
    """What the app is for."""
    study: Annotated[Path, tyro.conf.Positional]
    """A study, as lipsjax sweep takes it. One that names own parts runs their code."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Of the app: a new folder, or an empty one."""
    client: Literal["torch", "flax"] = "torch"
    """What clients train with: PyTorch (mlp, cnn), or Flax through lipsjax (every model)."""
    arm: str | None = None
    """Which arm of the study; none: the one that has a sparsity table, if there is one alone."""
    cell: int | None = None
    """Which cell of the study's grid, from 0; none: there is one alone."""
    seed: int | None = None
    """Which of the study's seeds; none: the first."""
    data_dir: str | None = None
    """TFDS data directory; none: as the study says."""


@dataclasses.dataclass(frozen=True)
class Masks:
    """Write the masks of a round as safetensors: which weights a site keeps, given its gradient."""

    system: Annotated[Literal["masks"], tyro.conf.Positional]
    """That it is masks."""
    weights: Annotated[Path, tyro.conf.Positional]
    """A safetensors file of the global model."""
    gradients: Annotated[Path, tyro.conf.Positional]
    """One of the gradient of the site's last mini-batch, of the arrays that are masked alone."""
    file: Annotated[Path, tyro.conf.Positional]
    """What is written; one that is there already is replaced."""
    density: float = 0.5
    """Fraction of each array that is kept, in (0, 1]."""
    torch_layout: command.Flag = False
    """Arrays lie as PyTorch has them: of equal scores keep those that lipsjax keeps."""


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
      ValueError: for what cannot be read, or carried over; then nothing is written.
    """
    if argv[:1] == ["masks"]:
        return _write_masks(argv)
    nothing = Deploy("flower", Path(), Path())
    options = command.parse(Deploy, argv, program="lipsjax deploy", default=nothing)
    study = each_in_turn(load_study(options.study))
    chosen = choose(study, options)
    execution = dataclasses.replace(
        study.execution,
        data_dir=options.data_dir or study.execution.data_dir,
        devices=1,
        coordinator=None,
        processes=None,
        process=None,
    )
    startup.check_devices(execution.devices, cohort_size(chosen.config))
    startup.start_jax(execution)
    from lipsjax.deploy.flower.app import write_app

    done = write_app(
        options.folder,
        chosen.config,
        execution,
        client=options.client,
        arm=chosen.arm,
        study=options.study.name,
    )
    masked = f", masking {', '.join(done.masked)}" if done.masked else ", without masks"
    print(
        f"{options.folder}: a Flower app of the arm {chosen.arm}, seed {chosen.seed}, "
        f"{done.sites} sites{masked}"
    )
    print(f"cd {options.folder} && pip install -e . && python simulate.py")


def _write_masks(argv: list[str]) -> None:
    nothing = Masks("masks", Path(), Path(), Path())
    options = command.parse(Masks, argv, program="lipsjax deploy", default=nothing)
    from lipsjax.deploy.masks import write_masks

    masks = write_masks(
        options.file,
        options.weights,
        options.gradients,
        options.density,
        torch_layout=options.torch_layout,
    )
    kept, of = sum(int(m.sum()) for m in masks.values()), sum(m.size for m in masks.values())
    print(f"{options.file}: masks of {len(masks)} arrays, which keep {kept} of {of} weights")


def choose(study: Study, options: Deploy) -> Planned:
    """Return the one run of a study that options name.

    Raises:
      ValueError: for an arm, a cell or a seed that is not there, or none where there are several.

    Example:
      >>> from lipsjax.runs.study import study_from
      >>> study = study_from({"arms": ["dense", "lips"]})
      >>> choose(study, Deploy("flower", Path(), Path())).arm
      'lips'
    """
    trials = expand(study)
    arm = options.arm
    if arm is None:
        sparse = [name for name in study.arms if "sparsity" in study.arms[name]]
        if len(sparse) != 1:
            raise ValueError(
                f"--arm must say which of {', '.join(study.arms)}: {len(sparse)} of them have "
                "transient sparsity"
            )
        arm = sparse[0]
    elif arm not in study.arms:
        raise ValueError(f"--arm must be one of {', '.join(study.arms)}, not {arm!r}")
    of_arm = [trial for trial in trials if trial.arm == arm]
    cells = sorted({trial.cell for trial in of_arm})
    cell = cells[0] if options.cell is None and len(cells) == 1 else options.cell
    if cell not in cells:
        raise ValueError(f"--cell must be in 0..{cells[-1]}, the cells of the grid, not {cell}")
    seeds = [trial for trial in of_arm if trial.cell == cell]
    for trial in seeds:
        if options.seed in (None, trial.seed):
            return trial
    raise ValueError(
        f"--seed must be in {seeds[0].seed}..{seeds[-1].seed}, those of the study, not "
        f"{options.seed}"
    )


if __name__ == "__main__":
    command.guarded(main)
