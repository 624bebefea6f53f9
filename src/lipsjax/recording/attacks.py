"""What attacks found of a run: ``RUN/attacks``, written by :mod:`lipsjax.runs.attack`. No JAX."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from lipsjax.recording import files

Attacker = Literal["unaware", "aware"]
"""Of the defence, as masks and compression."""
HEADER = ("attack", "attacker", "round", "behaviour", "settings", "masks_known", "threat")


class AttackRecording(NamedTuple):
    """One attack by one attacker on one round of a run."""

    about: dict[str, Any]  # the fields of HEADER
    rows: list[dict[str, Any]]  # of each victim
    name: str  # of its files
    folder: Path

    @property
    def key(self) -> tuple[int, str, str, str]:
        """Round, attack, attacker and the digest of the settings."""
        about = self.about
        return about["round"], about["attack"], about["attacker"], self.name.rpartition("-")[2]

    def pictures(self) -> dict[int, dict[str, np.ndarray]]:
        """Read what was kept of victims: ``true`` and ``found`` [n, ...], within 0..1, by client.

        Raises:
          RecordingError: if a file cannot be read.
        """
        kept = {}
        for row in self.rows:
            path = self.folder / f"{self.name}-{row['client']}.npz"
            if path.exists():
                with files.reading(path), np.load(path, allow_pickle=False) as file:
                    kept[row["client"]] = {name: file[name] for name in ("true", "found")}
        return kept


def read_victims(path: Path) -> list[dict[str, Any]]:
    """Read the lines of victims; one that a process did not come to end is left out.

    Raises:
      RecordingError: if the file cannot be read, or a line names no client.
    """
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    with files.reading(path):
        rows = [json.loads(line) for line in whole.splitlines()]
        for row in rows:
            row["client"]
    return rows


def read_attacks(run_dir: Path) -> list[AttackRecording]:
    """Read what attacks found of a run so far, in the order of rounds and attacks.

    Raises:
      RecordingError: if a file cannot be read, or lacks what it should hold.
    """
    found = []
    for path in sorted(run_dir.glob("attacks/*.json")):
        lines = path.with_suffix(".jsonl")
        if not lines.exists():
            continue
        about = files.read_json(path)
        with files.reading(path):
            about = {name: about[name] for name in HEADER}
        rows = read_victims(lines)
        found.append(AttackRecording(about, rows, path.stem, path.parent))
    return sorted(found, key=lambda each: each.key)
