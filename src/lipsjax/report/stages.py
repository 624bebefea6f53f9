"""The page of a proof of concept: its stages, what each showed and cost, and what is next."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lipsjax.analysis.finding import FEWEST
from lipsjax.analysis.gates import (
    COSTS,
    GO,
    MOST_SEEDS,
    NO_GO,
    OPEN,
    Gate,
    GateResult,
    seeds_wanted,
)
from lipsjax.analysis.stats import Interval
from lipsjax.analysis.wording import Unit, clipped, counted, duration, format_bits, money
from lipsjax.recording import write_atomically
from lipsjax.report import templating

NOT_BEGUN = "not begun"
NOT_FINISHED = "not finished"
PAGE = "poc.html"


class Outcome(NamedTuple):
    """What is known of a stage."""

    name: str
    title: str
    description: str
    folder: str  # of OUT
    gates: tuple[Gate, ...]
    seeds: tuple[int, ...]  # asked for at first, and each time they were raised; () not begun
    word: str  # GO, NO_GO, OPEN, NOT_FINISHED or NOT_BEGUN
    results: tuple[GateResult, ...] = ()  # of a stage that is finished
    finished: int = 0  # runs
    runs: int = 0
    seconds: float = 0.0  # of its finished runs, with compiling
    money: float | None = None  # of its finished runs; None without prices
    pages: tuple[str, ...] = ()  # of its folder, those that are there

    @property
    def more(self) -> int | None:
        """How many more seeds would settle what is open; None where seeds settle nothing of it."""
        wanted = seeds_wanted(self.results) if self.word == OPEN else None
        return wanted and wanted - self.seeds[-1]


class Next(NamedTuple):
    """What a proof of concept comes to, and what follows."""

    word: str  # of the whole
    sentence: str
    command: str  # "" where nothing is left to do


def next_step(outcomes: Sequence[Outcome], command: str) -> Next:
    """Say what the stages come to, and the command that goes on.

    Args:
      outcomes: of all stages, in order.
      command: that draws this page, without ``--seeds``.

    Returns:
      The word of the first stage that is no go, or "go".
    """
    number, last = next(((i, o) for i, o in enumerate(outcomes, 1) if o.word != GO), (0, None))
    if last is None:
        return Next(GO, "Every stage passed all of its gates.", "")
    stage = f"Stage {number} ({last.name})"
    if last.word == NO_GO:
        failed = [_failed(result) for result in last.results if result.word == NO_GO]
        return Next(NO_GO, f"{stage} failed: {'; '.join(failed)}.{_left(outcomes)}", "")
    if last.word != OPEN:
        begun = "has not begun" if last.word == NOT_BEGUN else "is not finished"
        return Next(last.word, f"{stage} {begun}; the same command goes on.", command)
    if last.more is None:
        why = "; ".join(f"{words(d.gate)}: {d.why}" for d in last.results if d.word == OPEN)
        return Next(OPEN, f"{stage} is open, and seeds do not settle it ({why}).", "")
    seeds = counted(last.more, "more seed")
    took = duration(last.seconds / last.seeds[-1] * last.more)
    odds = (
        "the fewest from which anything is decided"
        if last.seeds[-1] + last.more == FEWEST
        else "with which the intervals would just clear their bounds if means and spreads stay as "
        "they are: about even odds"
    )
    return Next(
        OPEN,
        f"{stage} needs {seeds}, some {took} of computing, {odds}.",
        f"{command} --seeds {last.name}={last.seeds[-1] + last.more}",
    )


def _failed(result: GateResult) -> str:
    """What a gate asked for, and what there was."""
    found = number_text(result) or result.why
    return f"{words(result.gate)}: {found}, where {bound_text(result.gate)} was asked"


def _left(outcomes: Sequence[Outcome]) -> str:
    """Which stages are not begun after one that failed."""
    left = [each.name for each in outcomes if each.word == NOT_BEGUN]
    return f" Not begun: {', '.join(left)}." if left else ""


def words(gate: Gate) -> str:
    """What a gate is about.

    >>> words(Gate(gate="gain", arm="lips", over="dense", at_least=0))
    'gain of lips over dense, personalised'
    """
    arm, over = gate.arm, gate.over
    return {
        "gain": f"gain of {arm} over {over}, {gate.accuracy}",
        "over_alone": f"gain of {arm} over training alone ({over}), {gate.accuracy}",
        "accuracy": f"accuracy of {arm}, {gate.accuracy}",
        "worst_site": f"worst site of {arm}" + (f" less that of {over}" if over else ""),
        "bits": f"bits that a run of {arm} moves",
        "minutes": f"minutes that a run of {arm} takes",
        "money": f"cost of a run of {arm}",
    }[gate.gate]


def bound_text(gate: Gate) -> str:
    """The bound of a gate with its unit.

    >>> bound_text(Gate(gate="bits", arm="lips", at_most=2e9))
    'at most 2 Gbit'
    """
    way = "at most" if gate.gate in COSTS else "at least"
    return f"{way} {_unit(gate).exactly(gate.bound)}"


def number_text(result: GateResult) -> str:
    """The number of a gate with its interval; "" where there is none.

    >>> gate = Gate(gate="gain", arm="lips", over="dense", at_least=0)
    >>> number_text(GateResult(gate, Interval(1.25, -0.5, 3.0, 5), OPEN))
    '+1.25 [-0.50, 3.00] points'
    """
    interval = _possible(result)
    return "" if math.isnan(interval.mean) else _unit(result.gate).measured(interval)


COST_UNITS = {"bits": Unit(text=format_bits), "minutes": Unit("min"), "money": Unit(text=money)}


def _unit(gate: Gate) -> Unit:
    """How the number of a gate is written."""
    level = Unit("%", digits=1) if gate.is_level else Unit("points", sign="+")
    return COST_UNITS.get(gate.gate, level)


def _possible(result: GateResult) -> Interval:
    """The interval of a gate, not beyond what its measure can be."""
    gate = result.gate
    if gate.gate in COSTS:
        return clipped(result.interval, 0.0, math.inf)
    return clipped(result.interval, 0.0 if gate.is_level else -100.0, 100.0)


class Bar(NamedTuple):
    """Where an interval and its bound lie on a line, in percent of its length."""

    low: float
    width: float
    mean: float
    bound: float
    good: tuple[float, float]  # where the side begins that passes, and its width


def bar(result: GateResult) -> Bar | None:
    """Place an interval and its bound on a line of their own; None where there is no interval.

    >>> gate = Gate(gate="gain", arm="lips", over="dense", at_least=0)
    >>> bar(GateResult(gate, Interval(2.0, 1.0, 3.0, 5), GO))
    Bar(low=36.67, width=53.33, mean=63.33, bound=10.0, good=(10.0, 90.0))
    """
    interval, bound = _possible(result), result.gate.bound
    if math.isnan(interval.low):
        return None
    least, most = min(interval.low, bound), max(interval.high, bound)
    span = (most - least) or 1.0

    def at(value: float) -> float:
        return round(10 + 80 * (value - least) / span, 2)

    low, edge = at(interval.low), at(bound)
    good = (0.0, edge) if result.gate.gate in COSTS else (edge, round(100 - edge, 2))
    return Bar(low, round(at(interval.high) - low, 2), at(interval.mean), edge, good)


def write_page(
    path: Path, name: str, description: str, outcomes: Sequence[Outcome], command: str
) -> None:
    """Writes the page of a proof of concept, which needs no other file and no network.

    Args:
      path: file to write, replaced whole.
      name: title of the page.
      description: what it asks.
      outcomes: of all stages, in order.
      command: that draws this page, without ``--seeds``.
    """
    from lipsjax.report import plots  # not at the top: reading stages needs no Matplotlib

    pages = templating.environment()
    pages.globals |= {"words": words, "bound_text": bound_text, "number_text": number_text}
    pages.globals |= {"duration": duration, "counted": counted, "money": money, "bar": bar}
    known = [each.money for each in outcomes if each.money is not None]
    page = pages.get_template("stages.html").render(
        name=name,
        description=description,
        outcomes=outcomes,
        next=next_step(outcomes, command),
        command=command,
        seconds_in_all=sum(each.seconds for each in outcomes),
        money_in_all=sum(known) if known else None,
        raised=any(len(each.seeds) > 1 for each in outcomes),
        most_gates=max(len(each.gates) for each in outcomes),
        most_seeds=MOST_SEEDS,
        fewest=FEWEST,
        paints=plots.PAINTS,
    )
    write_atomically(path, page)
