"""What a compiled program costs: products, bytes, collectives, each times the loops around it.

The compiler's own counts see the body of a loop once, and nearly all of a federated run is loops.
So products are counted in the traced program (a jaxpr), where lengths of scans are known, and
traffic in the compiled text. Of branches the costliest is counted.
"""

import functools
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from lipsjax.models.convolution import TIMES

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "reduce-scatter",
)


def flops(jaxpr: Any) -> float:
    """Count the FLOPs of matrix products and convolutions, 2 for a multiplication and its addition.

    Of a convolution they are those of its definition, by whichever way fewer do. Products with
    padding count; those that no result depends on do not, as the compiler drops them,
    nor do zeros that a strided convolution's gradient puts between pixels, nor elementwise
    arithmetic. Within ``shard_map`` it is one device's share. A loop whose length is only known at
    run time counts once.

    Args:
      jaxpr: of a function, as ``jax.make_jaxpr(f)(x)`` or ``jax.jit(f).trace(x).jaxpr``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> step = lambda x, _: (x @ x, None)
      >>> flops(jax.make_jaxpr(lambda x: jax.lax.scan(step, x, length=3))(jnp.ones((4, 4))))
      384.0
    """
    whole = getattr(jaxpr, "jaxpr", jaxpr)
    return _flops(dce_jaxpr(whole, [True] * len(whole.outvars))[0])


def _flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _product_flops(equation)
        elif name == "conv_general_dilated":
            total += _convolution_flops(equation)
        elif name == "cond":
            total += max(_flops(branch) for branch in parameters["branches"])
        else:
            times = parameters["length"] if name == "scan" else _times_over(equation)
            total += times * sum(_flops(inner) for inner in _inner(parameters.values()))
    return total


def _times_over(equation: Any) -> float:
    """Return how many products as written stand behind one of a function's."""
    _, is_counted, times = str(equation.params.get("name", "")).rpartition(TIMES)
    return float(times) if is_counted else 1.0


def _inner(values: Iterable[Any]) -> Iterable[Any]:
    """Yield the jaxprs among an equation's parameters; rules of derivation are functions."""
    for value in values:
        if isinstance(value, ClosedJaxpr | Jaxpr):
            yield value


def _product_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _convolution_flops(equation: Any) -> float:
    kernel, axes = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec
    taps = math.prod(kernel[axis] for axis in axes[1:])  # all but the outputs
    zeros = math.prod(equation.params["lhs_dilation"])
    return 2.0 * equation.outvars[0].aval.size * taps / zeros


class Traffic(NamedTuple):
    """What one device moves."""

    bytes: float  # to and from memory
    collectives: dict[str, tuple[float, float]]  # kind -> how many, and bytes of their results


def traffic(text: str) -> Traffic:
    """Count the bytes and collectives of a compiled program.

    Every instruction that is not fused into another reads its operands and writes its result. It
    is an upper bound: caches, and on a TPU what the compiler keeps in its fast memory ``S(1)``, are
    left out where the text shows them. Slices count as what they take. Loops count as many times as
    the text says, or their condition compares with; else once.

    Args:
      text: of one device's program, from ``compiled.as_text()``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> step = lambda x, _: (x @ x, None)
      >>> function = jax.jit(lambda x: jax.lax.scan(step, x, length=10)[0])
      >>> compiled = function.lower(jnp.ones((64, 64), jnp.float32)).compile()
      >>> traffic(compiled.as_text()).bytes >= 10 * 3 * 4 * 64 * 64
      True
    """
    computations, entry = _parse(text)
    return _Counter(computations).count(entry)


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    arguments: str  # what stands in the parentheses
    attributes: str

    @property
    def operands(self) -> list[str]:
        return _NAME.findall(self.arguments)


_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(condition|body|to_apply|calls|branch_computations|true_computation|false_computation)"
    r"=(\{[^}]*\}|%[\w.\-]+)"
)
_FREE = frozenset(
    {
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "after-all",
        "partition-id",
        "replica-id",
        "opt-barrier",
    }
)


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Return the instructions of every computation, its result last, and the entry's name."""
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            if found := _HEAD.match(line):
                current = computations[found[2]] = []
                entry = found[2] if found[1] else entry
        elif line.startswith("}"):
            current = None
        elif found := _LINE.match(line):
            current.append(_instruction(found[1], found[2]))
    return computations, entry


