"""What the commands share: parsing, one-line errors, JAX's settings. No JAX at import."""

import contextlib
import dataclasses
import io
import itertools
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from lipsjax.runs.fields import describe_kind, nearest

T = TypeVar("T")

USAGE_ERROR = 2
INTERRUPTED = 130
DEBUG = "--debug"
LONGEST = 1500
"""Characters of an error."""


def parse(kind: Callable[..., T], argv: Sequence[str], *, program: str, default: T) -> T:
    """Parse a command line into a dataclass.

    Args:
      kind: the dataclass; fields named "" by ``tyro.conf.arg`` give their own fields' names.
      argv: the arguments.
      program: how the command is called, for its help.
      default: what is not given is taken from here.

    Returns:
      The dataclass. ``--help`` prints and ends the process with status 0.

    Raises:
      ValueError: for an unknown option, or a value that it does not take.
    """
    kinds = _option_kinds(kind)
    given = options_given(argv)
    for i, option in enumerate(given):
        if option in given[:i]:
            raise ValueError(f"{option} is given twice; give all of its values at once")
    argv = _with_none(argv, kinds)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options, unknown = typing.cast(Any, tyro.cli)(
                kind,
                prog=program,
                args=list(argv),
                default=default,
                return_unknown_args=True,
                config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise ValueError(_bad_value(said.getvalue(), argv, kinds)) from None
    sys.stderr.write(said.getvalue())
    if unknown:
        what = "option" if unknown[0].startswith("-") else "argument"
        name = unknown[0].partition("=")[0]
        raise ValueError(
            f"unknown {what} {unknown[0]!r}{nearest(name, kinds)}; {program} --help has all"
        )
    return options


def options_given(argv: Sequence[str]) -> list[str]:
    """Return the options of a command line in their order, each as ``--help`` writes it.

    >>> options_given(["STUDY.toml", "--partition.train_examples=5", "--arms", "dense"])
    ['--partition.train-examples', '--arms']
    """
    names = (text.partition("=")[0] for text in argv if text.startswith("--"))
    return [name.replace("_", "-") for name in names]


def _with_none(argv: Sequence[str], kinds: dict[str, Any]) -> list[str]:
    """Write "none" as tyro reads it, for options that may be none."""
    said, option = [], ""
    for text in argv:
        name, equals, value = text.partition("=")
        if text.startswith("--"):
            option = name.replace("_", "-")
            if value.lower() == "none" and _may_be_none(kinds.get(option)):
                text = f"{name}{equals}None"
        elif text.lower() == "none" and _may_be_none(kinds.get(option)):
            text = "None"
        said.append(text)
    return said


def _may_be_none(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


def _option_kinds(kind: Any, prefix: str = "--") -> dict[str, Any]:
    """Return the type of every option, by its name on the command line."""
    kinds: dict[str, Any] = {}
    for name, annotated in typing.get_type_hints(kind, include_extras=True).items():
        inner, *marks = typing.get_args(annotated) if _is_annotated(annotated) else (annotated,)
        option = prefix + name.replace("_", "-")
        if tyro.conf.Suppress in marks or tyro.conf.Positional in marks:
            continue
        if dataclasses.is_dataclass(inner):
            unnamed = any(getattr(mark, "name", None) == "" for mark in marks)
            kinds |= _option_kinds(inner, prefix if unnamed else f"{option}.")
        else:
            kinds[option] = inner
    return kinds


def _is_annotated(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Annotated


def _bad_value(box: str, argv: Sequence[str], kinds: dict[str, Any]) -> str:
    """Return in one line what tyro says in a box."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│| ") for line in plain.splitlines()[1:]]  # the first is the title
    # without a terminal of Unicode, a rule follows the title too
    below = itertools.dropwhile(lambda line: not line.strip("─-"), lines)
    said = " ".join(itertools.takewhile(lambda line: line.strip("─-"), below))
    found = re.match(r"Error parsing (--[\w.-]+): ", said)
    argv = [part for text in argv for part in _split(text)]
    if found is None or found[1] not in argv or found[1] not in kinds:
        return said
    words = describe_kind(kinds[found[1]])
    if words == "a table":
        return f"{found[1]}: {said[found.end() :]}"
    last = len(argv) - argv[::-1].index(found[1])  # of several, the last counts
    given = " ".join(itertools.takewhile(lambda text: not text.startswith("--"), argv[last:]))
    return f"{found[1]} must be {words}, not {given!r}"


def _split(text: str) -> list[str]:
    """Return an option and its value, of ``--option=value``; anything else as it is."""
    return text.split("=", 1) if text.startswith("--") else [text]


def guarded(main: Callable[[list[str]], None]) -> None:
    """Run a command; what goes wrong ends in one line and status 2, not a traceback.

    ``--debug`` anywhere among the arguments shows the traceback all the same.
    """
    argv = [text for text in sys.argv[1:] if text != DEBUG]
    if len(argv) < len(sys.argv) - 1:
        return main(argv)
    try:
        main(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr, flush=True)
        # without the interpreter's end, which crashes while XLA's threads still compute
        os._exit(INTERRUPTED)
    except BrokenPipeError:
        # a reader such as head has closed the pipe; the flush at exit must not fail once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except MemoryError as error:
        fail(f"not enough memory: {error}" if str(error) else "not enough memory")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{(error.strerror or str(error)).lower()}")
    except ValueError as error:
        fail(str(error))
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            fail(f"not enough memory on the device, a smaller --chunk needs less: {error}"[:300])
        fail(f"{type(error).__name__}: {error} (not foreseen; {DEBUG} shows where)")


def fail(message: str) -> None:
    """Print one line, of a length that can be read, and end with status 2."""
    line = " ".join(message.split())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(USAGE_ERROR) from None


def command_line(module: str, argv: Sequence[str]) -> str:
    """Return the command as a user would type it again; pages that show it name nobody's home."""
    import shlex

    home = os.path.expanduser("~")  # noqa: PTH111 - as it is where there is none
    said = [text.replace(f"{home}/", "~/") if len(home) > 1 else text for text in argv]
    return shlex.join(["python", "-m", f"lipsjax.experiments.{module}", *said])
