"""The short help of each command: what it is for, four examples, the options asked for most."""

import itertools
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

from lipsjax.runs.arms import ARMS

WIDEST = 80
"""Columns of a text that has to fit any terminal."""
QUESTION = ("Question", ("arms", "seeds", "grid", "target"))
DECIDED = (QUESTION[0], (*QUESTION[1], "until", "margin", "max-seeds"))
DATA = (
    "Data",
    (
        *("dataset", "data-dir", "partition.kind", "partition.clients"),
        *("partition.train-examples", "partition.alpha", "partition.test-examples"),
    ),
)
TRAINING = (
    "Training",
    (
        *("rounds", "model.name", "model.width", "strategy.name", "local.epochs"),
        *("local.batch-size", "local.learning-rate", "local.optimizer"),
    ),
)
LIPS = ("LIPS", ("sparsity.density", "sparsity.every", "sparsity.criterion", "sparsity.kinds"))
MACHINE = ("Machine", ("out", "workers", "devices"))
VERBOSE = ("Machine", (*MACHINE[1], "verbose"))


class Help(NamedTuple):
    """What the short help of a command says."""

    usage: str  # what follows the name of the command
    purpose: str
    examples: tuple[tuple[str, str], ...]  # arguments, and what they are for
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()  # title -> options; the machine's last
    names_arms: bool = False  # whether it takes arms by name


HELP = {
    "sweep": Help(
        "[STUDY.toml] [OPTIONS]",
        "Compare arms over seeds and a grid, and write the report. Stop it at any time: the same "
        "command goes on where it was. Options replace what STUDY.toml says.",
        (
            ("", "the default study"),
            ("--arms dense local lips random", "arms by name"),
            ("--dataset FILE.npz --partition.clients 8", "your own data"),
            ("STUDY.toml --until decided --margin 1", "seeds as needed"),
        ),
        (DECIDED, DATA, TRAINING, LIPS, VERBOSE),
        names_arms=True,
    ),
    "run": Help(
        "[OPTIONS]",
        "Train one federated run and record it. A run that was stopped goes on.",
        (
            ("", "federated averaging"),
            ("--lips --rounds 100", "with LIPS"),
            ("--strategy.name scaffold", "another strategy"),
            ("--dataset FILE.npz --partition.clients 8", "your own data"),
        ),
        (("Run", ("lips", "seed")), DATA, TRAINING, LIPS, MACHINE),
    ),
    "attack": Help(
        "RUN [OPTIONS]",
        "Attack clients of a recorded run, OUT/runs/HASH: what do their messages give away? "
        "Results lie beside the run, and in the study's report. What an attack does not find is "
        "not safe.",
        (
            ("RUN", "labels, images, members"),
            ("RUN --rounds 0 5 10", "of these rounds"),
            ("RUN --attacks gradient --clients 3", "one victim, by L-BFGS"),
            ("RUN --minutes 10", "it goes on later"),
        ),
        (
            ("Attack", ("rounds", "clients", "attacks", "attackers", "labels", "bitmaps")),
            ("Search", ("steps", "restarts", "total-variation", "seed", "images")),
            ("Machine", ("chunk", "minutes", "data-dir")),
        ),
    ),
    "search": Help(
        "[STUDY.toml] [OPTIONS]",
        "Search for the setting of an arm that does best, then confirm it on seeds that were not "
        "searched: the best of many is too high an estimate.",
        (
            ("--trials 20", "the first sparse arm"),
            ("--space 'sparsity.density=[0.2, 0.8]'", "what may vary"),
            ("STUDY.toml --arm lips", "an arm of a file"),
            ("STUDY.toml --timeout 3600", "for an hour"),
        ),
        (("Search", ("trials", "arm", "timeout", "space")), QUESTION, DATA, TRAINING, VERBOSE),
        names_arms=True,
    ),
    "plan": Help(
        "[STUDY.toml] [OPTIONS]",
        "Say what a study would take: memory, FLOPs, hours and money, on devices that need not be "
        "here. Nothing is run.",
        (
            ("STUDY.toml", "on this machine's CPU"),
            ("STUDY.toml --device v5e:2x2", "on four TPU chips"),
            ("STUDY.toml --price-per-hour 4.80", "what it costs"),
            ("--rounds 100 --seeds 10", "without a file"),
        ),
        (("Plan", ("device", "price-per-hour", "json")), QUESTION, DATA, TRAINING, MACHINE),
        names_arms=True,
    ),
    "survey": Help(
        "[STUDY.toml] [OPTIONS]",
        "Say what each site holds, and what to ask, before anything is trained.",
        (
            ("", "the default study"),
            ("--dataset FOLDER --partition.kind natural", "your own sites"),
            ("STUDY.toml --out results/mine", "of a file"),
            ("--partition.alpha 1.0 --anonymise", "without names"),
        ),
        (("Page", ("anonymise",)), DATA, MACHINE),
    ),
    "poc": Help(
        "[STAGES.toml] [OPTIONS]",
        "Run a proof of concept in stages, each a study that must pass its gates before the next "
        "one begins: go, no-go, or the command that would settle it.",
        (
            ("STAGES.toml", "all stages, as far as they go"),
            ("STAGES.toml --seeds small=12", "more seeds of a stage"),
            ("STAGES.toml --out results/mine", "elsewhere"),
            ("STAGES.toml --exit-code", "tell scripts by its status"),
        ),
        (("Stages", ("seeds", "exit-code", "out")),),
    ),
    "power": Help(
        "[DIRECTORY] [OPTIONS]",
        "Say how many seeds would find an effect of each arm, how long they take, and the command "
        "that runs them: from a study's recordings alone.",
        (
            ("results", "an effect of 1 point"),
            ("results --effect 2", "of 2 points"),
            ("results --power 0.9", "more surely"),
            ("results --measure global", "on the common test set"),
        ),
        (("Power", ("effect", "power", "measure")),),
    ),
    "report": Help(
        "[DIRECTORY] [OPTIONS]",
        "Draw a study's table and report again, from its recordings alone.",
        (
            ("results", "report.html"),
            ("results --format md", "Markdown, for a paper"),
            ("results --format parquet", "all figures as tables"),
            ("results --anonymise", "without names and paths"),
        ),
        (("Page", ("format", "anonymise", "verbose")),),
    ),
    "export": Help(
        "RUN [FILE.safetensors] [OPTIONS]",
        "Write the global model of a run, as after its last round, to a safetensors file.",
        (
            ("results/runs/HASH", "to model.safetensors"),
            ("RUN site.safetensors", "to this file"),
            ("RUN --layout torch", "for PyTorch"),
            ("RUN ~/site.safetensors --layout torch", "both"),
        ),
        (("File", ("layout",)),),
    ),
    "deploy": Help(
        "flower STUDY.toml DIR [OPTIONS]",
        "Make a Flower app of one run of a study: its model, partition and settings, and a client "
        "mod that needs no JAX. What cannot be carried over is refused by name.",
        (
            ("flower STUDY.toml app", "clients of PyTorch"),
            ("flower STUDY.toml app --client flax", "of Flax"),
            ("flower STUDY.toml app --arm dense", "another arm"),
            ("masks W G FILE --density 0.5", "a round's masks"),
        ),
        (("App", ("client", "arm", "cell", "seed", "data-dir")),),
    ),
}


