"""Site by site, for every kind of page: what is shown of it, in texts and numbers.

Of few sites each has a line; of many, and of made-up clients, it is how they lie, and the worst.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lipsjax.analysis.finding import NO_DIFFERENCE, UNKNOWN
from lipsjax.analysis.sites import GAINS, LOSES, Site, SiteTable, Spread, site_tables
from lipsjax.analysis.stats import Interval
from lipsjax.analysis.wording import clipped, counted, gained, percent
from lipsjax.recording import StudyRecording, write_atomically
from lipsjax.report.table import table_text

MOST_SITES = 30
"""Sites that have a line each; of more, the worst have."""

WORST = 5
"""Sites that are listed of many: those of the lowest accuracy."""

MOST_ARMS = 5
"""Arms that have a column each; all are in sites.csv."""

NAMED_SITES = 6
"""Sites that are named in a sentence; of more, it is told how many they are."""


class Section(NamedTuple):
    """What a page shows of one table."""

    label: str  # of the cell, and the arms where not all have the same sites
    table: SiteTable
    arms: tuple[str, ...]  # that have a column
    sites: tuple[Site, ...]  # that have a line
    notes: tuple[str, ...]  # sentences


def sections(study: StudyRecording) -> list[Section]:
    """What there is to show, a section for each table of :func:`lipsjax.analysis.sites`."""
    tables = site_tables(study)
    cells = [table.cell for table in tables]
    return [_section(table, several=cells.count(table.cell) > 1) for table in tables]


def _section(table: SiteTable, *, several: bool) -> Section:
    arms = table.arms[:MOST_ARMS]
    parts = [table.cell, ", ".join(table.arms) if several else ""]
    return Section(
        label=" – ".join(filter(None, parts)),
        table=table,
        arms=arms,
        sites=_listed(table, arms),
        notes=tuple(_notes(table, arms)),
    )


def _listed(table: SiteTable, arms: Sequence[str]) -> tuple[Site, ...]:
    """All sites, or of many the worst of the first arm that federates."""
    if not table.is_named:
        return ()
    if len(table.sites) <= MOST_SITES:
        return table.sites
    arm = next((arm for arm in arms if arm != table.alone), arms[0])
    known = [site for site in table.sites if not math.isnan(site.accuracies[arm].mean)]
    return tuple(sorted(known, key=lambda site: site.accuracies[arm].mean)[:WORST])


def _notes(table: SiteTable, arms: Sequence[str]) -> list[str]:
    notes = []
    if table.is_named and table.alone is not None:
        notes += [_who_gains(table, arm) for arm in arms if arm != table.alone]
    if table.is_named:
        notes += [_worst(table, arm) for arm in arms]
    if table.is_named and len(table.sites) > MOST_SITES:
        notes.append(
            f"Of {len(table.sites)} sites the {WORST} of the lowest accuracy are listed; all are "
            "in sites.csv."
        )
    if not table.is_named:
        notes.append(
            f"The {len(table.sites)} clients are made up, and others in every seed: they are "
            "summarised, and not compared one by one."
        )
    if len(table.arms) > len(arms):
        notes.append(f"Of {len(table.arms)} arms {len(arms)} are shown; all are in sites.csv.")
    return notes


def _who_gains(table: SiteTable, arm: str) -> str:
    """Which sites gain, and which lose, against training alone."""
    found: dict[str, list[str]] = {}
    for site in table.trained:
        found.setdefault(site.against_alone[arm].outcome, []).append(site.name)
    told = [
        f"{word} at {_names(found[word])}"
        for word in (GAINS, LOSES, NO_DIFFERENCE, UNKNOWN)
        if word in found
    ]
    return f"{arm} against {table.alone}: {'; '.join(told)}."


def _worst(table: SiteTable, arm: str) -> str:
    """Which site is worst off, and how far the sites lie apart."""
    known = [site for site in table.trained if not math.isnan(site.accuracies[arm].mean)]
    if not known:
        return f"{arm}: no site has an accuracy in every seed."
    worst = min(known, key=lambda site: site.accuracies[arm].mean)
    return (
        f"{arm}: the worst site is {worst.name} at {percent(worst.accuracies[arm])}%; best less "
        f"worst is {percent(table.spreads[arm].spread)} points."
    )


def _names(sites: Sequence[str]) -> str:
    return ", ".join(sites) if len(sites) <= NAMED_SITES else counted(len(sites), "site")


def spread_texts(spread: Spread) -> list[str]:
    """How an arm's sites lie, in percent, points and, of those ahead of training alone, percent."""
    numbers = [percent(each) for each in (*spread.quantiles.values(), spread.spread)]
    numbers.append(percent(spread.deviation))
    return [*numbers, "" if spread.ahead is None else percent(spread.ahead, digits=0)]


def site_text(site: Site, arm: str) -> str:
    """A site's accuracy in one arm, in percent; a dash where there is none."""
    return accuracy_text(site.accuracies[arm])


def accuracy_text(found: Interval) -> str:
    """An accuracy in percent; a dash where there is none."""
    return "–" if math.isnan(found.mean) else percent(found)


def gain_text(site: Site, arm: str) -> str:
    """What a site gains by an arm over training alone, in points; "" where there is no telling."""
    found = site.against_alone.get(arm)
    if found is None or math.isnan(found.difference.interval.mean):
        return ""
    return gained(found.difference.interval)


COMPARED = ("mean", "low", "high", "p", "holm")


def write_sites(study: StudyRecording, path: Path) -> bool:
    """Writes every site of every arm as CSV, all digits; nothing where no site is recorded.

    Args:
      study: the recorded study.
      path: file to write, replaced whole; an old one is removed where there is nothing to write.

    Returns:
      Whether there is such a file.
    """
    tables = site_tables(study)
    if not tables:
        path.unlink(missing_ok=True)
        return False
    heads = ["cell", "arm", "site", "trains", "train_examples", "test_examples", "classes"]
    heads += ["seeds", *(f"accuracy_{part}" for part in ("mean", "low", "high"))]
    heads += ["reference", *(f"reference_difference_{part}" for part in COMPARED)]
    heads += ["alone", *(f"alone_difference_{part}" for part in COMPARED)]
    rows = [
        _csv_row(table, arm, site) for table in tables for arm in table.arms for site in table.sites
    ]
    write_atomically(path, table_text(heads, rows))
    return True


def _csv_row(table: SiteTable, arm: str, site: Site) -> list[Any]:
    found = site.accuracies[arm]
    row = [table.cell, arm, site.name, int(site.trains), site.train_examples, site.test_examples]
    row += [site.classes, found.n, *clipped(found, 0.0, 1.0)[:3]]
    for other, compared in (
        (table.references[arm], site.against_reference.get(arm)),
        (table.alone or "", site.against_alone.get(arm)),
    ):
        row.append(other)
        if compared is None:
            row += [""] * len(COMPARED)
        else:
            difference = compared.difference
            row += [*difference.interval[:3], difference.p, compared.adjusted]
    return ["" if isinstance(value, float) and math.isnan(value) else value for value in row]
