"""A study as Markdown: what it says, what it escapes, and that it is whole or not there."""

import shutil

import pytest

from helpers import commands
from helpers.edited_study import SMALL, rows_of
from helpers.fake_study import write_study
from lipsjax.analysis.verdict import verdict
from lipsjax.recording import read_study
from lipsjax.report.markdown import COLUMNS, markdown, write_markdown
from lipsjax.report.summary import executive


def text_of(path):
    return write_markdown(path).read_text(encoding="utf-8")


def plain(text):
    return text.replace("\\", "")


def table_of(text):
    """The cells of the table, its rule left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[c.strip() for c in line.strip("|").split(" | ")] for line in lines[:1] + lines[2:]]


def test_it_says_what_the_study_says(tmp_path):
    write_study(tmp_path, prices={"per_gb": 1.0, "per_point": 1.0}, **SMALL)
    study, text = read_study(tmp_path), text_of(tmp_path)
    assert text.startswith("# fake\n")
    assert text.endswith(".\n")
    for number, line in enumerate(executive(study), start=1):
        assert f"{number}. {line}" in plain(text)
    sentences = verdict(rows_of(tmp_path), study.prices)
    assert any("Value" in sentence for sentence in sentences)
    for sentence in sentences:
        assert f"- {sentence}" in plain(text)
    for word in (study.command, "jax 0.10.2", "**Clients**", "**Arm lips**"):
        assert word in text
    assert "nan" not in text


def test_table_holds_the_rows(tmp_path):
    write_study(tmp_path, **SMALL)
    dense, lips = rows_of(tmp_path)
    head, first, second = table_of(text_of(tmp_path))
    assert head == list(COLUMNS)
    assert first[0] == "dense"
    assert first[3:5] == ["", ""]
    mean, low, high, _ = lips.differences["personalised"].interval
    assert second[3] == f"{100 * mean:+.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    assert second[4] == f"{lips.adjusted['personalised']:.2g}"
    assert len(first) == len(second) == len(COLUMNS)
    assert second[2].startswith(f"{100 * lips.means['personalised'].mean:.1f} [")
    assert dense.is_reference


def test_a_grid_names_its_cells(tmp_path):
    write_study(tmp_path, cells=("a = 1", "a = 2"), **SMALL)
    head, *rows = table_of(text_of(tmp_path))
    assert head[0] == "cell"
    assert [row[:2] for row in rows] == [
        [c, a] for c in ("a = 1", "a = 2") for a in ("dense", "lips")
    ]
    assert "over 2 comparisons" in text_of(tmp_path)


def test_names_are_escaped(tmp_path):
    evil = "a | b `c` *d* _e_ <script> [x](y)\n# f"
    write_study(
        tmp_path, arms=("dense", evil), name=evil, description=evil, command="run ``` x", **SMALL
    )
    text = text_of(tmp_path)
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "\n# f" not in text
    assert "a \\| b \\`c\\` \\*d\\*" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "````\nrun ``` x\n````" in text


@pytest.mark.parametrize(
    "options",
    [
        {"arms": ("dense",)},
        {"seeds": 1},
        {"missing": tuple(("dense", seed) for seed in range(4))},
        {"missing": (("lips", 1),)},
        {"references": {"x": "lips"}, "arms": ("dense", "lips", "x")},
    ],
)
def test_what_is_not_there_leaves_no_holes(tmp_path, options):
    write_study(tmp_path, **SMALL | options)
    text = text_of(tmp_path)
    assert "nan" not in text
    assert len({len(row) for row in table_of(text)}) == 1
    assert ("Not finished" in text) == ("missing" in options)
    assert ("x (vs lips)" in text) == ("references" in options)


def test_same_recordings_give_the_same_bytes(tmp_path):
    write_study(tmp_path / "a", **SMALL)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert text_of(tmp_path / "a") == text_of(tmp_path / "b")
    assert markdown(read_study(tmp_path / "a")) == text_of(tmp_path / "a")


@pytest.mark.usefixtures("sketched")
def test_the_command_writes_it_and_the_table(tmp_path):
    write_study(tmp_path, **SMALL)
    ended = commands.call("report", str(tmp_path), "--format", "md")
    assert ended.status == 0, ended.err
    assert "report.md" in ended.out
    assert (tmp_path / "report.md").exists()
    assert (tmp_path / "table.csv").exists()
    assert not (tmp_path / "report.html").exists()
    commands.call("report", str(tmp_path))
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("form", ["docx", "HTML", ""])
def test_other_formats_are_refused(tmp_path, form):
    write_study(tmp_path, **SMALL)
    ended = commands.call("report", str(tmp_path), "--format", form)
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert "html" in ended.err
    assert "md" in ended.err
    assert not (tmp_path / "report.md").exists()


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_study(tmp_path, **SMALL)
    before = text_of(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_markdown(tmp_path)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == before
