"""Train one federated run and record it: ``python -m lipsjax.experiments.run``."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import tyro

from lipsjax.experiments import command
from lipsjax.recording import Recording
from lipsjax.runs import startup
from lipsjax.runs.config import Config, Execution, SparsityConfig, cohort_size, to_dict
from lipsjax.runs.sites import settle


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Train one federated run and record it; a run that was stopped goes on."""

    lips: command.Flag = False
    """Wrap the strategy in transient sparsity."""
    sparsity: SparsityConfig = SparsityConfig()
    """Transient sparsity, read with --lips."""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)
    execution: Annotated[Execution, tyro.conf.arg(name="")] = Execution()


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
      ValueError: for anything that cannot be run; then nothing has been written.
    """
    options = command.parse(Run, argv, program="lipsjax run", default=Run())
    config = options.config
    if options.lips:
        config = dataclasses.replace(config, sparsity=options.sparsity)
    elif options.sparsity != SparsityConfig():
        raise ValueError("options of --sparsity are read with --lips alone")
    config = settle(config, options.execution.data_dir)
    startup.check_devices(options.execution.devices, cohort_size(config))
    startup.start_jax(options.execution)
    from lipsjax import recording
    from lipsjax.runs import processes
    from lipsjax.runs.dataset import load_for
    from lipsjax.runs.trial import run_dir_of, run_trial
    from lipsjax.runs.watch import Watch

    run_dir = run_dir_of(config, options.execution)
    found = processes.agree(lambda: recording.is_finished(run_dir))
    with Watch(trials=1, rounds={"run": config.rounds}) as watch:
        data = load_for(config, options.execution.data_dir)[1]
        begun = [] if run_dir.exists() else [(to_dict(config), data)]
        for note in recording.notes_of_others(Path(options.execution.out), begun):
            watch.say(note)
        report = watch.begin(f"seed {config.seed}", config.rounds, program="run")
        run_trial(config, options.execution, report, watch.say)
    if processes.is_main():
        done = recording.read(run_dir)
        watch.say("found finished, and not run again" if found else summary(done))
        watch.say(f"recorded in {run_dir}")


def summary(run: Recording) -> str:
    """Return what came out, in a line."""
    accuracies = (
        f"{name} {run.scalars[key][-1]:.1%}"
        for name, key in (("personalised", "accuracy_dense"), ("global", "global_accuracy"))
        if not math.isnan(run.scalars[key][-1])  # who trains alone has no global model
    )
    return (
        f"{len(run.scalars['round'])} rounds in {run.seconds:.1f} s, compiled in "
        f"{run.compile_seconds:.1f} s; accuracy after the last: {', '.join(accuracies)}"
    )


if __name__ == "__main__":
    command.guarded(main)