def _instruction(name: str, rest: str) -> _Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    return _Instruction(name, kind, rest[:opening], rest[opening + 1 : closing], rest[closing:])


def _closing(text: str, start: int) -> int:
    """Return where the parenthesis that opens at ``start`` is closed."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise ValueError(f"a parenthesis is never closed: {text[start : start + 60]}")


def _size(kind: str, *, fast: bool = False) -> float:
    """Return the bytes of a type, without what lies in fast memory unless that is asked for."""
    total = 0.0
    for dtype, extents, layout in _SHAPE.findall(kind):
        bits = re.search(r"\d+", dtype)
        size = 1.0 if dtype == "pred" or bits is None else int(bits[0]) / 8
        if fast or "S(1)" not in layout:
            total += size * math.prod(int(n) for n in extents.split(",") if n)
    return total


class _Counter:
    """Counts computations, each once."""

    def __init__(self, computations: dict[str, list[_Instruction]]):
        self._computations = computations
        self.count = functools.cache(self._count)

    def _count(self, name: str) -> Traffic:
        here = {x.name: x for x in self._computations[name]}
        total, collectives = 0.0, {}
        for cost in (self._cost(x, here) for x in here.values()):
            total += cost.bytes
            for kind, more in cost.collectives.items():
                before = collectives.get(kind, (0.0, 0.0))
                collectives[kind] = (before[0] + more[0], before[1] + more[1])
        return Traffic(total, collectives)

    def _cost(self, x: _Instruction, here: dict[str, _Instruction]) -> Traffic:
        called = {key: _NAME.findall(names) for key, names in _CALLED.findall(x.attributes)}
        if x.opcode == "while":
            once = self.count(called["body"][0])
            times = self._trips(x, called["condition"][0])
            each = {kind: (times * n, times * b) for kind, (n, b) in once.collectives.items()}
            return Traffic(times * once.bytes, each)
        if x.opcode == "conditional":
            branches = [self.count(name) for names in called.values() for name in names]
            return max(branches, key=lambda cost: cost.bytes)
        if x.opcode == "call":
            return self.count(called["to_apply"][0])
        if x.opcode in _FREE or x.opcode.endswith("-done"):
            return Traffic(0.0, {})
        moved = self._moved(x, here, called)
        kind = x.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            return Traffic(moved, {})
        # a start's result may hold its operands beside the result itself
        both = kind != x.opcode and x.type.startswith("((")
        return Traffic(moved, {kind: (1.0, _size(x.type, fast=True) / (2 if both else 1))})

    def _moved(self, x: _Instruction, here: dict, called: dict[str, list[str]]) -> float:
        """Return the bytes that an instruction reads and writes."""
        operands = [_size(here[name].type) if name in here else 0.0 for name in x.operands]
        if x.opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * _size(x.type)
        if x.opcode == "dynamic-update-slice":
            return 2 * operands[1]
        if x.opcode != "fusion":
            return _size(x.type) + sum(operands)
        return self._fused(x, self._computations[called["calls"][0]], operands)

    def _fused(self, x: _Instruction, inside: list[_Instruction], operands: list[float]) -> float:
        """Count a fusion: only slices of what it slices, only the update of what it updates."""
        by_name, root = {y.name: y for y in inside}, inside[-1]
        total, replaced = _size(x.type), None
        if root.opcode == "dynamic-update-slice":
            replaced, update = root.operands[:2]
            total = 2 * _size(by_name[update].type)
        for y in inside:
            if y.opcode != "parameter" or y.name == replaced:
                continue
            users = [z for z in inside if y.name in z.operands]
            if users and all(z.opcode in ("dynamic-slice", "gather") for z in users):
                total += sum(_size(z.type) for z in users)
            else:
                total += operands[int(y.arguments)]
        return total

    def _trips(self, x: _Instruction, condition: str) -> int:
        known = re.search(r'known_trip_count":\{"n":"(\d+)', x.attributes)
        if known:
            return int(known[1])
        compared = [
            int(y.arguments)
            for y in self._computations[condition]
            if y.opcode == "constant" and y.arguments.isdecimal()
        ]
        return max([1, *compared])
