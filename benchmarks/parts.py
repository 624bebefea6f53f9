"""Where a round goes, part by part: what takes the time, how fast it runs, and how fast it could.

python benchmarks/parts.py --json parts.json

One round of lipsjax is profiled by `jax.profiler`. Each instruction of the compiled program belongs
to a part, by its kind and by the layer that it is of; its FLOPs and the bytes of what it reads and
writes follow from its shapes. `--torch` does the same to the loop in PyTorch, by operator
(`torch.profiler`), whose times alone are known. Beside each part stands the share of its time that
the machine's products, or its nearest cache, need at least for so many FLOPs and bytes (a
roofline); a part whose bytes take longer than its FLOPs is bound by memory, and the more so the
farther they come. A slice counts as all that it is cut from.
"""

import functools
import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from measure import Case, interleave, once, start_jax
from rich.console import Console
from rich.table import Table
from workloads import WORKLOADS, Workload, make_data, make_simulation

CONVOLUTIONS = r"[/)](?!norm_)\w*(conv|stem|shortcut)"
NORMALISATION = r"norm_\w+/"
IDLE = "nothing, or starting instructions"
PARTS = (
    ("products of convolutions", CONVOLUTIONS, ("convolution", "dot")),
    ("copies for convolutions", CONVOLUTIONS, None),
    ("products of dense layers", r"", ("convolution", "dot")),  # the compiler drops their labels
    ("dense layers, the rest", r"dense|classifier", None),
    ("loops", r"", ("while", "call", "conditional")),
    ("waiting for the other devices", r"", ("all-reduce",)),
    ("normalisation", NORMALISATION, None),
    ("activations, pooling, loss", r"jvp\(", None),
    ("update, batches, states, averages", r"", None),
)
"""Part, what the layer's name must match, kinds of instruction; the first that fits."""


@dataclass(frozen=True)
class Options:
    """What is looked at."""

    workloads: tuple[Literal["w1", "w2", "w3"], ...] = ("w1", "w2", "w3")
    """Which workloads."""
    rounds: int = 3
    """Profiled rounds; times are the mean."""
    devices: int | None = None
    """CPU devices; none: one per core."""
    torch: bool = False
    """Profile the loop in PyTorch too; needs the extra `bench`."""
    json: Path | None = None
    """Write the parts here."""


class Instruction(NamedTuple):
    """What one instruction of a compiled program does each time it runs."""

    part: str
    flops: float
    bytes: float


class Part(NamedTuple):
    """What a part of a round takes, of all cores together."""

    name: str
    seconds: float  # of the threads
    flops: float
    bytes: float


class Machine(NamedTuple):
    """What all cores together can do."""

    flops: float  # a second, of float32 products
    near: float  # bytes a second, of arrays that a core's own cache holds
    far: float  # of arrays that no cache holds

    def least(self, part: Part, cores: int) -> float:
        """Return the share of a part's time that its FLOPs, or its bytes in a cache, need."""
        needed = max(part.flops / self.flops, part.bytes / self.near)
        return needed * cores / part.seconds if part.seconds else math.nan


