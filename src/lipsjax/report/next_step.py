"""What to do next: a sentence, a command to copy, and the minutes that it takes.

The advice is that of the last line of :mod:`lipsjax.report.summary`; this adds what to type.
Minutes are those that the study's own runs took, one after the other.
"""

import math
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from lipsjax.analysis.cards import at_ceiling, subjects, with_controls
from lipsjax.analysis.comparison import Row, compare
from lipsjax.analysis.decision import BETTER, CLAIMS, WORSE
from lipsjax.analysis.diagnosis import DECISIVE, THRESHOLD, alone_beside
from lipsjax.analysis.finding import FEWEST, NO_DIFFERENCE, UNKNOWN, outcome, usable
from lipsjax.analysis.stats import Interval, seeds_needed, seeds_range
from lipsjax.analysis.wording import counted
from lipsjax.recording import StudyRecording
from lipsjax.report.running import counted_running
from lipsjax.report.summary import GO, NO_GO, WANTED, advise, loss_to

MOST_SEEDS = 200
"""Seeds up to which more of them are advised; a question that takes more is another one."""

OPEN_WORD = "Not known yet"
SO_FAR = "So far, yes"
TOO_EASY_WORD = "This task is too easy to tell"

FIRST_SEEDS = 5
"""Seeds that are advised where there are too few to tell how many it takes."""


class Step(NamedTuple):
    """What to do next."""

    word: str  # whether it is worth going on
    sentence: str
    command: str = ""  # to copy; empty where there is nothing to run, or it is not known how
    seconds: float = math.nan  # of computing, one run after the other


def next_step(study: StudyRecording, rows: Sequence[Row] | None = None) -> Step:
    """What to do next.

    Args:
      study: the recorded study.
      rows: its comparison rows; made anew if not given.

    Returns:
      The first of these that applies: finish what is not finished; take what planned looks decided,
      or plan anew; add the arms without which a question has no answer; look for a harder task,
      where nothing can be told; add the seeds that would tell; confirm a gain on new seeds; stop.

    Raises:
      ValueError: if no trial of the study is finished.
    """
    rows = compare(study) if rows is None else rows
    return (
        _finish(study)
        or _planned(study, rows)
        or _add_arms(study, rows)
        or _harder(study, rows)
        or _more_seeds(study, rows)
        or _conclude(study, rows)
    )


def with_option(command: str, option: str, *values: str) -> str:
    """A command of a study with one of its options set, or set anew.

    Args:
      command: as it was recorded.
      option: as ``--help`` writes it.
      *values: of the option.

    Returns:
      The command; empty if it is not one of ``sweep`` or ``search``, whose options are known.

    Example:
      >>> with_option("lipsjax sweep S.toml --seeds=5 --out o", "--seeds", "9")
      'lipsjax sweep S.toml --out o --seeds 9'
      >>> with_option("python mine.py", "--seeds", "9")
      ''
    """
    words = _words(command)
    if not _is_known(words):
        return ""
    kept, skipping = [], False
    for word in words:
        if word.startswith("--"):
            skipping = word.partition("=")[0].replace("_", "-") == option
        if not skipping:
            kept.append(word)
    return " ".join([*map(_quoted, kept), option, *map(_quoted, values)])


def _finish(study: StudyRecording) -> Step | None:
    left = [trial for trial in study.missing if "reason" not in trial]  # no rule stopped it
    if not left:
        return None
    per_run = sum(_seconds(study).values()) / len(_seconds(study))
    n, total = len(left), len(study.trials) + len(study.missing) + len(study.diverged)
    sentence = (
        f"Let the study finish: {n} of {total} runs are open{counted_running(study)}, and the same "
        "command goes on where it was."
    )
    command = study.command if _is_known(_words(study.command)) else ""
    return Step(OPEN_WORD, sentence, command, n * per_run)


