"""Studies from Python, a script or a notebook: what ``lipsjax sweep`` does, with own objects.

::

    results = lj.sweep({"config": {"dataset": dataset, "rounds": 10}}, out="results")
    results.rounds.groupby(["arm", "round"]).accuracy_dense.mean()
"""

import dataclasses
import multiprocessing
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lipsjax.experiments.command import command_line
from lipsjax.experiments.sweep import Callback, carry_out
from lipsjax.report.results import Results, load_results
from lipsjax.runs import given, startup
from lipsjax.runs.config import cohort_size
from lipsjax.runs.fields import shown
from lipsjax.runs.study import Study, each_in_turn, expand, load_study, study_from


def sweep(
    study: Study | Mapping[str, Any] | str | Path,
    *,
    out: str | Path,
    workers: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> Results:
    """Run what is not finished of a study, draw its report, and return its results.

    Equal studies are run once: a second call finds what is finished. A study that is a dict may
    hold objects in the place of names: as ``dataset`` a :class:`lipsjax.datasets.Dataset` or a
    function that returns one; as ``name`` of ``model`` a Flax module, a :class:`lipsjax.Model`, or
    a function of ``num_classes`` and ``input_shape`` that returns either; as ``optimizer`` of
    ``local`` a function of ``learning_rate``, and of ``options``, that returns an optax optimizer.
    Arms and the grid may hold them too. Data are known by their arrays, code by its source and all
    that it reads; what has no source needs :func:`lipsjax.named`.

    Args:
      study: a :class:`lipsjax.runs.study.Study`, what a TOML file of one holds as a dict, or the
        path of such a file.
      out: directory of the study and its runs; one for each study.
      workers: processes that run trials side by side; None: those that the study asks for, or else
        one, as a script whose calls are not under ``if __name__ == "__main__"`` cannot have more.
      callbacks: each is called after every compiled call of rounds, with arm, cell, seed, rounds
        done and newest metrics. What one returns, if it is a text, is why the trial stops there:
        that is recorded, and the trial is in no comparison, as others have had more rounds. It
        stays as it is while there are callbacks, and goes on in a sweep without any.

    Returns:
      The results of all that is finished; trials that diverged or were stopped are not among them
      (``unfinished``).

    Raises:
      ValueError: for a study that cannot be run, or cannot be run so; then nothing was written.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ValueError(
            "lipsjax.sweep was called while a worker read this script: put the call under "
            "if __name__ == '__main__', or leave workers at 1"
        )
    asked = _read(study)
    own = workers
    if own is None:
        own = 1 if asked.execution.workers == "auto" else asked.execution.workers
    execution = dataclasses.replace(asked.execution, out=str(out), workers=own)
    asked = each_in_turn(dataclasses.replace(asked, execution=execution))
    trials = expand(asked)
    if own != 1:
        _check_workers(own, trials, callbacks)
    startup.check_devices(execution.devices, max(cohort_size(each.config) for each in trials))
    _start_jax(execution)
    carry_out(asked, _line(out), callbacks)
    return load_results(out)


def _read(study: Any) -> Study:
    """Return a study, whatever it was given as."""
    if isinstance(study, Study):
        return study
    if isinstance(study, Mapping):
        return study_from(given.replace_parts(study))
    if isinstance(study, str | Path):
        return load_study(Path(study))
    raise ValueError(
        f"study must be a Study, a dict as a TOML file has it, or the path of one, not "
        f"{shown(study)}"
    )


def _check_workers(workers: int, trials: Sequence[Any], callbacks: Sequence[Callback]) -> None:
    """Refuse several workers for what only this process has.

    Raises:
      ValueError: naming it.
    """
    if callbacks:
        raise ValueError(f"callbacks are called in this process: workers must be 1, not {workers}")
    for trial in trials:
        config = trial.config
        for name in (config.dataset, config.model.name, config.local.optimizer):
            if given.is_given(name):
                raise ValueError(
                    f"{name} is known to this process alone: workers must be 1, not {workers}"
                )


def _start_jax(execution: Any) -> None:
    """Start JAX as a command does, unless it has started: then it has the devices that it has."""
    try:
        startup.start_jax(execution)
    except RuntimeError:
        import jax

        jax.devices()


def _line(out: str | Path) -> str:
    """Return what is recorded as the command: the script, or the call where there is none."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None or Path(script).name != Path(sys.argv[0]).name:
        return f"lipsjax.sweep(..., out={str(out)!r})"
    said = shlex.split(command_line("sweep", sys.argv))
    return shlex.join(["python", *said[3:]])