_LINE = re.compile(r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.*?) (?P<kind>[\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[sufb]f?\d+)\[([\d,]*)\]")
_SIZE = {"pred": 1, "bf16": 2}


def _arrays(text: str) -> list[tuple[int, tuple[int, ...]]]:
    """Return bytes of an element, and shape, of each array that a type names."""
    found = []
    for kind, sides in _ARRAY.findall(text):
        size = _SIZE.get(kind) or int(re.sub(r"\D", "", kind)) // 8
        found.append((size, tuple(int(side) for side in sides.split(",") if side)))
    return found


def _bytes(text: str) -> float:
    return float(sum(size * math.prod(shape) for size, shape in _arrays(text)))


def _is_of_layer(label: str) -> bool:
    """Tell whether an operation is of a convolution or a dense layer, and not of its norm."""
    return bool(re.search(f"{CONVOLUTIONS}|dense|classifier", label))


def _operands(match: re.Match) -> list[str]:
    return re.findall(r"%([\w.\-]+)", match[4].split("), ")[0])


def instructions(hlo: str) -> dict[str, Instruction]:
    """Return what each instruction of a compiled program does, by its name."""
    bodies: dict[str, list[re.Match]] = {}
    body: list[re.Match] = []
    for line in hlo.splitlines():
        if line.rstrip().endswith("{") and "->" in line:
            body = bodies.setdefault(line.split()[line.startswith("ENTRY")].lstrip("%"), [])
        elif match := _LINE.match(line):
            body.append(match)
    types = {m["name"]: m["type"] for body in bodies.values() for m in body}
    said = {
        m["name"]: label[1]
        for body in bodies.values()
        for m in body
        if (label := re.search(r'op_name="([^"]*)"', m[4]))
    }
    reads = {m["name"]: _operands(m) for body in bodies.values() for m in body}

    @functools.cache
    def label_of(name: str) -> str:
        """Return what an instruction says of itself, or the layer of what it reads."""
        if name in said:
            return said[name]
        found = (label_of(read) for read in reads.get(name, ()))
        return next((label for label in found if _is_of_layer(label)), "")

    def flops(match: re.Match) -> float:
        inner = re.search(r"calls=%?([\w.\-]+)", match[4])
        if match["kind"] == "fusion" and inner:
            return sum(map(flops, bodies[inner[1]]))
        if match["kind"] not in ("dot", "convolution"):
            return 0.0
        result = math.prod(_arrays(match["type"])[0][1])
        left, right = re.findall(r"%([\w.\-]+)", match[4])[:2]
        if match["kind"] == "dot":
            shape = _arrays(types[left])[0][1]
            over = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", match[4])
            assert over is not None
            return 2.0 * result * math.prod(shape[int(i)] for i in over[1].split(",") if i)
        kernel = _arrays(types[right])[0][1]
        layout = re.search(r"dim_labels=\w+_(\w+)->", match[4])
        assert layout is not None
        return 2.0 * result * math.prod(kernel) / kernel[layout[1].index("o")]

    def kinds(match: re.Match) -> set[str]:
        inner = re.search(r"calls=%?([\w.\-]+)", match[4])
        return {m["kind"] for m in bodies[inner[1]]} if inner else {match["kind"]}

    found = {}
    for lines in bodies.values():
        for match in lines:
            name, used = match["name"], kinds(match)
            part = next(
                part
                for part, pattern, wanted in PARTS
                if re.search(pattern, label_of(name)) and (wanted is None or used & set(wanted))
            )
            moved = _bytes(match["type"])
            moved += sum(_bytes(types.get(x, "")) for x in _operands(match))
            found[name] = Instruction(part, flops(match), moved)
    return found


END = "end: "
"""Before the name of an instruction that ends later than its call returns."""


def own_times(events: Iterable[Any]) -> Counter[str]:
    """Return the nanoseconds of events of one thread by name, less those of events within them.

    A product may be handed over to threads that then say nothing until its end: a thread's silence
    right before the end of an instruction is that instruction's.
    """
    own: Counter[str] = Counter()
    open_events: list[tuple[float, str]] = []
    ended = 0.0
    for event in sorted(events, key=lambda e: (e.start_ns, -e.duration_ns)):
        while open_events and open_events[-1][0] <= event.start_ns:
            open_events.pop()
        if event.name.startswith(END):
            if 0 < ended < event.start_ns and not open_events:
                own[event.name.removeprefix(END)] += event.start_ns - ended
        else:
            if open_events:
                own[open_events[-1][1]] -= event.duration_ns
            own[event.name] += event.duration_ns
            open_events.append((event.start_ns + event.duration_ns, event.name))
        ended = max(ended, event.start_ns + event.duration_ns)
    return own


def parts_of_lipsjax(workload: Workload, options: Options, devices: int) -> list[Part]:
    """Profile rounds of federated averaging."""
    data = make_data(workload)
    simulation = make_simulation(workload, data, devices=devices)
    placed, host = simulation.place(data), simulation.to_host(simulation.init(jax.random.key(0)))
    known = instructions(simulation.compiled(1).as_text() or "")
    case = Case(lambda s: simulation.run(s, placed, 1), lambda: simulation.from_host(host))
    once(case)
    spent: Counter[str] = Counter()
    count: Counter[str] = Counter()
    wall = 0.0
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            state = jax.block_until_ready(case.prepare())
            with jax.profiler.trace(folder):
                wall += once(Case(case.run, lambda s=state: s))[0]
            (file,) = Path(folder).rglob("*.xplane.pb")
            for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
                for line in plane.lines:
                    events = [e for e in line.events if e.name.removeprefix(END) in known]
                    spent += own_times(events)
                    count += Counter(e.name for e in events if e.name in known)
    sums = {part: [0.0, 0.0, 0.0] for part, *_ in PARTS}
    for name, nanoseconds in spent.items():
        part, flops, moved = known[name]
        if part == "loops":
            flops = moved = 0.0
        for i, x in enumerate((nanoseconds / 1e9, flops * count[name], moved * count[name])):
            sums[part][i] += x / options.rounds
    parts = [Part(name, *values) for name, values in sums.items() if values[0]]
    parts.sort(key=lambda part: -part.seconds)
    idle = wall * devices / options.rounds - sum(part.seconds for part in parts)
    return [*parts, Part(IDLE, idle, 0.0, 0.0)]


TORCH_PARTS = (
    ("products of convolutions", r"conv"),
    ("products of dense layers", r"addmm|aten::mm|linear"),
    ("normalisation", r"batch_norm"),
    ("update, batches, states, averages", r"_foreach|add_|copy_|zero"),
    ("activations, pooling, loss", r"relu|threshold|pool|softmax|nll|mean|div|sum"),
    ("starting operators", r"^autograd::|Optimizer|Backward0$|^detach|empty|view|reshape"),
    ("the rest", r""),
)
"""Part, what an operator's name must match; the first that fits."""


def parts_of_torch(workload: Workload, options: Options) -> list[Part]:
    """Profile rounds of the loop in PyTorch; its operators' bytes are not known."""
    import torch
    import torch_loop
    from peers import round_batches

    torch.set_num_threads(len(jax.devices()))
    key, data = jax.random.key(0), make_data(workload)
    simulation = make_simulation(workload, data)
    batches = round_batches(workload, data, key, simulation.cohort(key, 0))
    initial = torch_loop.to_torch(simulation.to_host(simulation.init(key))["global_model"])
    train = torch_loop.make_round(workload, initial, batches)
    train()
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(options.rounds):
            train()
    sums: Counter[str] = Counter()
    for event in profile.key_averages():
        part = next(name for name, pattern in TORCH_PARTS if re.search(pattern, event.key))
        sums[part] += event.self_cpu_time_total / 1e6 / options.rounds
    # it knows the FLOPs of forward operators alone, and no bytes
    return [Part(name, seconds, math.nan, math.nan) for name, seconds in sums.most_common()]


def machine(devices: int) -> Machine:
    """Measure what products and memory allow."""
    mesh = jax.make_mesh((devices,), ("devices",))
    sharding = jax.NamedSharding(mesh, jax.P("devices"))

    def fastest(function, x) -> float:
        compiled = jax.jit(function, out_shardings=sharding).lower(x).compile()
        return min(interleave({"": Case(lambda _: compiled(x))}, 7)[""])

    def rate_of_copies(floats: int) -> float:
        """Each device adds 1 to as many floats, many times over."""
        times = max(1, 2**26 // floats)
        x = jax.device_put(jnp.zeros((devices, floats)), sharding)
        seconds = fastest(
            jax.shard_map(
                lambda x: jax.lax.fori_loop(0, times, lambda _, x: x + 1, x),
                mesh=mesh,
                in_specs=jax.P("devices"),
                out_specs=jax.P("devices"),
            ),
            x,
        )
        return 8.0 * devices * floats * times / seconds

    size = 1536
    square = np.random.default_rng(0).standard_normal((devices, size, size), np.float32)
    on_each = jax.device_put(square, sharding)
    seconds = fastest(
        jax.shard_map(
            lambda x: x @ x, mesh=mesh, in_specs=jax.P("devices"), out_specs=jax.P("devices")
        ),
        on_each,
    )
    return Machine(2 * devices * size**3 / seconds, rate_of_copies(2**16), rate_of_copies(2**25))


def show(title: str, parts: Sequence[Part], here: Machine, cores: int) -> None:
    """Print the parts of a round."""
    whole = sum(part.seconds for part in parts)
    table = Table(title=title)
    for heading in ("part", "ms, all cores", "share", "GFLOP/s", "GB/s", "least share", "bound by"):
        table.add_column(heading, justify="left" if heading == "part" else "right", no_wrap=True)
    for part in parts:
        row = [part.name, f"{part.seconds / cores * 1e3:.1f}", f"{part.seconds / whole:.1%}"]
        rates = [x * cores / part.seconds / 1e9 or math.nan for x in (part.flops, part.bytes)]
        row += ["" if math.isnan(x) else f"{x:.1f}" for x in rates]
        if part.bytes > 0:
            row.append(f"{here.least(part, cores):.2f}")
            memory = part.bytes / here.near > part.flops / here.flops
            row.append("memory" if memory else "products")
        table.add_row(*row)
    table.caption = (
        f"{whole / cores * 1e3:.1f} ms in all; the machine: {here.flops / 1e9:.0f} GFLOP/s, "
        f"{here.near / 1e9:.0f} GB/s in a core's cache, {here.far / 1e9:.0f} GB/s beyond"
    )
    Console(width=120).print(table)


def main(options: Options) -> None:
    """Profile, show and write."""
    devices = start_jax(options.devices)
    here = machine(devices)
    written: dict[str, Any] = {"machine": here._asdict()}
    for name in options.workloads:
        workload = WORKLOADS[name]
        parts = parts_of_lipsjax(workload, options, devices)
        show(f"{name}: a round of lipsjax on {devices} CPU devices", parts, here, devices)
        written[name] = [part._asdict() for part in parts]
        if options.torch:
            parts = parts_of_torch(workload, options)
            show(f"{name}: a round of the loop in PyTorch", parts, here, 1)
            written[f"{name}_torch"] = [part._asdict() for part in parts]
    if options.json is not None:
        options.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
