"""Own parts: a model, method, criterion, measure, partition or data set from outside the package.

A name is that of a built-in part, of an entry point of an installed package, or says where the
function is: ``package.module:function``, the working folder included as ``python -m`` has it.
Naming code runs it. No JAX here, and nothing of a part is imported before it is asked for.
"""

import ast
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lipsjax.runs.fields import OF_PYTHON, describe_kind, nearest, shown

PLACE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""How a name says where its function is."""
PLAIN = (bool, int, float, str)
"""Types that options have."""


class Kind(NamedTuple):
    """One kind of parts that a config names."""

    field: str  # of a config, dotted
    group: str  # of entry points
    built_in: tuple[str, ...]
    passed: tuple[str, ...] = ()  # arguments that a function is called with, by name
    needed: tuple[str, ...] = ()  # those of them that it must take
    options: str | None = None  # field that holds the others

    def words(self) -> str:
        """Return in words what names are allowed."""
        known = ", ".join(self.names())
        return f"one of {known}, or MODULE:FUNCTION" if known else "MODULE:FUNCTION"

    def names(self) -> list[str]:
        """Return the names that need no place: built in, or brought by installed packages."""
        return [*self.built_in, *sorted(found.name for found in _brought(self.group))]

    def check(self, name: str, field: str | None = None) -> None:
        """Refuse a name that no part can have; nothing is imported.

        Raises:
          ValueError: naming it, and what is allowed.

        Example:
          >>> Kind("model.name", "lipsjax.models", ("cnn", "vgg5")).check("vgg")
          Traceback (most recent call last):
          ValueError: model.name must be one of cnn, vgg5, or MODULE:FUNCTION, not 'vgg'; did you \