def short(program: str, help_: Help, values: Mapping[str, Any]) -> str:
    """Return the short help of a command.

    Args:
      program: how the command is called.
      help_: what it says.
      values: option -> what it is if it is not given.

    Returns:
      Lines of at most 80 columns.
    """
    said = [f"{program} {arguments}".strip() for arguments, _ in help_.examples]
    longest = max(map(len, said))
    lines = [f"usage: {program} {help_.usage}", "", *textwrap.wrap(help_.purpose, WIDEST), ""]
    lines += [
        f"  {example:<{longest}}  # {purpose}"
        for example, (_, purpose) in zip(said, help_.examples, strict=True)
    ]
    lines.append("")
    indent = max(len(title) for title, _ in help_.groups) + 2
    for title, names in help_.groups:
        parts = [_option(name, values[f"--{name}"]) for name in names]
        lines += _columns(parts, WIDEST - indent, f"{title:<{indent}}", " " * indent)
    if help_.names_arms:
        lines += textwrap.wrap(f"Arms known by name: {', '.join(ARMS)}.", WIDEST)
    return "\n".join([*lines, "", f"Values are the defaults. {program} --help-all explains all."])


def _option(name: str, value: Any) -> str:
    """Return an option with its default; alone where that is nothing, or it takes none."""
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    nothing = value is None or value is False or value == ""
    text = f"--{name}" if nothing else f"--{name} {value}"
    return text if len(text) <= WIDEST // 2 else f"--{name} ..."


def _columns(parts: list[str], width: int, first: str, rest: str) -> list[str]:
    """Fill lines with parts that are not broken."""
    lines, line = [], ""
    for part in parts:
        longer = f"{line}  {part}" if line else part
        if line and len(longer) > width:
            lines.append(line)
            longer = part
        line = longer
    leads = itertools.chain([first], itertools.repeat(rest))
    return [f"{lead}{text}" for lead, text in zip(leads, [*lines, line], strict=False)]
