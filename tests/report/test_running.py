"""Runs that other hosts hold while a study is reported are said to be running, and where."""

import contextlib
import platform
import re

import pytest

from helpers.fake_study import write_study
from lipsjax.recording import files, leases, read_study
from lipsjax.report.anonymise import anonymous_study
from lipsjax.report.html import write_report
from lipsjax.report.markdown import markdown
from lipsjax.report.next_step import next_step
from lipsjax.report.summary import executive
from lipsjax.report.terminal import summary_table

SMALL = {"rounds": 4, "clients": 4}
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """Three of lips are not finished, two of which this host runs, and one of dense by gpu7."""
    missing = (("lips", 0), ("lips", 1), ("lips", 2), ("dense", 2))
    write_study(tmp_path, missing=missing, **SMALL | {"seeds": 4})
    runs = {
        (t["arm"], t["seed"]): tmp_path / "runs" / t["run"] for t in read_study(tmp_path).missing
    }
    with contextlib.ExitStack() as stack:
        for seed in (0, 1):
            lease = leases.claim(runs["lips", seed])
            stack.callback(lease.give_back)
            lease.bring()
        with monkeypatch.context() as other:
            other.setattr(platform, "node", lambda: "gpu<7>")
            other.setattr(files, "machine", lambda: "another")
            lease = leases.claim(runs["dense", 2])
        stack.callback(lease.give_back)
        yield tmp_path


def test_a_study_knows_who_holds_what(shared):
    held = {(t["arm"], t["seed"]): t.get("held_by") for t in read_study(shared).missing}
    here = f"{platform.node()} (process "
    assert held.pop(("lips", 2)) is None
    assert held.pop(("dense", 2)).startswith("gpu<7> (process ")
    assert len(held) == 2
    assert all(who.startswith(here) for who in held.values())


@pytest.mark.usefixtures("sketched")
def test_pages_say_what_runs_where_and_since_when(shared):
    study = read_study(shared)
    here, there = re.escape(platform.node()), re.escape("gpu<7>")
    mine = rf"{here} \(process \d+\): 2 of lips, since {TIME}, last heard of {TIME}"
    other = rf"{there} \(process \d+\): 1 of dense, since {TIME}, last heard of {TIME}"
    caption = str(summary_table(study).caption)
    assert "Not finished: 1 of lips." in caption
    assert "of dense.\n" not in caption
    text = markdown(study).replace("\\", "")
    assert "Not finished: 4 of 8 trials, 3 of them being run." in text
    for line in (mine, other):
        assert re.search(rf"Running on {line}\.", caption)
        assert re.search(rf"Running on {line}\.", text)
    page = " ".join(write_report(shared, study).read_text().split())
    assert "<b>Not finished:</b> lips lacks 1 trial. <b>Running</b> on " in page
    assert re.search(mine, page)
    assert re.search(other.replace("<", "&lt;").replace(">", "&gt;"), page)
    assert "4 trials not finished, 3 of them being run." in executive(study)[0]
    assert next_step(study).sentence.startswith(
        "Let the study finish: 4 of 8 runs are open, 3 of them being run, and the same command"
    )


def test_hosts_are_not_named_in_what_is_anonymous(shared):
    study = anonymous_study(read_study(shared))
    text = markdown(study) + str(summary_table(study).caption)
    assert "Running on a host: " in text
    assert "gpu" not in text
    assert platform.node() not in text


def test_who_has_died_here_runs_nothing(shared, monkeypatch):
    """One of another machine may have; when it was last heard of is said."""
    monkeypatch.setattr(files, "is_alive", lambda process: False)
    held = [trial["arm"] for trial in read_study(shared).missing if "held_by" in trial]
    assert held == ["dense"]


def test_all_that_is_left_is_run(shared):
    """Nothing is called not finished then, and a finished study says neither."""
    left = read_study(shared).missing
    (nobodys,) = (trial for trial in left if "held_by" not in trial)
    lease = leases.claim(shared / "runs" / nobodys["run"])
    caption = str(summary_table(read_study(shared)).caption)
    lease.give_back()
    assert "Not finished" not in caption
    assert "3 of lips" in caption


def test_a_lease_that_says_no_time_is_read(shared):
    """As versions before wrote it, or as it was taken over in between."""
    beat = min((shared / "runs").rglob("*.beat"))
    beat.write_text("\n".join(beat.read_text().splitlines()[:4]) + "\n")
    assert leases.held_by(beat.parents[1].with_name(beat.parents[1].name[1:])).since == ""
    assert "Running on" in str(summary_table(read_study(shared)).caption)
