"""What the site needs beside its pages: studies and benchmarks, and docstrings in Markdown."""

import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
BESIDE = ("experiments", "benchmarks", "notebooks")
"""Folders of the repository whose READMEs are pages; what these link to comes along."""

PATTERNS = ("README.md", "*.toml", "*.csv", "*.png", "*.ipynb")


def on_files(files, config):
    """Add the folders beside docs."""
    for folder in BESIDE:
        for pattern in PATTERNS:
            for path in sorted((ROOT / folder).glob(pattern)):
                name = f"{folder}/{path.name}"
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links between docs and the folders beside it to where these are in the site."""
    del config, files
    if page.file.src_uri.startswith(BESIDE):
        return markdown.replace("](../docs/", "](../")
    return re.sub(rf"\]\((\.\./)+({'|'.join(BESIDE)})/", _inside(page.file.src_uri), markdown)


def _inside(uri):
    up = "../" * uri.count("/")
    return lambda found: f"]({up}{found[2]}/"


class Docstrings(griffe.Extension):
    """Reads docstrings as this project writes them: some reST inside, fields by comments."""

    def on_instance(self, *, obj, **kwargs):
        """Rewrite one docstring."""
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)

    def on_module_members(self, *, mod, **kwargs):
        """Show everything where it is defined, not where it is exported too."""
        del kwargs
        mod.exports = None

    def on_class_members(self, *, cls, **kwargs):
        """List fields in the docstring of their class, not one by one below it."""
        del kwargs
        fields = {name: said(attr) for name, attr in cls.attributes.items() if name[0] != "_"}
        for name in fields:
            cls.attributes[name].public = False
        if cls.docstring and any(fields.values()) and "Attributes:" not in cls.docstring.value:
            lines = (f"  {name}: {words or 'As its type says.'}" for name, words in fields.items())
            cls.docstring.value = "\n".join([cls.docstring.value, "", "Attributes:", *lines])


def said(attr):
    """Return what is said of a field: its docstring, or the comment behind it."""
    if attr.docstring is not None:
        return " ".join(attr.docstring.value.split())
    comment = re.search(r"  # (.+)$", attr.source)
    return to_markdown(comment[1]) if comment is not None else ""


def to_markdown(text):
    """Return a docstring without reST.

    >>> to_markdown("As :func:`~lipsjax.analysis.stats.holm`::")
    'As [`holm`][lipsjax.analysis.stats.holm]:'
    """
    text = re.sub(r":\w+:`~([\w.]*?(\w+))`", r"[`\2`][\1]", text)
    text = re.sub(r":\w+:`([\w.]+\.[\w.]+)`", r"[`\1`][\1]", text)
    text = re.sub(r":\w+:`([\w.]+)`", r"`\1`", text)
    text = re.sub(r"`([^`<>]+?)\s+<(http[^`<>]+)>`_", r"[\1](\2)", text)
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    text = re.sub(r"^>>> .+(?:\n.+)*", r"```pycon\n\g<0>\n```", text, flags=re.MULTILINE)
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)
