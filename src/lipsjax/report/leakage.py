"""What recorded attacks come to, in tables and sentences."""

from collections.abc import Iterable
from pathlib import Path

from lipsjax.analysis.leakage import FALSE_POSITIVES, Leak, leaks
from lipsjax.analysis.wording import shown
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
    return f"{shown(leak.interval, scale=scale, digits=digits)}{unit}"


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


COLUMNS = ("round", "attack", "attacker", "measure", "mean and 95% interval", "over")


def terminal_table(run_dir: Path) -> str:
    """Return what attacks on one run found, as text."""
    return table_text(COLUMNS, lines(leaks([read_attacks(run_dir)])))
