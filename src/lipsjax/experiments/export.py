"""Write the global model of a run as safetensors: ``lipsjax export RUN FILE.safetensors``."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lipsjax.experiments import command


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the global model of a run, as after its last round, to a safetensors file."""

    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the run, OUT/runs/HASH."""
    file: Annotated[Path, tyro.conf.Positional] = Path("model.safetensors")
    """What is written; one that is there already is replaced."""
    layout: Literal["flax", "torch"] = "flax"
    """flax: arrays as they are, params/stem/kernel; torch: in PyTorch's layouts, and a ResNet's
    under the names of torchvision."""


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
      ValueError: for a folder that holds no run, or a run without a checkpoint.
    """
    options = command.parse(Export, argv, program="lipsjax export", default=Export(Path()))
    from lipsjax import recording
    from lipsjax.models import weights
    from lipsjax.recording.checkpoints import read_global_model

    run = recording.read(options.run)
    done, variables = read_global_model(options.run)
    shape = tuple(run.setup.get("input_shape", ()))  # of before it was recorded: not known
    names, flattened = weights.conventions(run.config["model"]["name"], shape)
    arrays = weights.to_arrays(variables, layout=options.layout, names=names, flattened=flattened)
    weights.write(options.file, arrays)
    print(
        f"{options.file}: {len(arrays)} arrays, the global model after round {done} of "
        f"{run.config['rounds']}"
    )


if __name__ == "__main__":
    command.guarded(main)
