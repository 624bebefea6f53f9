"""Pages and exports without names and paths, as both can identify people.

Names are replaced in what pages are made of, before any text is made, so that no text has to be
searched for them. Sites become Site 1, Site 2, classes Class 1, Class 2, devices of a table
Device 1, Device 2; names of data sets and studies, commands and paths give way to words. Recordings
keep what they hold.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from lipsjax.datasets import Dataset
from lipsjax.datasets.base import in_order
from lipsjax.recording import Recording, StudyRecording

FOLDER = "anonymous"
"""Where pages and exports without names are written, below OUT."""
COMMAND = "lipsjax sweep OPTIONS-WITHHELD"
"""What stands for the command of a study; what is added to it is shown."""
_HARMLESS = re.compile(r"[A-Za-z0-9_-]*")
"""Texts of a config that name a choice; paths and code from outside have other characters."""

_OF_DATA = {"data", "dataset_options", "init"}
"""Fields whose texts name columns, places and files, however plain."""


class Names(NamedTuple):
    """What stands for names."""

    sites: Mapping[str, str]  # name -> what stands for it
    datasets: Mapping[str, str]


def names_for(sites: Iterable[str], datasets: Iterable[str]) -> Names:
    """Returns what stands for names: sites are numbered in the order of their names.

    So a survey and a report call a site alike, whichever sites a run holds out and has last.

    Example:
      >>> names_for(["Ulm", "Brno", "Ulm"], ["/home/me/mine.npz"])
      Names(sites={'Brno': 'Site 1', 'Ulm': 'Site 2'}, datasets={'/home/me/mine.npz': 'Data set 1'})
    """
    return Names(_numbered("Site", in_order(set(sites))), _numbered("Data set", datasets))


def _numbered(word: str, names: Iterable[str]) -> dict[str, str]:
    return {name: f"{word} {i}" for i, name in enumerate(dict.fromkeys(names), start=1)}


def classes(number: int) -> tuple[str, ...]:
    """Returns what stands for the names of classes.

    >>> classes(2)
    ('Class 1', 'Class 2')
    """
    return tuple(f"Class {i}" for i in range(1, number + 1))


def anonymous_dataset(dataset: Dataset, names: Names) -> Dataset:
    """Returns a data set whose name, sites and classes are replaced; its examples are the same.

    Args:
      dataset: any.
      names: what stands for its sites, all of which it has.
    """
    sites = dataset.sites
    if sites is not None:
        sites = sites._replace(names=tuple(names.sites[name] for name in sites.names))
    return dataset._replace(
        name="the data set",
        class_names=None if dataset.class_names is None else classes(dataset.num_classes),
        sites=sites,
    )


def anonymous_config(config: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Returns a config, or fields of one by their dotted names, without names and paths.

    Args:
      config: as it is recorded.
      names: what stands for sites and data sets.

    Returns:
      The same fields; every other text that is more than one word is withheld.

    Example:
      >>> names = names_for(["Brno"], ["mine.npz"])
      >>> anonymous_config({"dataset": "mine.npz", "partition.hold_out_sites": ["Brno"]}, names)
      {'dataset': 'Data set 1', 'partition.hold_out_sites': ['Site 1']}
      >>> anonymous_config({"model": {"name": "mine.nets:Net", "width": 3}}, names)
      {'model': {'name': 'withheld', 'width': 3}}
    """
    return {field: _anonymous(field, value, names) for field, value in config.items()}


def _anonymous(field: str, value: Any, names: Names) -> Any:
    last = field.rpartition(".")[2]
    if isinstance(value, Mapping):
        return {name: _anonymous(f"{field}.{name}", each, names) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_anonymous(field, each, names) for each in value)
    if not isinstance(value, str):
        return value
    if last == "dataset":
        return names.datasets.get(value, "a data set")
    if last == "hold_out_sites":
        # by number it names nobody
        return names.sites.get(value, value if value.isdecimal() else "a site")
    is_choice = _OF_DATA.isdisjoint(field.split(".")) and _HARMLESS.fullmatch(value)
    return value if is_choice else "withheld"


def anonymous_study(study: StudyRecording) -> StudyRecording:
    """Returns a recorded study as pages and exports show it without names and paths.

    Args:
      study: as it was read.

    Returns:
      The same numbers. Arms keep their names, by which a study calls its methods.
    """
    runs = [trial.recording for trial in study.trials]
    names = names_for(
        (site for run in runs for site in run.setup.get("site_names") or ()),
        (run.config["dataset"] for run in runs),
    )
    return study._replace(
        name="A study",
        description="",
        command=COMMAND,
        cells=_told_apart([_cell(cell, names) for cell in study.cells]),
        trials=tuple(t._replace(recording=_recording(t.recording, names)) for t in study.trials),
        missing=tuple(_unnamed(trial) for trial in study.missing),
        diverged=tuple(trial | {"reason": "withheld"} for trial in study.diverged),
    )


def _unnamed(trial: dict[str, Any]) -> dict[str, Any]:
    """A trial that is not finished, without the name of the host that runs it."""
    return trial | {"held_by": "a host"} if "held_by" in trial else trial


def _cell(cell: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """A cell of a grid, its label made of what its fields now are."""
    overrides = cell.get("overrides", {})
    replaced = anonymous_config(overrides, names)
    label = ", ".join(f"{name} = {value}" for name, value in replaced.items())
    return dict(cell) | {"overrides": replaced, "label": label}


def _told_apart(cells: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Cells of which labels that became equal are numbered, as pages know cells by their labels."""
    labels = [cell["label"] for cell in cells]
    return tuple(
        cell | {"label": f"{label} ({i})" if labels.count(label) > 1 else label}
        for i, (cell, label) in enumerate(zip(cells, labels, strict=True), start=1)
    )


def _recording(run: Recording, names: Names) -> Recording:
    setup = dict(run.setup)
    if "devices" in setup:
        called = _numbered("Device", _own_devices(run))
        setup["devices"] = [
            device | {"name": called.get(device["name"], device["name"]), "source": "withheld"}
            for device in setup["devices"]
        ]
    if setup.get("site_names"):
        setup["site_names"] = [names.sites[site] for site in setup["site_names"]]
    if setup.get("class_names"):
        setup["class_names"] = list(classes(len(setup["class_names"])))
    return run._replace(config=anonymous_config(run.config, names), setup=setup)


def _own_devices(run: Recording) -> Iterator[str]:
    """Yields the names of devices that a table of sites gives, which may be of people's own."""
    if any(name.endswith(".csv") for name in run.config["sites"]["devices"]):
        yield from (device["name"] for device in run.setup["devices"])
