"""The version is said in one place, and what repeats it says the same."""

import re
import tomllib
from pathlib import Path
from unittest import mock

import lipsjax
from lipsjax.experiments import cli

ROOT = Path(__file__).parents[2]


def test_the_command_says_the_version(capsys):
    with mock.patch("sys.argv", ["lipsjax", "--version"]):
        cli.main()
    assert capsys.readouterr().out == f"lipsjax {lipsjax.__version__}\n"


def test_the_version_is_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", lipsjax.__version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "lipsjax.__version__"


def test_what_is_cited_and_told_is_this_version():
    assert f"\nversion: {lipsjax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{lipsjax.__version__}] - " in (ROOT / "CHANGELOG.md").read_text()
