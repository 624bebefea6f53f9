"""Options, studies and run directories that were changed at random: an answer or one line.

LIPSJAX_FUZZ says how many of each kind are made, 300 if it is not set.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import warnings
from pathlib import Path
from unittest import mock

import pytest

from helpers import commands, fake_study
from lipsjax.experiments import command, report, sweep
from lipsjax.recording import runs
from lipsjax.runs import study
from lipsjax.runs.fields import shown

CASES = int(os.environ.get("LIPSJAX_FUZZ", "300"))
SECONDS = 20
HOSTILE = (
    *(0, 1, -1, 2, 3, 255, 2**31 - 1, 2**31, 2**32, 2**63, 10**18, 10**31, 10**400),
    *(0.0, 0.5, 1.0, -0.5, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"), 1 + 1e-16),
    *(True, False, None, "", " ", "none", "None", "auto", "x" * 5000, "=1+1", "../..", "~nobody/x"),
    *("\u202eabc", "a\nb", "\x00", "é", "nan", "1e999", "[]", "{}", "cpu", "digits", "adam"),
    *([], [1], [[]], [None], ["a", 1], {}, {"a": 1}, {"a": {"b": {}}}, {"": 0}),
)
DEFAULTS = sweep.Sweep(name="", seeds=1, arms=())
KINDS = {n: option.kind for n, option in command.options_of(sweep.Sweep, DEFAULTS).items()}
"""Of every option; those that lead away from the folder of the test are left out."""
OPTIONS = sorted(KINDS.keys() - {"--out", "--data-dir", "--trackers", "--coordinator"})
SMALL = ("--rounds=2", "--partition.clients=3", "--partition.train-examples=5", "--model.width=2")


@contextlib.contextmanager
def a_time_limit():
    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def left(folder: Path) -> dict[str, bytes]:
    """Returns what is in a folder; a sweep may have written its study before it trains."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wrong_of(name: str, argv: list[str], watched: Path) -> str | None:
    """Calls a command; returns what is wrong about how it ended, None if nothing is."""
    before = left(watched)
    try:
        with warnings.catch_warnings(), a_time_limit():
            warnings.simplefilter("error")
            ended = commands.call_as_given(name, *argv)
    except TimeoutError:
        return f"no answer within {SECONDS} s"
    except BaseException as error:
        return f"{type(error).__name__} came through: {shown(str(error))}"
    if ended.status == 0:
        return None
    if ended.status != command.USAGE_ERROR:
        return f"status {ended.status}"
    if not ended.err.startswith("error: ") or ended.err.count("\n") != 1:
        return f"not one line: {shown(ended.err)}"
    if "not foreseen" in ended.err or "Traceback" in ended.err + ended.out:
        return f"caught by the last net only: {ended.err[:300]}"
    if len(ended.err) > command.LONGEST + 100:
        return "a line that is too long"
    return None if left(watched) == before else "something was left, and nothing was run"


# ---- options ----


