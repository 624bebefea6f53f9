"""The README's Python runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.whole
def test_python_example(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    exec(compile(block, str(README), "exec"), {})
    assert capsys.readouterr().out.count("[") >= 2


def test_files_it_names_exist():
    for target in re.findall(r"\]\(([^)h][^)]*)\)", README.read_text()):
        assert (README.parent / target.partition("#")[0]).exists(), target
