"""What recorded attacks come to, in tables and sentences."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from lipsjax.analysis.finding import FEWEST
from lipsjax.analysis.leakage import FALSE_POSITIVES, Leak, by_arm, compared, leaks
from lipsjax.analysis.wording import clipped, shown
from lipsjax.recording import StudyRecording, write_atomically
from lipsjax.recording.attacks import read_attacks
from lipsjax.report.table import table_text

SHOWN = {
    "accuracy": ("labels right", 100, "%"),
    "chance": ("labels right by an even guess", 100, "%"),
    "identified": ("examples identified", 100, "%"),
    "mse": ("MSE", 1, ""),
    "mse_of_mean": ("MSE of the mean image", 1, ""),
    "psnr": ("PSNR", 1, " dB"),
    "ssim": ("SSIM", 1, ""),
    "explained": ("class mix explained", 100, "%"),
    "p": ("p of a permutation", 1, ""),
}
"""Measure -> what it is called, its scale, its unit."""
SCORES = {
    "loss": "loss of the client's model",
    "global": "loss of the model that went out",
    "lira": "LiRA against other clients",
    "fedmia": "FedMIA against other updates",
}


def measure_text(leak: Leak) -> str:
    """Return what a measure is called.

    >>> from lipsjax.analysis.stats import mean_interval
    >>> leak = Leak("membership", "aware", 0, "lira tpr", mean_interval([0.5]), "victims", 9, "")
    >>> measure_text(leak)
    'LiRA against other clients: true positives at 1%'
    """
    if leak.attack != "membership":
        return SHOWN[leak.measure][0]
    score, kind = leak.measure.split()
    what = "area under the curve" if kind == "auc" else f"true positives at {FALSE_POSITIVES:.0%}"
    return f"{SCORES[score]}: {what}"


def value_text(leak: Leak) -> str:
    """Return a measure with its interval."""
    if leak.attack == "membership":
        share = leak.measure.endswith("tpr")
        text = shown(leak.interval, scale=100 if share else 1, digits=1 if share else 3)
        return f"{text}%" if share else text
    _, scale, unit = SHOWN[leak.measure]
    digits = 1 if scale == 100 or unit else 4
    is_share = leak.measure in ("accuracy", "chance", "identified")
    interval = clipped(leak.interval, 0.0, 1.0) if is_share else leak.interval
    return f"{shown(interval, scale=scale, digits=digits)}{unit}"


def lines(found: Iterable[Leak]) -> list[tuple[str, str, str, str, str, str]]:
    """Return a row of a table for each measure: round, attack, attacker, measure, value, over."""
    return [
        (
            str(leak.round),
            leak.attack,
            leak.attacker,
            measure_text(leak),
            value_text(leak),
            f"{leak.interval.n} {leak.over}",
        )
        for leak in found
    ]


FILE = (
    *("cell", "arm", "attack", "attacker", "round", "measure", "mean", "low", "high", "n"),
    *("over", "victims"),
)
NUMBERS = ("round", "mean and 95% interval")
COLUMNS = ("round", "attack", "attacker", "measure", "mean and 95% interval", "over")


class Part(NamedTuple):
    """What a page shows of the attacks on the arms of one cell."""

    label: str  # of the cell
    sentences: list[str]
    threats: list[tuple[str, str]]  # attack and attacker -> who attacks, and what is known
    table: list[tuple[str, tuple[str, ...]]]  # arm -> a line for each measure
    leaks: dict[str, list[Leak]]
    pictures: dict[str, dict[str, np.ndarray]]  # arm -> images of one victim, where they are kept


def parts(study: StudyRecording) -> list[Part]:
    """Return what attacks found in each cell of a study; nothing where none was attacked."""
    found = []
    for index, cell in enumerate(study.cells):
        leaks_of = by_arm(study, index)
        if not leaks_of:
            continue
        threats = {
            (f"{leak.attack}, {leak.attacker}", leak.threat)
            for leaks in leaks_of.values()
            for leak in leaks
        }
        table = [(arm, line) for arm, each in leaks_of.items() for line in lines(each)]
        found.append(
            Part(
                cell["label"],
                sentences(study, index),
                sorted(threats),
                table,
                leaks_of,
                pictures(study, index),
            )
        )
    return found


def pictures(study: StudyRecording, cell: int) -> dict[str, dict[str, np.ndarray]]:
    """Return images of one victim of each arm's first run, and what was made of them.

    The attack is the first of those that keep images, by the attacker who knows most.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for trial in study.trials:
        if trial.cell != cell or trial.arm in found:
            continue
        for attack in sorted(trial.attacks, key=lambda a: a.about["attacker"] != "aware"):
            kept = attack.pictures()
            if kept:
                found[trial.arm] = kept[min(kept)]
                break
    return found


NAMES = {
    "label": "labels that the classifier's bias gives away",
    "linear": "images that a linear first layer gives away",
    "gradient": "images found by matching (L-BFGS)",
    "cosine": "images found by matching (signed Adam)",
}
WHO = {
    "unaware": "a server that does not know the defence",
    "aware": "a server that knows the defence",
}


def sentences(study: StudyRecording, cell: int) -> list[str]:
    """Return a sentence for each comparison of an arm with its reference."""
    found = []
    for each in compared(study, cell):
        leak, gap = each.leak, each.difference.interval
        if gap.n < FEWEST:
            word = "too few to tell"
        elif math.isnan(gap.low) or gap.low <= 0 <= gap.high:
            word = "no difference seen"
        else:
            word = "more" if gap.low > 0 else "less"
        difference = f"{shown(gap, scale=100, sign='+')} points, over {gap.n} {leak.over}"
        found.append(
            f"{each.arm} against {each.reference}, round {leak.round}, {NAMES[leak.attack]}, by "
            f"{WHO[leak.attacker]}: {value_text(leak)} against {value_text(each.other)}, {word} "
            f"({difference})."
        )
    return found


def terminal_table(run_dir: Path) -> Table:
    """Return what attacks on one run found, to be printed."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in NUMBERS else "left")
    before: tuple[str, ...] = ()
    for line in lines(leaks([read_attacks(run_dir)])):
        same = line[:3] == before[:3]
        table.add_row(*(("", "", "") if same else line[:3]), *line[3:])
        before = line
    return table


def write_leakage(study: StudyRecording, path: Path) -> bool:
    """Write every measure of every attack as CSV; tell whether there is any."""
    found = parts(study)
    if not found:
        return False
    rows = [
        (part.label, arm, leak.attack, leak.attacker, leak.round, leak.measure, *leak.interval,
         leak.over, leak.victims)
        for part in found
        for arm, leaks in part.leaks.items()
        for leak in leaks
    ]  # fmt: skip
    write_atomically(path, table_text(FILE, rows))
    return True