def _planned(study: StudyRecording, rows: Sequence[Row]) -> Step | None:
    """What planned looks decided, which more seeds in the same folder would undo.

    Of the arms that the study is about alone: that pooled data do better is no reason to go on.
    """
    if study.decisions is None:
        return None
    labels = study.decisions.plan.cells
    about = {(row.cell, row.arm): row for row in subjects(rows)}
    claims: dict[tuple[str, str], list[str]] = {}
    for each in study.decisions.found:
        place = labels[each.comparison.cell], each.comparison.arm
        if place in about:
            claims.setdefault(place, []).append(each.claim)
    if not claims:
        return Step(
            OPEN_WORD, "The plan has ended, and no arm with LIPS was among those decided about."
        )
    better = {place for place, made in claims.items() if BETTER in made}
    worse = {place for place, made in claims.items() if WORSE in made}
    no_go = {p for p in better if advise(about[p], alone_beside(about[p], rows)) == NO_GO}
    margin = counted(100 * study.decisions.plan.margin, "point")
    if gains := [place for place in claims if place in better - worse - no_go]:
        arms = ", ".join(dict.fromkeys(arm for _, arm in gains))
        where = f" in {len(gains)} of {len(claims)} comparisons" if len(claims) > 1 else ""
        return Step(
            f"Yes, with {arms}{where}",
            f"The plan has decided: better by more than {margin}. Before you build on it, confirm "
            "it on seeds that are new.",
        )
    if all(claim in CLAIMS for made in claims.values() for claim in made):
        if any(loss_to(about[p], alone_beside(about[p], rows)) for p in better - worse):
            return Step(
                "No, each site does better alone",
                f"The plan has decided: LIPS is better by more than {margin}, and training alone "
                "is ahead of it on each site's own examples. Go on only where one model for all "
                "sites is what you need.",
            )
        if better:
            return Step(
                "No, one accuracy gains and the other does not",
                f"The plan has decided: better by more than {margin} on one of them alone. Other "
                "sites or another model are another question.",
            )
        return Step(
            f"No, nothing is to be gained by more than {margin}",
            "The plan has decided. Other sites or another model are another question.",
        )
    most = study.decisions.plan.looks[-1]
    anew = ""
    if not any(word.startswith("--looks") for word in _words(study.command)):
        seed = 1 + max(trial.seed for trial in study.trials)
        anew = with_option(study.command, "--seed", str(seed))
        anew = _elsewhere(with_option(anew, "--max-seeds", str(2 * most)), "again")
    return Step(
        OPEN_WORD,
        f"Its {most} seeds were too few for this plan, and more in the same folder would be "
        "unplanned: plan twice as many on new seeds, or a wider margin.",
        anew,
        2 * _total(study),
    )


def _add_arms(study: StudyRecording, rows: Sequence[Row]) -> Step | None:
    arms = with_controls(rows)
    added = arms[len(study.arms) :]
    if not added:
        return None
    told = {
        "local": "one arm where each site trains alone",
        "pooled": "one where all data lie in one place",
        "lips": "one with LIPS",
    }
    what = ", ".join(told[arm] for arm in added)
    seconds = _seconds(study)
    runs = len(added) * len({t.seed for t in study.trials}) * len(study.cells)
    per_run = seconds.get(study.reference, max(seconds.values()))
    go = any(advise(row, alone_beside(row, rows)) == GO for row in subjects(rows))
    return Step(
        SO_FAR if go else OPEN_WORD,
        f"Add what the study lacks: {what}. Without it not all three questions have an answer.",
        # a search runs the arm that it searches, and its reference alone
        "" if _is_search(study.command) else with_option(study.command, "--arms", *arms),
        runs * per_run,
    )


def _harder(study: StudyRecording, rows: Sequence[Row]) -> Step | None:
    """A harder task, where nothing is seen and the arms to beat leave no room."""
    judged = subjects(rows)
    at = {(row.cell, row.arm): row for row in rows}
    if not judged or not all(
        at_ceiling(at[row.cell, row.reference])
        and outcome(row, DECISIVE, up="", down="") in (NO_DIFFERENCE, UNKNOWN)
        for row in judged
    ):
        return None
    partition = study.trials[0].recording.config["partition"]
    sentence = f"Ask a harder question: less than {100 * THRESHOLD:g} point is left to gain."
    least = partition["train_examples"] // 3 if partition["kind"] != "natural" else 0
    field = "partition.train_examples"
    is_set = any(field in cell.get("overrides", {}) for cell in study.cells)
    if least < 2 or is_set:
        return Step(TOO_EASY_WORD, sentence)
    command = with_option(study.command, "--partition.train-examples", str(least))
    return Step(
        TOO_EASY_WORD,
        f"{sentence} Sites of {least} examples each are a start.",
        _elsewhere(command, "smaller"),
        _total(study),
    )


