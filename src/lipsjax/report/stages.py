"""The page of a proof of concept: its stages, what each showed and cost, and what is next."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lipsjax.analysis.finding import FEWEST
from lipsjax.analysis.gates import COSTS, GO, MOST_SEEDS, NO_GO, OPEN, Decision, Gate, seeds_wanted
from lipsjax.analysis.stats import Interval
from lipsjax.analysis.wording import clipped, format_bits, money, shown
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
    decisions: tuple[Decision, ...] = ()  # of a stage that is finished
    finished: int = 0  # runs
    runs: int = 0
    minutes: float = 0.0  # of its finished runs, with compiling
    money: float | None = None  # of its finished runs; None without prices
    pages: tuple[str, ...] = ()  # of its folder, those that are there

    @property
    def more(self) -> int | None:
        """How many more seeds would settle what is open; None where seeds settle nothing of it."""
        wanted = seeds_wanted(self.decisions) if self.word == OPEN else None
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
        failed = [_failed(decision) for decision in last.decisions if decision.word == NO_GO]
        return Next(NO_GO, f"{stage} failed: {'; '.join(failed)}.{_left(outcomes)}", "")
    if last.word != OPEN:
        begun = "has not begun" if last.word == NOT_BEGUN else "is not finished"
        return Next(last.word, f"{stage} {begun}; the same command goes on.", command)
    if last.more is None:
        why = "; ".join(f"{words(d.gate)}: {d.why}" for d in last.decisions if d.word == OPEN)
        return Next(OPEN, f"{stage} is open, and seeds do not settle it ({why}).", "")
    seeds = f"{last.more} more seed{'' if last.more == 1 else 's'}"
    took = minutes(last.minutes / last.seeds[-1] * last.more)
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


def _failed(decision: Decision) -> str:
    """What a gate asked for, and what there was."""
    found = number_text(decision) or decision.why
    return f"{words(decision.gate)}: {found}, where {bound_text(decision.gate)} was asked"


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
    return f"{way} {_amount(gate, gate.bound)}"


def number_text(decision: Decision) -> str:
    """The number of a gate with its interval; "" where there is none.

    >>> gate = Gate(gate="gain", arm="lips", over="dense", at_least=0)
    >>> number_text(Decision(gate, Interval(1.25, -0.5, 3.0, 5), OPEN))
    '+1.25 [-0.50, 3.00] points'
    """
    gate, interval = decision.gate, _possible(decision)
    if math.isnan(interval.mean):
        return ""
    if gate.gate == "bits":
        return _with_bounds(interval, format_bits)
    if gate.gate == "money":
        return _with_bounds(interval, money)
    if gate.gate == "minutes":
        return f"{shown(interval, digits=2)} min"
    if gate.is_level:
        return f"{shown(interval, digits=1)} %"
    return f"{shown(interval, digits=2, sign='+')} points"


def minutes(count: float) -> str:
    """A duration in words: of two minutes and more in whole ones.

    >>> minutes(0.4), minutes(12.3), minutes(200.0)
    ('24 seconds', '12 minutes', '3.3 hours')
    """
    if count < 2:
        return f"{60 * count:.0f} seconds"
    return f"{count:.0f} minutes" if count < 120 else f"{count / 60:.1f} hours"


def _with_bounds(interval: Interval, text: Callable[[float], str]) -> str:
    if interval.low == interval.high or math.isnan(interval.low):
        return text(interval.mean)
    return f"{text(interval.mean)} [{text(interval.low)}, {text(interval.high)}]"


def _amount(gate: Gate, value: float) -> str:
    if gate.gate == "bits":
        return format_bits(value)
    if gate.gate == "money":
        return money(value)
    if gate.gate == "minutes":
        return f"{value:g} min"
    if gate.is_level:
        return f"{value:g} %"
    return f"{value:{'+' if value else ''}g} point{'' if abs(value) == 1 else 's'}"


def _possible(decision: Decision) -> Interval:
    """The interval of a gate, not beyond what its measure can be."""
    gate = decision.gate
    if gate.gate in COSTS:
        return clipped(decision.interval, 0.0, math.inf)
    return clipped(decision.interval, 0.0 if gate.is_level else -100.0, 100.0)


class Bar(NamedTuple):
    """Where an interval and its bound lie on a line, in percent of its length."""

    low: float
    width: float
    mean: float
    bound: float
    good: tuple[float, float]  # where the side begins that passes, and its width


def bar(decision: Decision) -> Bar | None:
    """Place an interval and its bound on a line of their own; None where there is no interval.

    >>> gate = Gate(gate="gain", arm="lips", over="dense", at_least=0)
    >>> bar(Decision(gate, Interval(2.0, 1.0, 3.0, 5), GO))
    Bar(low=36.67, width=53.33, mean=63.33, bound=10.0, good=(10.0, 90.0))
    """
    interval, bound = _possible(decision), decision.gate.bound
    if math.isnan(interval.low):
        return None
    least, most = min(interval.low, bound), max(interval.high, bound)
    span = (most - least) or 1.0

    def at(value: float) -> float:
        return round(10 + 80 * (value - least) / span, 2)

    low, edge = at(interval.low), at(bound)
    good = (0.0, edge) if decision.gate.gate in COSTS else (edge, round(100 - edge, 2))
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
    pages.globals |= {"minutes": minutes, "money": money, "bar": bar}
    known = [each.money for each in outcomes if each.money is not None]
    page = pages.get_template("stages.html").render(
        name=name,
        description=description,
        outcomes=outcomes,
        next=next_step(outcomes, command),
        command=command,
        minutes_in_all=sum(each.minutes for each in outcomes),
        money_in_all=sum(known) if known else None,
        raised=any(len(each.seeds) > 1 for each in outcomes),
        most_gates=max(len(each.gates) for each in outcomes),
        most_seeds=MOST_SEEDS,
        fewest=FEWEST,
        paints=plots.PAINTS,
    )
    write_atomically(path, page)
