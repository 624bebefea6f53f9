"""The documentation: its Python runs, its studies are studies, its commands and links exist."""

import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from unittest import mock

import pytest

import lipsjax
from lipsjax.experiments import command
from lipsjax.report.glossary import WORDS
from lipsjax.runs.stages import load_stages
from lipsjax.runs.study import each_in_turn, expand, study_from

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "lipsjax"
PAGES = sorted(DOCS.rglob("*.md"))
READMES = [ROOT / part / "README.md" for part in ("", "experiments", "benchmarks")]
TRAINS = {
    *("quickstart.md", "privacy.md"),
    *("howto/model.md", "howto/python.md", "howto/strategy.md"),
}
"""Pages whose Python trains a simulation, which takes a while to compile."""


def blocks(page, language):
    """Code blocks of a page, with the line at which each begins."""
    text = page.read_text()
    fences = re.finditer(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, fence.start()) + 1, fence[1]) for fence in fences]


def name(page):
    return str(page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT))


def with_blocks(language, pages=PAGES):
    return [page for page in pages if blocks(page, language)]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if name(page) in TRAINS else [], id=name(page))
        for page in with_blocks("python")
    ],
)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for line, code in blocks(page, "python"):
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", with_blocks("toml", [*PAGES, READMES[0]]), ids=name)
def test_studies_are_studies(page, tmp_path):
    for _, text in blocks(page, "toml"):
        if "[stages." in text:
            (tmp_path / "STAGES.toml").write_text(text)
            assert load_stages(tmp_path / "STAGES.toml").stages
        else:
            assert expand(each_in_turn(study_from(tomllib.loads(text))))


def commands(page):
    """The arguments of every command of lipsjax in the shell blocks of a page."""
    for line, text in blocks(page, "sh"):
        for part in re.split(r"\n|&&", text.replace("\\\n", " ")):
            words = shlex.split(part, comments=True)
            for start, length in ((["lipsjax"], 1), (["python", "-m"], 2)):
                if words[:length] == start:
                    argv = words[length:]
                    if length == 1 or argv[0].startswith("lipsjax.experiments."):
                        argv[0] = argv[0].removeprefix("lipsjax.experiments.")
                        yield pytest.param(argv, id=f"{name(page)}:{line}:{' '.join(argv)}")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("page", with_blocks("sh", [*PAGES, *READMES]), ids=name)
def test_shell_is_shell(page):
    for line, text in blocks(page, "sh"):
        ended = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert ended.returncode == 0, f"line {line}: {ended.stderr}"


class ParsedError(Exception):
    """Stops a command once its options are read."""


@pytest.mark.parametrize("argv", [c for page in [*PAGES, *READMES] for c in commands(page)])
def test_options_of_commands_exist(argv, tmp_path, monkeypatch):
    known, *options = argv
    module = f"lipsjax.experiments.{known}"
    loaded = importlib.import_module(module)
    (tmp_path / "STUDY.toml").write_text("[arms.dense]\n[arms.lips]\nsparsity = {}\n")
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    parse = command.parse

    def parsed(*arguments, **others):
        parse(*arguments, **others)
        raise ParsedError

    end = SystemExit if {"--help", "--help-all"} & {*options} else ParsedError
    with mock.patch.object(command, "parse", parsed), pytest.raises(end) as ended:
        loaded.main(options)
    assert end is ParsedError or ended.value.code == 0


def test_the_check_of_options_can_fail(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"unknown option .--sparsity\.denisty"):
        importlib.import_module("lipsjax.experiments.sweep").main(["--sparsity.denisty", "1"])


def anchors(page):
    """Anchors of a page's headings, as Python-Markdown and GitHub make them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles)
    return {re.sub(r"[-\s]+", "-", title) for title in plain}


@pytest.mark.parametrize("page", [*PAGES, *READMES], ids=name)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": ([\w/.]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(
        [*map(name, PAGES), "experiments/README.md", "benchmarks/README.md"]
    )


def test_every_module_is_on_an_api_page():
    """Packages are shown with all their modules."""
    shown = [
        module
        for page in (DOCS / "api").glob("*.md")
        for module in re.findall(r"^::: lipsjax\.(\w+)$", page.read_text(), flags=re.MULTILINE)
    ]
    modules = {path.stem for path in SOURCE.glob("*.py") if path.stem != "__init__"}
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert sorted(shown) == sorted(modules | packages)


def test_every_public_name_is_on_its_page():
    page = (DOCS / "api" / "index.md").read_text()
    told = re.findall(r"^\| \[`lj\.(\w+)`\]\[lipsjax\.[\w.]+\] \| \S", page, flags=re.MULTILINE)
    assert sorted(told) == sorted(lipsjax.__all__)


def test_the_guide_uses_no_file_before_it_is_made():
    """Files are made by Python or saved by the reader, and directories by a command before."""
    told = (DOCS / "guide.md").read_text()
    made = r"savez\(\"([^\"]+)\"|[Ss]ave this as `([^`]+)`|--out (\S+)"
    used = r"^(?:lipsjax| ).* ([\w/]+\.(?:npz|toml))\b|^lipsjax (?:report|power) (\S+)"
    there, needed = (
        {
            found[found.lastindex]: found.start()
            for found in reversed([*re.finditer(what, told, re.M)])
        }
        for what in (made, used)
    )
    assert {"mine.npz", "STUDY.toml", "results/controls"} <= needed.keys()
    for name, first in needed.items():
        assert there.get(name, len(told)) < first, name


def test_each_step_of_the_guide_says_how_long_it_takes():
    steps = re.split(r"^## (?=\d+\. )", (DOCS / "guide.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(steps) == 10
    for step in steps:
        (time,) = re.findall(r"^\*\*Time:\*\* (.+)", step, flags=re.MULTILINE)
        assert re.search(r"second|minute|hour|step 5", time), step.splitlines()[0]


def test_the_glossary_says_what_reports_say():
    page = " ".join((DOCS / "glossary.md").read_text().split())
    for word in WORDS:
        assert f"### {word.name} {word.means}" in page