def options(rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    argv = list(SMALL) if rng.random() < 0.7 else []
    for _ in range(rng.choice((1, 1, 2, 3))):
        option, value = rng.choice(OPTIONS), rng.choice(HOSTILE)
        if rng.random() < 0.1:
            option = option[: rng.randrange(2, len(option))] + rng.choice(("", "x", ".", "-"))
        text = "" if value == 10**400 else str(value)
        if option == "--grid" or rng.random() < 0.05:
            field = rng.choice(OPTIONS).removeprefix("--").replace("-", "_")
            argv += ["--grid", f"{field}={toml_of([value, rng.choice(HOSTILE)])}"]
        elif rng.random() < 0.3:
            argv.append(f"{option}={text}")
        else:
            argv += [option, *([] if rng.random() < 0.1 else [text])]
    return "sweep", [*argv, "--out", str(folder / "out")]


# ---- studies ----


def toml_of(value: object) -> str:
    """Writes a value as TOML has it, and what TOML has not in some way all the same."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    if value == 10**400:
        return "9" * 400
    return json.dumps(value) if isinstance(value, str) else str(value)


def a_study(rng: random.Random) -> str:
    lines = []
    for table in rng.sample(
        ["", "config", "sparsity", "arms", "arms.a", "arms.b", "arms.b.sparsity", "grid", "prices"],
        rng.choice((1, 2, 3, 5)),
    ):
        lines.append(f"[{table}]" if table else "")
        for _ in range(rng.choice((0, 1, 2))):
            field = rng.choice(OPTIONS).removeprefix("--").replace("-", "_")
            name = rng.choice((field, field.rpartition(".")[2], f'"{field}"', "against", "seeds"))
            lines.append(f"{name} = {toml_of(rng.choice(HOSTILE))}")
    return "\n".join(lines) + "\n"


def studies(rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    content = a_study(rng).encode("utf-8", "surrogatepass")
    if rng.random() < 0.3:
        content = changed(content, rng)
    path = folder / "study.toml"
    path.write_bytes(content)
    return "sweep", [str(path), *SMALL[: rng.choice((0, 4))], "--out", str(folder / "out")]


def changed(content: bytes, rng: random.Random) -> bytes:
    """Changes bytes: some are others, some are missing, some are there twice."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        how = rng.randrange(4)
        if how == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif how == 1:
            del data[at : at + rng.choice((1, 10, 1000))]
        elif how == 2:
            data[at:at] = data[max(0, at - rng.choice((1, 10, 100))) : at]
        else:
            data[at:at] = rng.choice((b"\x00", b"\xff", b"{", b"]", b'"', b"\n", b"1e999", b"NaN"))
    return bytes(data)


# ---- run directories ----


def another_node(value: object, rng: random.Random) -> object:
    """Replaces, removes or adds one node of nested values."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.2:
        chosen = rng.choice(HOSTILE)
        return None if chosen == 10**400 else chosen
    if isinstance(value, list):
        at = rng.randrange(len(value))
        return [another_node(v, rng) if i == at else v for i, v in enumerate(value)]
    name = rng.choice(sorted(value))
    if rng.random() < 0.2:
        return {k: v for k, v in value.items() if k != name}
    if rng.random() < 0.1:
        return {**value, rng.choice(("", "x", "layers", "config")): rng.choice(HOSTILE[:5])}
    return {k: another_node(v, rng) if k == name else v for k, v in value.items()}


def damaged(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    if rng.random() < 0.05:
        path.unlink()
    elif rng.random() < 0.3 or not content.strip():
        path.write_bytes(changed(content, rng))
    elif path.suffix == ".jsonl":
        lines = content.decode().splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(another_node(json.loads(lines[at]), rng))
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text(json.dumps(another_node(json.loads(content), rng)))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    out = tmp_path_factory.mktemp("recorded") / "out"
    return fake_study.write_study(out, seeds=3, rounds=6, clients=3, classes=3)


def recordings(rng: random.Random, folder: Path) -> tuple[str, list[str]]:
    for _ in range(rng.choice((1, 1, 2))):
        files = sorted(path for path in (folder / "out").rglob("*.json*") if path.is_file())
        damaged(rng.choice(files), rng)
    return "report", [str(folder / "out"), "--format", "md"]


# ---- the fuzz ----


def wrongs(make, count: int, folder: Path, recorded: Path | None = None) -> list[str]:
    """Makes cases, calls each, and returns what was wrong, with the number of the case."""
    found = []
    for case in range(count):
        here = folder / "case"
        here.mkdir()
        if recorded is not None:
            shutil.copytree(recorded, here / "out")
        name, argv = make(random.Random(f"{make.__name__} {case}"), here)
        watched = here / "elsewhere" if recorded is not None else here
        if wrong := wrong_of(name, argv, watched):
            found.append(f"{make.__name__} {case}: {wrong}; {shown(argv)}")
        shutil.rmtree(here)
    return found


@contextlib.contextmanager
def untrained():
    """Let sweeps end where training would begin."""
    survey = "lipsjax.experiments.survey.write_survey"
    with (
        mock.patch.object(sweep, "_run", return_value=([], [])),
        mock.patch.object(report, "draw"),
        mock.patch(survey),
    ):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("make", [options, studies])
def test_what_is_asked(make, tmp_path):
    with untrained():
        assert wrongs(make, CASES, tmp_path) == []


@pytest.mark.slow
def test_what_was_recorded(recorded, tmp_path):
    assert wrongs(recordings, CASES, tmp_path, recorded) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "where", "what"), [(options, command, "nearest"), (studies, study, "names_set")]
)
def test_a_fault_in_what_is_asked_is_found(make, where, what, tmp_path):
    with untrained(), mock.patch.object(where, what, side_effect=KeyError("put there")):
        assert wrongs(make, 40, tmp_path)


@pytest.mark.slow
def test_a_fault_in_what_is_recorded_is_found(recorded, tmp_path):
    with mock.patch.object(runs, "_layers", side_effect=ZeroDivisionError):
        assert wrongs(recordings, 5, tmp_path, recorded)
