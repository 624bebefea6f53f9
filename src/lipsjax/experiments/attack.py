"""Attack clients of a recorded run: ``lipsjax attack RUN --rounds 0 5 10``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from lipsjax.experiments import command
from lipsjax.runs import startup
from lipsjax.runs.attack_config import AttackConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack:
    """Attack clients of a recorded run, and record beside it what their messages give away.

    The run is replayed from its nearest earlier checkpoint, and held to its recorded metrics to the
    bit. What an attack does not find is not safe: a stronger one may find it.
    """

    run: Annotated[Path, tyro.conf.Positional] = Path()
    """Directory of the run, OUT/runs/HASH."""
    config: Annotated[AttackConfig, tyro.conf.arg(name="")] = AttackConfig()
    chunk: int = 8
    """Victims attacked at once, in one program; memory grows with it."""
    minutes: float | None = None
    """After which nothing new is begun, and the same command goes on later; none: no limit."""
    data_dir: str | None = None
    """TFDS data directory; digits and synthetic need none."""


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
      ValueError: for a folder that holds no run, one that cannot be replayed to the same bits, or
        attacks that it does not allow.
    """
    options = command.parse(Attack, argv, program="lipsjax attack", default=Attack())
    if options.chunk < 1:
        raise ValueError(f"--chunk must be at least 1, not {options.chunk}")
    if options.minutes is not None and not options.minutes > 0:
        raise ValueError(f"--minutes must be above 0, not {options.minutes}")
    from lipsjax import recording
    from lipsjax.runs.config import Execution

    plan = recording.read_plan(options.run)
    startup.start_jax(Execution(devices=plan["devices"]))
    from lipsjax.report import leakage
    from lipsjax.runs.attack import attack_run
    from lipsjax.runs.replay import open_run
    from lipsjax.runs.watch import make_console

    run = open_run(options.run, Execution(data_dir=options.data_dir))
    with recording.lock(options.run):
        done = attack_run(
            run, options.config, chunk=options.chunk, minutes=options.minutes, say=print
        )
    make_console().print(leakage.terminal_table(options.run))
    if not done:
        print("not all is attacked: the same command goes on")


if __name__ == "__main__":
    command.guarded(main)
