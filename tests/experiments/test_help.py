"""What ``--help`` prints: 25 lines of 80 columns with four examples, and no wait for JAX."""

import importlib
import re
import shlex
import subprocess
import sys
from unittest import mock

import pytest

from helpers import commands
from lipsjax.experiments import cli, command
from lipsjax.experiments.help import HELP, Help, short
from lipsjax.experiments.sweep import Sweep
from lipsjax.runs.arms import ARMS

LINES, COLUMNS, EXAMPLES = 25, 80, 4
OF_STUDIES = ("sweep", "search", "plan", "survey")


def test_every_command_has_a_short_help():
    assert HELP.keys() == cli.COMMANDS.keys()


@pytest.mark.parametrize("name", HELP)
def test_it_fits_a_terminal(name):
    ended = commands.call_as_given(name, "--help")
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert lines[0].startswith(f"usage: lipsjax {name} ")
    assert ("STUDY.toml" in lines[0]) == (name in (*OF_STUDIES, "deploy"))
    assert len([line for line in lines if line.startswith(f"  lipsjax {name}")]) == EXAMPLES
    titles = [title for line in lines if (title := re.match(r"[A-Z]\w+(?=  +--)", line))]
    assert name not in (*OF_STUDIES, "run") or titles[-1][0] == "Machine"


class ParsedError(Exception):
    """Stops a command once its options are read."""


@pytest.mark.parametrize("name", HELP)
def test_its_examples_are_commands(name, tmp_path, monkeypatch):
    (tmp_path / "STUDY.toml").write_text("[arms.dense]\n[arms.lips]\nsparsity = {}\n")
    monkeypatch.chdir(tmp_path)
    parse = command.parse

    def parsed(*arguments, **others):
        parse(*arguments, **others)
        raise ParsedError

    for arguments, _ in HELP[name].examples:
        with mock.patch.object(command, "parse", parsed), pytest.raises(ParsedError):
            importlib.import_module(f"lipsjax.experiments.{name}").main(shlex.split(arguments))


def test_values_are_those_of_the_study(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('seeds = 7\narms = ["dense", "held"]\n[config.model]\nwidth = 5\n')
    said = commands.call_as_given("sweep", str(path), "--help").out
    for part in ("--seeds 7", "--arms dense held ", "--model.width 5", "--target  "):
        assert part in said
    flat = " ".join(said.split())
    assert f"Arms known by name: {', '.join(ARMS)}." in flat


def test_long_values_and_groups_are_wrapped():
    help_ = Help(
        "", "It helps.", (("", "all"),), (("Group", ("a", "bb")), ("Longer group", ("c",)))
    )
    values = {"--a": "x" * 50, "--bb": ("y" * 15, "z" * 15), "--c": None}
    assert short("program", help_, values).splitlines()[6:-2] == [
        f"Group         --a ...  --bb {'y' * 15} {'z' * 15}",
        "Longer group  --c",
    ]


def test_all_of_it_has_every_option():
    said = commands.call_as_given("sweep", "--help-all")
    assert said.status == 0
    options = command.options_of(Sweep, Sweep(name="", seeds=1, arms=()))
    found = re.findall(r"--[a-z][\w.-]+", said.out)
    assert {*options} <= {*found}


def test_nobody_waits_for_jax():
    code = (
        "import sys; from lipsjax.experiments import cli\n"
        "for said in ([], ['sweep', '--help'], ['run', '--help'], ['sweep', '--help-all']):\n"
        "    sys.argv = ['lipsjax', *said]\n"
        "    try: cli.main()\n"
        "    except SystemExit as end: assert not end.code\n"
        "sys.exit('jax' in sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
