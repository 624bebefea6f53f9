"""What the commands share: parsing, one-line errors, JAX's settings. No JAX at import."""

import contextlib
import dataclasses
import errno
import io
import itertools
import os
import re
import signal
import socket
import sys
import threading
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar

import tyro

from lipsjax.experiments.help import HELP, short
from lipsjax.experiments.stopping import stop, stop_as_python_does
from lipsjax.runs import lifeline
from lipsjax.runs.fields import describe_kind, nearest
from lipsjax.runs.study import Study, default_study, load_study

T = TypeVar("T")

USAGE_ERROR = 2
STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that ask a command to stop: of Ctrl-C, of a scheduler, of a terminal that is closed."""
OUT_OF_MEMORY = ("failed to map segment", "can't start new thread", "Cannot allocate memory")
"""What errors say that are not MemoryError, of libraries and threads that find no room."""
OTHER_ENDED = ("Gloo all", "Connection closed by peer", "heartbeat timeout", "coordination service")
"""What JAX says in one of several processes when another has ended."""
UNPRINTED = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG)
"""Of an output that takes no more, as a file on a full disk or a terminal that is gone."""
GRACE = 5.0
"""Seconds after which a command ends that was asked to stop, whatever it is at."""
DEBUG = "--debug"
HELP_ALL = "--help-all"
LONGEST = 1500
"""Characters of an error."""


_FLAG = tyro.constructors.PrimitiveConstructorSpec(
    nargs=0,
    metavar="",
    instance_from_str=lambda said: True,
    is_instance=lambda value: isinstance(value, bool),
    str_from_instance=lambda value: [str(value)],
)
Flag = Annotated[bool, _FLAG]
"""A field that is an option which stands alone: it is true if the option is there."""


class Option(NamedTuple):
    """What an option of a command line is."""

    kind: Any  # the type of its field
    value: Any  # what it is if it is not given
    stands_alone: bool


def parse(kind: Callable[..., T], argv: Sequence[str], *, program: str, default: T) -> T:
    """Parse a command line into a dataclass.

    Args:
      kind: the dataclass; fields named "" by ``tyro.conf.arg`` give their own fields' names.
      argv: the arguments.
      program: how the command is called, for its help.
      default: what is not given is taken from here.

    Returns:
      The dataclass. ``--help`` and ``--help-all`` print and end the process with status 0.

    Raises:
      ValueError: for an unknown option, or a value that it does not take.
    """
    known = options_of(kind, default)
    kinds = {name: option.kind for name, option in known.items()}
    _print_help(argv, program, known)
    _check_flags(argv, known)
    given = options_given(argv)
    for i, option in enumerate(given):
        if option in given[:i]:
            raise ValueError(f"{option} is given twice; give all of its values at once")
    argv = _as_tyro_reads(argv, known)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options, unknown = typing.cast(Any, tyro.cli)(
                kind,
                prog=program,
                args=["--help" if text == HELP_ALL else text for text in argv],
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
        hint = nearest(name, [*kinds, "--help", HELP_ALL])
        raise ValueError(f"unknown {what} {unknown[0]!r}{hint}; {program} {HELP_ALL} has all")
    return options


def _print_help(argv: Sequence[str], program: str, known: Mapping[str, Option]) -> None:
    """Print the short help where it is asked for, and end; the long one is of the parser."""
    asked = next((text for text in argv if text in ("-h", "--help", HELP_ALL)), None)
    help_ = HELP.get(program.rpartition(" ")[2])
    if asked is None or asked == HELP_ALL or help_ is None:
        return
    print(short(program, help_, {name: option.value for name, option in known.items()}))
    raise SystemExit(0)


def _check_flags(argv: Sequence[str], known: Mapping[str, Option]) -> None:
    """Refuse a value of an option that stands alone.

    Raises:
      ValueError: naming both.
    """
    for text, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, value = text.partition("=")
        option = known.get(name.replace("_", "-"))
        if option is None or not option.stands_alone:
            continue
        said = value if equals else following
        if equals or said.lower() in ("true", "false", "none"):
            raise ValueError(f"{name} stands alone and takes no value, not {said!r}")


def read_study(argv: Sequence[str]) -> tuple[Study, list[str]]:
    """Return the study that options replace, and the options.

    It is that of a file, if the first argument is one; else the default study, whose setting is of
    its own data, and of no others, parted as it says.

    Raises:
      ValueError: for a file that cannot be read.

    Example:
      >>> read_study(["--rounds", "3"])[0].seeds, read_study(["--dataset", "wine"])[0].seeds
      (6, 5)
    """
    options = list(argv)
    if options and not options[0].startswith("-"):
        return load_study(Path(options.pop(0))), options
    default = default_study()
    words = [part for text in options for part in _split(text)]
    given = dict(itertools.pairwise(words))
    own = {"--dataset": default.config.dataset, "--partition.kind": default.config.partition.kind}
    is_own = all(given.get(option, value) == value for option, value in own.items())
    return (default if is_own else Study()), options


def options_given(argv: Sequence[str]) -> list[str]:
    """Return the options of a command line in their order, each as ``--help`` writes it.

    >>> options_given(["STUDY.toml", "--partition.train_examples=5", "--arms", "dense"])
    ['--partition.train-examples', '--arms']
    """
    names = (text.partition("=")[0] for text in argv if text.startswith("--"))
    return [name.replace("_", "-") for name in names]


def _as_tyro_reads(argv: Sequence[str], known: Mapping[str, Option]) -> list[str]:
    """Write none, true and false as Python does, whatever their case, for options that take them.

    >>> known = {"--a": Option(bool, True, False), "--b": Option(str, "", False)}
    >>> _as_tyro_reads(["--a", "false", "--b", "false", "--a=TRUE"], known)
    ['--a', 'False', '--b', 'false', '--a=True']
    """
    said, option = [], ""
    for text in argv:
        if text.startswith("--"):
            name, equals, value = text.partition("=")
            option = name.replace("_", "-")
            said.append(f"{name}{equals}{_word(value, known.get(option))}")
        else:
            said.append(_word(text, known.get(option)))
    return said


def _word(value: str, option: Option | None) -> str:
    """Return a value, as Python writes it if it is a word that an option takes."""
    word = value.capitalize()
    if option is None or option.stands_alone:
        return value
    takes = {"None": type(None) in typing.get_args(option.kind)}
    takes |= dict.fromkeys(("True", "False"), option.kind is bool)
    return word if takes.get(word) else value


def options_of(kind: Any, default: Any, prefix: str = "--") -> dict[str, Option]:
    """Return every option, by its name on the command line.

    >>> from lipsjax.runs.config import Config
    >>> options_of(Config, Config())["--partition.alpha"].value
    0.1
    """
    options: dict[str, Option] = {}
    for name, annotated in typing.get_type_hints(kind, include_extras=True).items():
        inner, *marks = typing.get_args(annotated) if _is_annotated(annotated) else (annotated,)
        option, value = prefix + name.replace("_", "-"), getattr(default, name)
        if tyro.conf.Suppress in marks or tyro.conf.Positional in marks:
            continue
        if dataclasses.is_dataclass(inner):
            unnamed = any(getattr(mark, "name", None) == "" for mark in marks)
            options |= options_of(inner, value, prefix if unnamed else f"{option}.")
        else:
            options[option] = Option(inner, value, _FLAG in marks)
    return options


def _is_annotated(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Annotated


def _bad_value(box: str, argv: Sequence[str], kinds: dict[str, Any]) -> str:
    """Return in one line what tyro says in a box."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│| ") for line in plain.splitlines()[1:]]  # the first is the title
    # without a terminal of Unicode, a rule follows the title too
    below = itertools.dropwhile(lambda line: not line.strip("─-"), lines)
    said = " ".join(itertools.takewhile(lambda line: line.strip("─-"), below))
    choice = re.match(r"invalid choice '(.*)' for argument '(--[\w.-]+)'", said)
    if choice is not None and kinds.get(choice[2]) is bool:
        return f"{choice[2]} must be {describe_kind(bool)}, not {choice[1]!r}"
    found = re.match(r"Error parsing (--[\w.-]+): ", said)
    argv = [part for text in argv for part in _split(text)]
    if found is None or found[1] not in argv or found[1] not in kinds:
        return said
    if (rest := said[found.end() :]).startswith("it must be "):  # of the name of a part
        return f"{found[1]} {rest.removeprefix('it ')}"
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
    _open_closed_streams()
    _write_what_can_be_written()
    argv = [text for text in sys.argv[1:] if text != DEBUG]
    if len(argv) < len(sys.argv) - 1:
        stop_as_python_does()
        return main(argv)
    with stoppable() as interrupted:
        try:
            _check_text(argv)
            main(argv)
            sys.stdout.flush()
            lifeline.leave()
        except KeyboardInterrupt:
            interrupted()
        except BrokenPipeError:
            _discard_output()  # a reader such as head has closed the pipe
            raise SystemExit(1) from None
        except MemoryError as error:
            fail(f"not enough memory: {error}" if str(error) else "not enough memory")
        except OSError as error:
            if error.errno == errno.ENOMEM:
                fail(f"not enough memory: {(error.strerror or str(error)).lower()}")
            where = f"{error.filename}: " if error.filename else ""
            if error.filename is None and error.errno in UNPRINTED:  # files are always named
                _discard_output()
                where = "the output cannot be printed: "
            fail(f"{where}{(error.strerror or str(error)).lower()}")
        except ValueError as error:
            if _tells_of_another(error):
                lifeline.end_alone()
            fail(str(error))
        except Exception as error:
            if any(words in str(error) for words in OUT_OF_MEMORY):
                fail(f"not enough memory: {error}")
            if _tells_of_another(error):
                lifeline.end_alone()
            if "RESOURCE_EXHAUSTED" in str(error):
                fail(
                    f"not enough memory on the device, a smaller --chunk needs less: {error}"[:300]
                )
            fail(f"{type(error).__name__}: {error} (not foreseen; {DEBUG} shows where)")


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], NoReturn]]:
    """End on SIGINT, SIGTERM and SIGHUP alike: in one line, with all workers, within seconds.

    The signal is a KeyboardInterrupt to what runs. That has nobody to go to in a callback of the
    garbage collector, where it ends the process at once; and it is late where C++ compiles for
    minutes, so a thread, which the system tells of the signal too, ends the process after GRACE
    seconds. Files are whole at any moment, and workers end with their parent.

    Yields:
      What ends the process by the last of these signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: stop(signal.SIGINT)
        return
    received = [signal.SIGINT]

    def interrupt(number: int, _: Any) -> None:
        received.append(signal.Signals(number))
        raise KeyboardInterrupt

    def unraisable(what: Any) -> None:
        if what.exc_type is KeyboardInterrupt:
            stop(received[-1])
        hook(what)

    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = {number: signal.getsignal(number) for number in STOPPING}
    before = {n: handler for n, handler in before.items() if handler is not signal.SIG_IGN}
    told, tell = socket.socketpair()  # which Windows can be given as well
    tell.setblocking(False)
    old = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_stop_late, args=(told, frozenset(before)), daemon=True).start()
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield lambda: stop(received[-1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not set by Python
        signal.set_wakeup_fd(old)
        sys.unraisablehook = hook
        tell.close()  # which ends the thread


def _stop_late(told: socket.socket, numbers: frozenset[signal.Signals]) -> None:
    """End the process some time after the system tells of one of these signals, or of two.

    A command that ends meanwhile closes the other side.
    """
    with told:
        while (first := told.recv(1)) and first[0] not in numbers:
            pass
        told.settimeout(GRACE)
        with contextlib.suppress(TimeoutError):
            while (next_ := told.recv(1)) and next_[0] not in numbers:
                pass
            if not next_:
                return
        stop(signal.Signals(first[0]))


def _check_text(argv: Sequence[str]) -> None:
    """Refuse arguments that are no text: nothing could record them."""
    for text in argv:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"an argument is not in {sys.getfilesystemencoding()}: {text!a}")


def _open_closed_streams() -> None:
    """Give a process that was started without its standard streams empty ones.

    Else a file that is opened later would be taken for one of them, and printed into.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue  # it is a stream that Python was told to leave alone
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, os.fdopen(opened, mode))


def _write_what_can_be_written() -> None:
    """Print "?" for characters that the output does not have, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _discard_output() -> None:
    """Print no more, so that the flush at the end does not fail once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tells_of_another(error: Exception) -> bool:
    """Tell whether an error, of one of several kinds, says that another process has ended."""
    return any(words in str(error) for words in OTHER_ENDED)


def fail(message: str) -> NoReturn:
    """Print one line, of a length that can be read, and end with status 2."""
    line = " ".join(message.split())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    with contextlib.suppress(OSError):  # as of a full disk
        print(f"error: {line}", file=sys.stderr, flush=True)
    lifeline.fail()
    raise SystemExit(USAGE_ERROR) from None


def command_line(module: str, argv: Sequence[str]) -> str:
    """Return the command as a user would type it again; pages that show it name nobody's home."""
    import shlex

    home = os.path.expanduser("~")  # noqa: PTH111 - as it is where there is none
    said = [text.replace(f"{home}/", "~/") if len(home) > 1 else text for text in argv]
    return shlex.join(["python", "-m", f"lipsjax.experiments.{module}", *said])
