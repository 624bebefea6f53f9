"""The LaTeX table: names as they are, columns that fit, numbers with signs."""

import re

import pytest

from helpers import commands
from helpers.fake_study import write_study
from lipsjax.recording import read_study
from lipsjax.report.latex import SPECIAL, escape, latex

SMALL = {"seeds": 3, "rounds": 6}
EVIL = "50%_of $x$ & {y} #1 ~^ \\input{z} <a> |b| \"c\" 'd' `e` [f] *g* --- h"


def body(text):
    """The rows between the rules."""
    return re.findall(r"^(?!\\|%)(.+) \\\\$", text, flags=re.MULTILINE)


def cells(row):
    return re.split(r"(?<!\\) & ", row)


@pytest.mark.parametrize("character", sorted({*SPECIAL, *"\\{}$&#_%~^"}))
def test_every_special_character_is_escaped(character):
    shown = escape(f"a{character}b")
    assert shown != f"a{character}b"
    assert shown in (f"a\\{character}b", f"a{{{character}}}b") or re.fullmatch(
        r"a\\text[a-z]+\{\}b", shown
    )


def test_white_space_and_dashes_do_not_change_the_text():
    assert escape("a\n\tb  c") == "a b c"
    assert escape("a---b-c") == "a-{}-{}-b-c"
    assert escape("plain ü 1.5") == "plain ü 1.5"


def test_names_are_escaped_and_rows_have_all_columns(tmp_path):
    write_study(tmp_path, arms=("dense", EVIL), cells=(EVIL, "b = 2"), name=EVIL, **SMALL)
    text = latex(read_study(tmp_path))
    spec = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1]
    rows = body(text)
    assert spec == "ll" + "r" * (len(spec) - 2)
    assert len(rows) == 5  # the head, and two arms in each of two cells
    assert {len(cells(row)) for row in rows} == {len(spec)}
    assert escape(EVIL) in cells(rows[2])
    table = text[text.index("\\begin{tabular}") :]
    bare = re.sub(r"\\[%$#_&{}]|\$[+-]\$", "", table)
    assert bare.count("{") == bare.count("}")
    assert not set(bare) & set('%$#_~^<>|"`')
    assert "\\input" not in table
    assert not [row for row in rows if row.startswith(("[", "*"))]  # arguments of a line break


def test_comments_stay_comments(tmp_path):
    write_study(tmp_path, name="two\nlines", **SMALL)
    above = latex(read_study(tmp_path)).partition("\\begin{tabular}")[0]
    assert all(line.startswith("% ") for line in above.splitlines())


def test_numbers_are_those_of_the_markdown(tmp_path):
    write_study(tmp_path, **SMALL)
    ended = commands.call("report", str(tmp_path), "--format", "latex")
    assert ended.status == 0
    assert f"latex: {tmp_path / 'table.tex'}" in ended.out.replace("\n", "")
    commands.call("report", str(tmp_path), "--format", "md")
    plain = (tmp_path / "table.tex").read_text().replace("$", "")
    for row in (tmp_path / "report.md").read_text().splitlines():
        if row.startswith(("| dense", "| lips")):
            assert " & ".join(cell.strip() for cell in row.strip("|").split("|")) in plain
