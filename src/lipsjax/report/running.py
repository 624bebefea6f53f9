"""Which runs of a study other processes are running while it is reported: ``sweep --share``."""

from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from lipsjax.recording import StudyRecording


def nobodys(study: StudyRecording) -> list[dict[str, Any]]:
    """Return the trials that are not finished and that nobody runs."""
    return [trial for trial in study.missing if "held_by" not in trial]


def counted_running(study: StudyRecording) -> str:
    """Return how many of those that are not finished are being run, as a part of a sentence."""
    count = len(study.missing) - len(nobodys(study))
    return f", {count} of them being run" if count else ""


def running(study: StudyRecording) -> list[str]:
    """Return a line for each process that runs trials: who, which, since when, last heard of.

    Times are the holder's own, and those of its last beat as the file system has them; several
    trials have the earliest and the latest. Whether a holder has died can only be seen by waiting,
    as ``sweep --share`` does, so a reader is told when it was last heard of.
    """
    held = sorted((t for t in study.missing if "held_by" in t), key=_holder)
    return [_line(who, list(members)) for who, members in groupby(held, _holder)]


def _holder(trial: Mapping[str, Any]) -> str:
    return trial["held_by"]


def _line(who: str, members: list[dict[str, Any]]) -> str:
    arms = Counter(trial["arm"] for trial in members)
    what = ", ".join(f"{n} of {arm}" for arm, n in arms.items())
    since = min((trial["since"] for trial in members if trial["since"]), default="")
    heard = max(trial["heard"] for trial in members)
    times = [*([f"since {since}"] if since else []), *([f"last heard of {heard}"] if heard else [])]
    return f"{who}: {what}{', ' if times else ''}{', '.join(times)}"
