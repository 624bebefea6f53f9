"""Train one federated run and record it: ``python -m lipsjax.experiments.run``."""

import dataclasses
from typing import Annotated

import tyro

from lipsjax.experiments import command
from lipsjax.experiments.config import Config, Execution, SparsityConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Train one federated run and record it; a run that was stopped goes on."""

    lips: bool = False
    """Wrap the strategy in transient sparsity."""
    sparsity: SparsityConfig = SparsityConfig()
    """Transient sparsity, read with --lips True."""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)
    execution: Annotated[Execution, tyro.conf.arg(name="")] = Execution()


def main(argv: list[str]) -> None:
    """Run the command."""
    options = command.parse(Run, argv, program="lipsjax run", default=Run())
    command.start_jax(options.execution)
    from lipsjax.experiments.trial import run_trial
    from lipsjax.experiments.watch import Watch

    config = options.config
    if options.lips:
        config = dataclasses.replace(config, sparsity=options.sparsity)
    with Watch(trials=1) as watch:
        watch.begin(f"seed {config.seed}", config.rounds)
        run_dir = run_trial(config, options.execution, watch.report, watch.say)
    watch.console.print(f"recorded in {run_dir}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    command.guarded(main)
