"""What identifies code that was handed over in Python: a digest of its source and all it reads.

A function is its source text, its bytecode (a file may have been edited since it was imported), its
defaults, decorators, what it closes over, and every global that it names, and so on from these; so
an edit of a class that it calls counts as an edit of itself. Installed packages are their name and
version. What has no source, as a lambda, is refused: a run that is found finished must be the run
that was asked for. No JAX here.
"""

import builtins
import dataclasses
import dis
import functools
import hashlib
import inspect
import re
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lipsjax

PLAIN = (bool, int, float, complex, str, bytes, types.NoneType, types.EllipsisType, range, slice)
INSTALLED = tuple(
    Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")
)
OWN = Path(str(lipsjax.__file__)).resolve().parent
"""This package, whose behaviour number says when it computes otherwise."""


LOADS = ("LOAD_GLOBAL", "LOAD_NAME")
OF_FLAX = ("parent", "name", "scope")
"""Attributes of a Flax module that say where it is, and not what."""


class UnknownError(ValueError):
    """Something that cannot be identified; the message is what it is."""


def digest_of(part: Any) -> str:
    """Return a digest of a function, class, module or value, and of all that it reads.

    Raises:
      UnknownError: for what has no source and is no value: a lambda, what was typed at a prompt.

    Example:
      >>> import functools, textwrap
      >>> digest_of(functools.partial(textwrap.wrap, width=3)) == digest_of(textwrap.wrap)
      False
      >>> digest_of({"rate": 1.0}) == digest_of({"rate": 1})
      False
    """
    digest = hashlib.sha256()
    for text in _told(part, {}):
        digest.update(f"{len(text)}:".encode())
        digest.update(text)
    return digest.hexdigest()


def _told(value: Any, seen: dict[int, Any]) -> Iterator[bytes]:
    """Yield what makes a value what it is, each thing once."""
    if isinstance(value, PLAIN) and not dataclasses.is_dataclass(value):
        yield f"{type(value).__name__} {value!r}".encode()
        return
    if id(value) in seen:
        yield f"again {[*seen].index(id(value))}".encode()
        return
    seen[id(value)] = value  # held, so that no other comes to its address
    if hasattr(value, "__array__") and hasattr(value, "dtype") and not isinstance(value, type):
        array = np.ascontiguousarray(value)
        yield f"array {array.dtype.str} {array.shape}".encode()
        yield _bytes_of(array)
    elif isinstance(value, dict):
        yield b"dict"
        yield from _all(value.items(), seen)
    elif isinstance(value, list | tuple) and type(value) in (list, tuple):
        yield type(value).__name__.encode()
        yield from _all(value, seen)
    elif isinstance(value, set | frozenset):
        yield b"set"
        yield from sorted(b"".join(_told(each, {})) for each in value)
    elif isinstance(value, functools.partial):
        yield b"partial"
        yield from _all((value.func, value.args, value.keywords), seen)
    elif isinstance(value, types.MethodType):
        yield b"method"
        yield from _all((value.__func__, value.__self__), seen)
    elif isinstance(value, types.ModuleType):
        yield from _module(value, seen)
    elif isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        yield from _code(value, seen)
    elif dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        yield from _code(type(value), seen)
        yield from _all(_fields(value), seen)
    elif callable(value) and _is_installed(type(value).__module__) and hasattr(value, "__name__"):
        yield f"{type(value).__module__} {value.__name__}".encode()  # as a ufunc of NumPy
    elif isinstance(value, np.dtype):
        yield value.str.encode()
    else:
        raise UnknownError(f"a value of type {type(value).__name__} cannot be told from another")


def _bytes_of(array: np.ndarray) -> bytes:
    if array.dtype.hasobject:
        raise UnknownError("an array of Python objects cannot be told from another")
    return array.tobytes()


def _all(values: Iterable[Any], seen: dict[int, Any]) -> Iterator[bytes]:
    for value in values:
        yield from _told(value, seen)
    yield b"end"


def _fields(value: Any) -> list[tuple[str, Any]]:
    """The fields of a dataclass or named tuple, but for where a Flax module is within others."""
    names = (
        [field.name for field in dataclasses.fields(value) if field.name not in OF_FLAX]
        if dataclasses.is_dataclass(value)
        else value._fields
    )
    return [(name, getattr(value, name)) for name in names]


def _module(module: types.ModuleType, seen: dict[int, Any]) -> Iterator[bytes]:
    """A module: its name and version where it is installed, else its file and what it imports."""
    name = module.__name__
    if _is_installed(name):
        yield _version(name)
        return
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        raise UnknownError(f"the module {name} has no file")
    yield name.encode()
    yield Path(file).read_bytes()
    for held, other in [*vars(module).items()]:
        if isinstance(other, types.ModuleType):
            yield from _told(other, seen)
        elif isinstance(other, PLAIN) and not held.startswith("__"):
            yield held.encode()  # may come from elsewhere, or have been set since
            yield from _told(other, seen)
        elif isinstance(other, type | types.FunctionType) and other.__module__ != name:
            yield from _told(sys.modules.get(other.__module__, other), seen)


