r"""The comparison of a study as a LaTeX table, to be read into a paper by ``\\input``."""

import re
from pathlib import Path

from lipsjax.analysis.comparison import Row, compare
from lipsjax.recording import StudyRecording, read_study, write_atomically
from lipsjax.report.markdown import TEXTS, legend, table_cells

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # at the start of a row it would be an argument of the line break before it
    "]": "{]}",
    "*": "{*}",  # as would this
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
"""What LaTeX takes for something else than the character itself; needs T1 and textcomp."""


def write_latex(out_dir: Path, study: StudyRecording | None = None) -> Path:
    """Writes ``table.tex`` of a recorded study, whole or not at all.

    Args:
      out_dir: folder of the study, in which the file is written.
      study: what to show; read from there if not given.

    Returns:
      The path of the file.

    Raises:
      ValueError: if no trial of the study is finished.
    """
    path = out_dir / "table.tex"
    write_atomically(path, latex(study or read_study(out_dir)))
    return path


def latex(study: StudyRecording) -> str:
    """The comparison as a ``tabular`` in the style of the package booktabs.

    Args:
      study: the recorded study.

    Returns:
      LaTeX, with what the numbers are as comments above it, and a line feed at its end.

    Raises:
      ValueError: if no trial of the study is finished.
    """
    rows: list[Row] = compare(study)
    head, lines = table_cells(study, rows, escape)
    name, said = " ".join(study.name.split()), legend(study, rows)
    is_text = [column in TEXTS for column in head]
    # names are escaped already; what is left are numbers
    body = [
        [text if kept else _number(text) for kept, text in zip(is_text, line, strict=True)]
        for line in lines
    ]
    return "\n".join(
        [
            f"% {name}",
            f"% {said}",
            r"% \usepackage{booktabs}, and \usepackage[T1]{fontenc} for what names may hold",
            rf"\begin{{tabular}}{{{''.join('l' if kept else 'r' for kept in is_text)}}}",
            r"\toprule",
            _row([escape(column) for column in head]),
            r"\midrule",
            *map(_row, body),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escape(text: str) -> str:
    r"""A text that LaTeX shows as it is, on one line.

    Example:
      >>> escape("50% of_a & b"), escape("[x] --\n y")
      ('50\\% of\\_a \\& b', '{[}x{]} -{}- y')
    """
    plain = "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))
    return re.sub("-(?=-)", "-{}", plain)  # two would make a dash


def _number(text: str) -> str:
    """A number with its interval, its signs being signs and not hyphens."""
    return re.sub(r"(?<![\w.])([+-])(?=\d)", r"$\1$", text)


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