mean vgg5?
        """
        if name in self.built_in or PLACE.fullmatch(name) or name in self.names():
            return
        if OF_PYTHON.fullmatch(name):  # handed over in Python, and known there
            return
        hint = nearest(name, self.names())
        where = self.field if field is None else field
        raise ValueError(f"{where} must be {self.words()}, not {shown(name)}{hint}")


def is_own(kind: Kind, name: str) -> bool:
    """Tell whether a name is of a part from outside.

    >>> is_own(Kind("model.name", "lipsjax.models", ("cnn",)), "cnn")
    False
    """
    if name in kind.built_in:
        return False
    return bool(PLACE.fullmatch(name)) or name in kind.names()


def find(kind: Kind, name: str) -> Callable[..., Any]:
    """Import the function that a name is of.

    Args:
      kind: of the part.
      name: of an entry point, or its place.

    Raises:
      ValueError: in one line, for what cannot be imported, is not there, or cannot be called.

    Example:
      >>> find(Kind("model.name", "lipsjax.models", ()), "math:sqrt")(4.0)
      2.0
    """
    kind.check(name)
    place = _place(kind, name)
    module_name, _, attribute = place.partition(":")
    said = f"{kind.field}: {name}" if place == name else f"{kind.field}: {name} ({place})"
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(f"{said} needs {error.name}, which is not installed") from None
        raise ValueError(
            f"{said}: there is no module {error.name!r} in the working folder or among the "
            "installed packages"
        ) from None
    except (Exception, SystemExit) as error:  # whatever the code of others raises
        raise ValueError(f"{said} cannot be imported: {told(error)}") from None
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError:
        hint = nearest(attribute, dir(found))
        raise ValueError(f"{said}: module {module_name} has no {attribute!r}{hint}") from None
    if not callable(found):
        raise ValueError(f"{said} must be a function, and is of type {type(found).__name__}")
    return found


def call(kind: Kind, name: str, options: Mapping[str, Any], **passed: Any) -> Any:
    """Call the function of a part with its options, typed as its own signature says.

    Args:
      kind: of the part.
      name: of the part.
      options: by name; integers, numbers, truth values and texts.
      passed: what is given to every part of the kind, if its function takes it.

    Raises:
      ValueError: in one line, for a signature or an option that does not fit, or what it raises.

    Example:
      >>> call(Kind("strategy.name", "lipsjax.strategies", ()), "textwrap:shorten",
      ...      {"text": "one two", "width": 5.0, "placeholder": "."})
      'one.'
    """
    function = find(kind, name)
    accepted = typed(kind, name, function, options)
    taken = _parameters(function)
    every = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    given = {n: value for n, value in passed.items() if every or n in taken}
    try:
        return function(**given, **accepted)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{kind.field}: {name} raised {told(error)}") from None


def typed(
    kind: Kind, name: str, function: Callable[..., Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return options with the types of a function's own signature.

    Raises:
      ValueError: for an option that it does not take or that is of another type, one that it needs,
        or an argument that it must take and does not.

    Example:
      >>> def method(steps: int, rate=0.5): ...
      >>> kind = Kind("strategy.name", "lipsjax.strategies", (), options="strategy.options")
      >>> typed(kind, "own:method", method, {"steps": 3.0, "rate": 1})
      {'steps': 3, 'rate': 1.0}
      >>> typed(kind, "own:method", method, {"steps": 3, "rat": 1})
      Traceback (most recent call last):
      ValueError: unknown option 'rat' of own:method; did you mean rate?; allowed are steps, rate
    """
    taken = _parameters(function)
    named = {n: p for n, p in taken.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    every = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    own = {n: p for n, p in named.items() if n not in kind.passed}
    for argument in kind.needed:
        if argument not in named and not every:
            listed = ", ".join(named) or "nothing"
            raise ValueError(f"{kind.field}: {name} must take {argument}, and takes {listed}")
    for option in options:
        if option in kind.passed or (option not in own and not every):
            raise ValueError(
                f"unknown option {option!r} of {name}{nearest(option, own)}; allowed are "
                f"{', '.join(own) or 'none'}"
            )
    for option, parameter in own.items():
        if parameter.default is parameter.empty and option not in options:
            how = (
                f"give {kind.options} {option}=VALUE" if kind.options else "it must have a default"
            )
            raise ValueError(f"{kind.field}: {name} needs {option}: {how}")
    hints = _hints(function)
    return {
        option: _as_declared(value, hints.get(option), own.get(option), f"{option} of {name}")
        for option, value in options.items()
    }


def _as_declared(value: Any, hint: Any, parameter: inspect.Parameter | None, what: str) -> Any:
    """Return an option's value as its annotation, or else its default, has it."""
    if typing.get_origin(hint) is Literal:
        if value in typing.get_args(hint):
            return value
        raise ValueError(f"option {what} must be {describe_kind(hint)}, not {shown(value)}")
    allowed = [kind for kind in (hint, *typing.get_args(hint)) if kind in PLAIN]
    if hint is None and parameter is not None and type(parameter.default) in PLAIN:
        allowed = [type(parameter.default)]
    if not allowed or type(value) in allowed:
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and int in allowed and value == int(value):
        return int(value)
    if is_number and float in allowed:
        return float(value)
    if type(value) is int and str in allowed:
        return str(value)
    words = " or ".join(describe_kind(kind) for kind in allowed)
    raise ValueError(f"option {what} must be {words}, not {shown(value)}")


def source_digest(kind: Kind, name: str) -> str:
    """Return a digest of a part's source.

    It is of all Python files of its package, or else of its file and those beside that it imports.
    Nothing is imported that was not.

    Raises:
      ValueError: as :func:`find`.

    Example:
      >>> len(source_digest(Kind("model.name", "lipsjax.models", ()), "textwrap:shorten"))
      16
    """
    find(kind, name)  # so that the module is there
    return _digest_of(_place(kind, name).partition(":")[0])


@functools.lru_cache(maxsize=256)
def _digest_of(module_name: str) -> str:
    """Return the digest of what was imported under a name; once, as a module is imported once."""
    from lipsjax.runs.identity import lies_in_a_package  # not at the top: help needs none of it

    module, package = sys.modules[module_name], None
    for end in range(1, module_name.count(".") + 2):
        outer = sys.modules[".".join(module_name.split(".")[:end])]
        if getattr(outer, "__path__", None) and getattr(outer, "__file__", None):
            package = Path(str(outer.__file__)).parent  # the outermost that is one package
            break
    file = getattr(module, "__file__", None)
    found = {} if file is None else {Path(file).name: Path(file)}  # one of the interpreter has none
    if package is not None:
        found = {str(path.relative_to(package)): path for path in package.rglob("*.py")}
    elif file is not None and not lies_in_a_package(file):
        found |= _beside(Path(file), {})
    digest = hashlib.sha256()
    for name, path in sorted(found.items()):
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _beside(file: Path, found: dict[str, Path]) -> dict[str, Path]:
    """Add the files that one names in imports, and those name, which lie in its folder or below."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # of a module that is imported nowhere
        return found
    named = [n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            named += [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
    for name in named:
        place = file.parent / name.partition(".")[0]
        within = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        for path in within:
            label = str(path.relative_to(file.parent))
            if label not in found and path.is_file():
                found[label] = path
                if path.parent == file.parent:
                    _beside(path, found)
    return found


def told(error: BaseException) -> str:
    """Return an error in one line.

    >>> told(KeyError("a"))
    "KeyError: 'a'"
    """
    return " ".join(f"{type(error).__name__}: {error}".split())


def _place(kind: Kind, name: str) -> str:
    """Return MODULE:FUNCTION of a name."""
    if PLACE.fullmatch(name) and name not in kind.names():
        return name
    places = {found.value for found in _brought(kind.group) if found.name == name}
    if len(places) != 1:
        raise ValueError(
            f"{kind.field}: {name} is brought by more than one package, as "
            f"{' and '.join(sorted(places))}: give one of these instead"
        )
    return places.pop().partition("[")[0].replace(" ", "")


@functools.lru_cache(maxsize=16)
def _brought(group: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    """Return the entry points of installed packages, each once."""
    found = importlib.metadata.entry_points(group=group)
    return tuple({(each.name, each.value): each for each in found}.values())


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a function; any, of one that does not tell."""
    try:
        return inspect.signature(function).parameters
    except (ValueError, TypeError):
        return {"options": inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function; none where they cannot be read."""
    try:
        made = function.__init__ if inspect.isclass(function) else function
        return typing.get_type_hints(made)
    except Exception:  # names of annotations need not exist
        return {}


def named_in(config: Any) -> Iterator[tuple[Kind, str]]:
    """Yield every part that a config names and what kind it is of, built in or own."""
    from lipsjax.runs.config import KINDS

    for kind in KINDS:
        value = config
        for field in kind.field.split("."):
            value = None if value is None else getattr(value, field)
        for name in value if isinstance(value, tuple) else (value,):
            if name is not None:
                yield kind, name


def check_names(config: Any) -> None:
    """Refuse a config that names a part that cannot be; nothing is imported.

    Raises:
      ValueError: naming the field, the name and what is allowed.
    """
    for kind, name in named_in(config):
        kind.check(name)


def own_parts(config: Any) -> list[str]:
    """Return the names of the own parts of a config.

    >>> from lipsjax.runs.config import Config
    >>> own_parts(Config())
    []
    """
    return [name for kind, name in named_in(config) if is_own(kind, name)]


def identity(config: Any) -> dict[str, str]:
    """Return what of own parts and given files identifies a run: name -> digest.

    Parts are known by their source, weights and tables of sites by their file. A data set is known
    by what it holds, and so is none of them.

    >>> from lipsjax.runs.config import Config
    >>> identity(Config())
    {}
    """
    found = {
        f"{kind.field}={name}": source_digest(kind, name)
        for kind, name in named_in(config)
        if is_own(kind, name)
    }
    if config.model.init is not None:
        found["model.init"] = _file_digest("model.init", config.model.init)
    for path in config.sites.devices:
        if path.endswith(".csv"):
            found[f"sites.devices={path}"] = _file_digest("sites.devices", path)
    return found


def _file_digest(field: str, path: str) -> str:
    """Return the digest of a file that a field names.

    Raises:
      ValueError: if it cannot be read.
    """
    try:
        content = Path(path).expanduser().read_bytes()
    except (OSError, RuntimeError) as error:
        said = (getattr(error, "strerror", None) or str(error)).lower()
        raise ValueError(f"{field}: {path} cannot be read: {said}") from None
    return hashlib.sha256(content).hexdigest()[:16]
