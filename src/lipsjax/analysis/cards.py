"""A study in three cards: is it stuck, does federating pay, does LIPS help?

Each is a word, the number that it follows from with its interval, and a sentence in plain English.
The words are those of the rules that stand elsewhere: :mod:`~lipsjax.analysis.diagnosis` says
whether a setting is stuck and what federating gains over training alone, and
:mod:`~lipsjax.analysis.finding` whether an arm helps. Two words are of this module alone. Where
nothing else can be said and the arm to beat leaves less than a point to gain
(:func:`at_ceiling`), the task is too easy to tell; where a control is lacking, a card says how to
get it.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeGuard

from lipsjax.analysis.comparison import Row, difference, is_local, is_pooled
from lipsjax.analysis.controls import is_lips
from lipsjax.analysis.diagnosis import (
    DECISIVE,
    NOT_STUCK,
    STUCK,
    THRESHOLD,
    Diagnosis,
    alone_beside,
    diagnose,
)
from lipsjax.analysis.finding import (
    FEWEST,
    NO_DIFFERENCE,
    UNKNOWN,
    against_zero,
    is_too_few,
    outcome,
    usable,
)
from lipsjax.analysis.stats import Interval
from lipsjax.analysis.wording import capped, clipped, counted

Tone = Literal["good", "bad", "open"]

STUCK_QUESTION = "Is training stuck?"
PAYS_QUESTION = "Does training together pay?"
LIPS_QUESTION = "Does LIPS help?"

PAYS = "It pays"
PAYS_NOT = "It does not pay"
HELPS = "It helps"
HURTS = "It hurts"
TOO_EASY = "too easy to tell"
NOT_ASKED = "not asked"

TONES: dict[str, Tone] = {
    STUCK: "bad",
    NOT_STUCK: "good",
    PAYS: "good",
    PAYS_NOT: "bad",
    HELPS: "good",
    HURTS: "bad",
}
"""Word -> whether it is good news for who wants to go on; all other words are open."""


MOST_SHOWN = 3
"""Comparisons whose numbers a card shows one by one; of more it counts."""


class Measured(NamedTuple):
    """A number that a card shows."""

    label: str  # "dense minus local"
    interval: Interval  # of accuracy, or of the inertia index
    is_index: bool = False  # whether it is the inertia index


class Card(NamedTuple):
    """The answer to one question."""

    question: str
    word: str  # the answer
    tone: Tone
    says: str  # the same in a plain sentence or two
    measured: tuple[Measured, ...] = ()  # what it follows from; the first is the number to show
    counts: tuple[tuple[str, int], ...] = ()  # of several comparisons: word -> in how many of them
    lacks: str = ""  # what was not run, in a sentence; empty where all was
    arms: tuple[str, ...] = ()  # all arms with those that lack, for --arms


def cards(rows: Sequence[Row]) -> tuple[Card, Card, Card]:
    """Answer the three questions of a study.

    Args:
      rows: the rows of :func:`lipsjax.analysis.comparison.compare`.

    Returns:
      Whether the setting is stuck; whether training together pays, against alone and against
      pooled data; whether LIPS helps. Where a question is asked in several cells, or of several
      arms, the card counts.
    """
    return _stuck(rows), _pays(rows), _lips(rows)


def at_ceiling(row: Row) -> bool:
    """Whether an arm leaves less than a point to gain: its mean accuracy is above 1 - a point."""
    return row.means[DECISIVE].mean > 1 - THRESHOLD


def subjects(rows: Sequence[Row]) -> list[Row]:
    """The compared rows that a study is about: those of LIPS, else of any transient sparsity.

    Where there are none, it is about arms that diverged in every seed: what they were is not known.
    """
    compared = [row for row in rows if not row.is_reference]
    lips = [row for row in compared if is_lips(row.config)]
    transient = [row for row in compared if row.transient]
    return lips or transient or [row for row in compared if row.diverged and not row.seeds]


def with_controls(rows: Sequence[Row]) -> tuple[str, ...]:
    """The arms of a study, and after them the controls and the LIPS that no arm of it is.

    Args:
      rows: of the study.

    Returns:
      Names for ``--arms``; those of the study alone where nothing lacks.
    """
    arms = tuple(dict.fromkeys(row.arm for row in rows))
    found = {
        "local": any(is_local(row.config) for row in rows),
        "pooled": any(is_pooled(row.config) for row in rows),
        "lips": bool(subjects(rows)),
    }
    return (*arms, *(name for name, has in found.items() if not has and name not in arms))


def _stuck(rows: Sequence[Row]) -> Card:
    found = diagnose(rows)
    lacks = _lacks(rows, "pooled", "trained on the data of all sites in one place")
    if len(found) > 1:
        return _counted(STUCK_QUESTION, [d.outcome for d in found], "settings", lacks, rows)
    if not found:
        says = "No finished arm averages the models of sites, without sparsity."
        return _card(STUCK_QUESTION, UNKNOWN, says, lacks=lacks, rows=rows)
    (d,) = found
    measured, loss = [], d.loss.get(DECISIVE)
    if _is_known(loss):
        measured.append(
            Measured(f"all data in one place ({d.pooled}) minus together ({d.arm})", loss)
        )
    if _is_known(d.inertia):
        measured.append(
            Measured(
                f"how far the middle lags (inertia index of {d.arm})",
                capped(d.inertia),
                is_index=True,
            )
        )
    arm = next(row for row in rows if (row.cell, row.arm) == (d.cell, d.arm))
    word = TOO_EASY if d.outcome == UNKNOWN and at_ceiling(arm) else d.outcome
    says = _full(arm) if word == TOO_EASY else _of_stuck(d)
    return _card(STUCK_QUESTION, word, says, measured, lacks=lacks, rows=rows)


def _of_stuck(d: Diagnosis) -> str:
    """What pooled data would add, and whether the middle layers lag."""
    loss = d.loss.get(DECISIVE)
    if not _is_known(loss):
        room = "How much better all data in one place would do is not known"
    elif math.isnan(usable(loss).low):
        room = f"How much better all data in one place would do takes {FEWEST} seeds to say"
    elif loss.low > THRESHOLD:
        room = "All data in one place would do better by more than a point"
    elif loss.high < THRESHOLD:
        room = "All data in one place would do no better, or by less than a point"
    else:
        room = "All data in one place may or may not do better by a point"
    word = against_zero(d.inertia, up="less", down="more")
    middle = {
        UNKNOWN: "whether the middle layers of the model lag is not known",
        NO_DIFFERENCE: "the middle layers of the model may or may not lag behind its ends",
        "less": "the middle layers of the model move less than its first and last ones",
        "more": "the middle layers of the model move more than its first and last ones",
    }[word]
    return f"{room}, {'but' if (d.outcome == STUCK) != (word == 'less') else 'and'} {middle}."


def _pays(rows: Sequence[Row]) -> Card:
    found = diagnose(rows)
    lacks = _lacks(rows, "local", "trained at each site alone")
    words = [_pays_word(d) for d in found]
    if len(found) > 1:
        return _counted(PAYS_QUESTION, words, "settings", lacks, rows)
    if not found or not found[0].gain:
        return _card(PAYS_QUESTION, NOT_ASKED, "", lacks=lacks, rows=rows)
    (d,), (word,) = found, words
    gain, loss = d.gain[DECISIVE], d.loss.get(DECISIVE)
    measured = (
        [Measured(f"together ({d.arm}) minus alone ({d.local})", gain)] if _is_known(gain) else []
    )
    if _is_known(loss):
        measured.append(
            Measured(f"together ({d.arm}) minus all data in one place ({d.pooled})", _negated(loss))
        )
    alone = next(row for row in rows if (row.cell, row.arm) == (d.cell, d.local))
    if word in (NO_DIFFERENCE, UNKNOWN) and at_ceiling(alone):
        return _card(PAYS_QUESTION, TOO_EASY, _full(alone), measured, lacks=lacks, rows=rows)
    mean = 100 * abs(gain.mean)
    says = {
        PAYS: f"Sites that train together get {mean:.1f} more of 100 right than sites alone"
        f"{_perhaps_little(gain)}.",
        PAYS_NOT: f"Sites that train together get {mean:.1f} fewer of 100 right than sites alone.",
    }.get(word, _open(gain, "Sites together", " than alone"))
    share = d.captured.get(DECISIVE)
    if share is not None and word == PAYS:
        says += f" That is {100 * share.mean:.0f}% of what all data in one place would add."
    elif not d.loss:
        says += " No arm trained on all data in one place, so what is lost to that is not known."
    return _card(PAYS_QUESTION, word, says, measured, lacks=lacks, rows=rows)


def _pays_word(d: Diagnosis) -> str:
    if not d.gain:
        return NOT_ASKED
    return against_zero(d.gain[DECISIVE], up=PAYS, down=PAYS_NOT)


def _lips(rows: Sequence[Row]) -> Card:
    judged = subjects(rows)
    lacks = "" if judged else _lacks(rows, "lips", "had LIPS")
    at = {(row.cell, row.arm): row for row in rows}
    words = [_lips_word(row, at[row.cell, row.reference]) for row in judged]
    if len(judged) > 1:
        card = _counted(LIPS_QUESTION, words, "comparisons", lacks, rows)
        return card._replace(measured=_few(judged))
    if not judged:
        return _card(LIPS_QUESTION, NOT_ASKED, "", lacks=lacks, rows=rows)
    (row,), (word,) = judged, words
    found, reference = row.differences[DECISIVE].interval, at[row.cell, row.reference]
    measured = (
        [Measured(f"with it ({row.arm}) minus without ({row.reference})", found)]
        if _is_known(found)
        else []
    )
    alone = alone_beside(row, rows)
    if alone is not None and alone.arm != row.reference:
        beside = difference(row, alone, DECISIVE).interval
        if _is_known(beside):
            measured.append(Measured(f"with it ({row.arm}) minus alone ({alone.arm})", beside))
    mean = 100 * abs(found.mean)
    says = {
        HELPS: f"With it the model gets {mean:.1f} more of 100 right{_perhaps_little(found)}.",
        HURTS: f"With it the model gets {mean:.1f} fewer of 100 right.",
        TOO_EASY: _full(reference),
    }.get(word, _open(found, "With it the model", " than without"))
    if row.diverged:
        says += f" {row.arm} {row.share_diverged}: its training broke down."
    return _card(LIPS_QUESTION, word, says, measured, lacks=lacks, rows=rows)


def _few(judged: Sequence[Row]) -> tuple[Measured, ...]:
    """A number for each comparison, where they are few enough for a glance and all are known."""
    found = [row.differences[DECISIVE].interval for row in judged]
    if len(judged) > MOST_SHOWN or not all(map(_is_known, found)):
        return ()
    several = len({row.cell for row in judged}) > 1
    names = [f"{row.cell}: {row.arm}" if several else row.arm for row in judged]
    return tuple(
        Measured(f"with it ({name}) minus without ({row.reference})", interval)
        for name, row, interval in zip(names, judged, found, strict=True)
    )


def _lips_word(row: Row, reference: Row) -> str:
    """What a row allows to say; that it helps is not said of one that diverged in any seed."""
    word = outcome(row, DECISIVE, up=HELPS, down=HURTS)
    if row.diverged and word == HELPS:
        return UNKNOWN
    is_open = word in (NO_DIFFERENCE, UNKNOWN) and not row.diverged
    return TOO_EASY if is_open and at_ceiling(reference) else word


def _open(found: Interval, who: str, other: str) -> str:
    """What an interval leaves open."""
    if is_too_few(found) or math.isnan(found.low):
        return f"{counted(found.n, 'seed')} say too little: it takes {FEWEST} to name a difference."
    low, high = (100 * bound for bound in clipped(found, -1.0, 1.0)[1:3])
    limit = 100 * THRESHOLD
    if -limit < low and high < limit:
        return f"If there is a difference, it is less than {limit:g} of 100."
    if low > 0 or high < 0:  # which is no longer sure once all comparisons are counted
        return f"{who} may get {_more(low)} or {_more(high)} right{other}, or it is luck."
    ruled = f" A gain of {limit:g} of 100 is ruled out." if high < limit else ""
    return f"{who} may get {_more(low)} right{other}, or {_more(high)}.{ruled}"


def _perhaps_little(found: Interval) -> str:
    """A gain that is seen, and may yet be less than matters, is said to be such."""
    limit = 100 * THRESHOLD
    return f", though perhaps by less than {limit:g}" if found.low < THRESHOLD else ""


def _more(points: float) -> str:
    return f"{abs(points):.1f} of 100 {'fewer' if points < 0 else 'more'}"


def _full(row: Row) -> str:
    mean = 100 * row.means[DECISIVE].mean
    return (
        f"{row.arm} already gets {mean:.1f} of 100 right, so that nothing can be better by "
        f"{100 * THRESHOLD:g}: the task is too easy."
    )


def _lacks(rows: Sequence[Row], name: str, what: str) -> str:
    """What was not run, of a control that is found by its config, whatever it is called."""
    found = {"local": is_local, "pooled": is_pooled, "lips": is_lips}[name]
    if any(found(row.config) for row in rows):
        return ""
    if any(row.arm == name for row in rows):  # of an arm without a finished run nothing is known
        return f"No run of {name} is finished."
    return f"No arm {what}."


def _card(
    question: str,
    word: str,
    says: str,
    measured: Sequence[Measured] = (),
    *,
    counts: tuple[tuple[str, int], ...] = (),
    lacks: str,
    rows: Sequence[Row],
) -> Card:
    arms = tuple(dict.fromkeys(row.arm for row in rows))
    wanted = with_controls(rows)
    is_open = lacks.startswith("No arm") and wanted != arms
    tone = TONES.get(word, "open")
    return Card(
        question,
        word[0].upper() + word[1:],
        tone,
        says,
        tuple(measured),
        counts,
        lacks,
        wanted if is_open else (),
    )


def _counted(
    question: str, words: Sequence[str], noun: str, lacks: str, rows: Sequence[Row]
) -> Card:
    """The card of a question that is asked several times."""
    ordered = sorted(dict.fromkeys(words), key=lambda word: -words.count(word))
    counts = tuple((word, words.count(word)) for word in ordered)
    word, n = counts[0]
    if word == NOT_ASKED:
        return _card(question, word, "", lacks=lacks, rows=rows)
    total = len(words)
    rest = "; ".join(f"{other} in {count}" for other, count in counts[1:])
    says = f"Of {total} {noun}: {word[0].lower()}{word[1:]} in {n}; {rest}."
    heading = f"{word} in {n} of {total}"
    if n == total:
        every = "both" if total == 2 else f"all {total}"
        heading, says = word, f"So it is in {every} {noun}."
    card = _card(question, heading, says, counts=counts, lacks=lacks, rows=rows)
    return card._replace(tone=TONES.get(word, "open") if n == total else "open")


def _negated(found: Interval) -> Interval:
    return Interval(-found.mean, -found.high, -found.low, found.n)


def _is_known(found: Interval | None) -> TypeGuard[Interval]:
    return found is not None and not math.isnan(found.mean)