def _code(value: Any, seen: dict[int, Any]) -> Iterator[bytes]:
    """A function or a class."""
    module, name = getattr(value, "__module__", None) or "builtins", value.__qualname__
    is_built_in = module != "builtins" or getattr(builtins, name, None) is value
    if _is_installed(module) and is_built_in and "<locals>" not in name:
        yield from (_version(module), name.encode())
    elif isinstance(value, type):
        yield from _class(value, seen)
    elif isinstance(value, types.FunctionType):
        if name.endswith("<lambda>") and not _is_installed(module):
            raise UnknownError("a lambda has no source of its own")
        yield from _function(value, seen)
    elif (wrapped := getattr(value, "__wrapped__", None)) is not None:  # as of jax.jit
        yield type(value).__qualname__.encode()
        yield from _told(wrapped, seen)
    else:
        raise UnknownError(f"{name} has no source")


def _function(function: Any, seen: dict[int, Any]) -> Iterator[bytes]:
    """A function and those that it is wrapped around: the source of each, and what it reads."""
    while function is not None:
        if isinstance(function, types.FunctionType):
            if _is_of_a_package(function.__code__):  # as what a package made of a function
                yield _version(function.__globals__.get("__name__", ""))
            else:
                yield _source(function, function.__code__)
                yield from _bytecode(function.__code__)
            yield from _read_by(function, seen)
        function = getattr(function, "__wrapped__", None)


def _source(named: Any, of: Any) -> bytes:
    """The source text of code or of a class, which errors call by a name."""
    try:
        # of a process begun by python -c, Python 3.13 takes its program for the source of all code
        # that was made by exec
        if getattr(of, "co_filename", None) == "<string>":
            raise OSError
        return inspect.getsource(of).encode()
    except (OSError, TypeError):
        raise UnknownError(f"{named.__qualname__} has no source that can be read") from None


def _bytecode(code: types.CodeType) -> Iterator[bytes]:
    """What is carried out: its file may have been edited since it was imported."""
    yield code.co_code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _bytecode(constant)
        else:
            yield from _told(constant, {})


def _class(value: type, seen: dict[int, Any]) -> Iterator[bytes]:
    """A class: its source, or where that cannot be had, as in a notebook, that of what it holds."""
    yield from _all((base for base in value.__bases__ if base is not object), seen)
    try:
        text = _source(value, value).decode()
    except UnknownError:
        text = None
    yield value.__qualname__.encode() if text is None else text.encode()
    for name, held in vars(value).items():
        inner = _behind(held)
        function = inspect.unwrap(inner) if hasattr(inner, "__wrapped__") else inner
        if isinstance(function, types.FunctionType):
            if function.__code__.co_filename == "<string>":  # made by dataclasses
                continue
            yield name.encode()
            yield from _function(inner, seen)
        elif name not in OF_FLAX and (
            # a value that the body names may come from elsewhere: units: int = WIDTH
            not name.startswith("_") if text is None else re.search(rf"\b{name}\b", text)
        ):
            yield name.encode()
            yield from _told(held, seen)


def _behind(held: Any) -> Any:
    """The function of a method, a property or the like; anything else as it is."""
    for name in ("__func__", "fget", "func"):
        if not isinstance(held, type | functools.partial) and hasattr(held, name):
            return getattr(held, name)
    return held


def _read_by(function: types.FunctionType, seen: dict[int, Any]) -> Iterator[bytes]:
    """What a function reads: defaults, what it closes over, the globals that its code loads."""
    yield from _all((function.__defaults__, function.__kwdefaults__), seen)
    for cell in function.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:  # not yet set
            continue
        if not (isinstance(held, type) and function.__qualname__.startswith(held.__qualname__)):
            yield from _told(held, seen)  # but for the class around it, of super()
    home = function.__globals__.get("__name__", "")
    for name in () if _is_installed(home) else _loaded(function.__code__):
        if name in function.__globals__:
            yield name.encode()
            yield from _told(function.__globals__[name], seen)


def _loaded(code: types.CodeType) -> list[str]:
    """The globals that a function's code loads, and that of the functions within."""
    found = {each.argval for each in dis.get_instructions(code) if each.opname in LOADS}
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return sorted(found.union(*map(_loaded, inner)))


@functools.lru_cache(maxsize=1024)
def _is_installed(name: str) -> bool:
    """Tell whether a module is of Python or an installed package, or of this one."""
    if name == "__main__":
        return False
    if name.partition(".")[0] in sys.stdlib_module_names or name == "builtins":
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:  # a package without an __init__.py, or what was loaded otherwise
        return name.partition(".")[0] in ("jaxlib", "numpy", "jax")
    return lies_in_a_package(file)


def _is_of_a_package(code: types.CodeType) -> bool:
    """Tell whether code is of Python, an installed package, or this one, wherever it is named."""
    return lies_in_a_package(code.co_filename)


@functools.lru_cache(maxsize=1024)
def lies_in_a_package(file: str) -> bool:
    """Tell whether a file is of Python, an installed package, or this one.

    >>> lies_in_a_package(inspect.__file__), lies_in_a_package("mine.py")
    (True, False)
    """
    path = Path(file).resolve()
    return any(path.is_relative_to(root) for root in (*INSTALLED, OWN))


def _version(name: str) -> bytes:
    """An installed module and its version; of this package the behaviour number stands for it."""
    top = name.partition(".")[0]
    version = "" if top == "lipsjax" else getattr(sys.modules.get(top), "__version__", "")
    return f"{name} {version}".encode()