def _more_seeds(study: StudyRecording, rows: Sequence[Row]) -> Step | None:
    """The seeds that would tell, where an effect is open and seeds can close it."""
    judged = subjects(rows)
    unsettled = [
        row.differences[DECISIVE].interval
        for row in judged
        if advise(row, alone_beside(row, rows)) not in (GO, NO_GO) and not row.diverged
    ]
    if not unsettled:
        return None
    done = max(len(row.seeds) for row in rows)
    wanted, told = _seeds_for(unsettled, done)
    if wanted <= done:
        return None
    if wanted > MOST_SEEDS:
        return Step(
            OPEN_WORD,
            f"Ask another question: seeds scatter so much that it would take some {wanted} of them "
            f"to see a difference of {100 * WANTED:g} point.",
        )
    return Step(
        OPEN_WORD,
        f"Run more seeds, {wanted} in all{told}",
        with_option(study.command, "--seeds", str(wanted)),
        (wanted - done) * _total(study) / done,
    )


def _seeds_for(unsettled: Sequence[Interval], done: int) -> tuple[int, str]:
    """How many seeds would tell, and why."""
    known = [found for found in unsettled if not math.isnan(usable(found).low)]
    if len(known) < len(unsettled):
        why = f": {FEWEST} are the fewest from which anything is named."
        return max(FIRST_SEEDS, done + 1 if done >= FIRST_SEEDS else 0), why
    n, widest = max((seeds_needed(found, WANTED) or 0, found) for found in known)
    least, most = seeds_range(widest, WANTED) or (n, n)
    why = (
        f", to see a difference of {100 * WANTED:g} point. It may take from {least} to {most}, as "
        f"{widest.n} seeds tell roughly how far they scatter."
    )
    return n, why


def _conclude(study: StudyRecording, rows: Sequence[Row]) -> Step:
    judged = subjects(rows)
    advice = [advise(row, alone_beside(row, rows)) for row in judged]
    fresh = _elsewhere(
        with_option(study.command, "--seed", str(1 + max(t.seed for t in study.trials))), "confirm"
    )
    if GO in advice:
        names = ", ".join(
            dict.fromkeys(r.arm for r, word in zip(judged, advice, strict=True) if word == GO)
        )
        return Step(
            f"Yes, with {names}",
            "Before you build on it, confirm it on seeds that are new: it should help there too.",
            fresh,
            _total(study),
        )
    if judged and set(advice) == {NO_GO}:
        return Step(
            "No, not with LIPS in this setting",
            "Stop here. Other sites or another model are another question.",
        )
    if any(row.diverged for row in judged):
        return Step(
            OPEN_WORD,
            "Make training stable first, as with a lower learning rate: more seeds do not settle "
            "what an arm that diverges is worth.",
        )
    return Step(
        OPEN_WORD,
        "Decide whether so small a difference matters: the intervals are narrow, and more seeds "
        "would not change what they say.",
    )


def _seconds(study: StudyRecording) -> dict[str, float]:
    """Arm -> seconds of a run with compiling, its mean over finished runs."""
    found: dict[str, list[float]] = {}
    for trial in study.trials:
        run = trial.recording
        found.setdefault(trial.arm, []).append(run.seconds + run.compile_seconds)
    return {arm: sum(each) / len(each) for arm, each in found.items()}


def _total(study: StudyRecording) -> float:
    """Seconds of all finished runs, those that several cells share once."""
    runs = {trial.run: trial.recording for trial in study.trials}
    return sum(run.seconds + run.compile_seconds for run in runs.values())


def _elsewhere(command: str, word: str) -> str:
    """The command with a folder of its own, so that it replaces no report."""
    if not command:
        return ""
    words = _words(command)
    given = [w.partition("=")[2] for w in words if w.startswith("--out=")]
    if "--out" in words[:-1]:
        given.append(words[words.index("--out") + 1])
    return with_option(command, "--out", f"{(given or ['results'])[-1].rstrip('/')}-{word}")


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a quote that does not end
        return []


def _is_known(words: Sequence[str]) -> bool:
    """Whether a command is one whose options are known."""
    ours = ("lipsjax.experiments.sweep", "lipsjax.experiments.search")
    return (len(words) > 2 and words[2] in ours) or words[:1] == ["lipsjax"]


def _is_search(command: str) -> bool:
    return any(word in ("search", "lipsjax.experiments.search") for word in _words(command)[1:3])


def _quoted(word: str) -> str:
    """A word as a shell reads it, its home not taken for letters."""
    return f"~/{shlex.quote(word[2:])}" if word.startswith("~/") else shlex.quote(word)
