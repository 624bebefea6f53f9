"""Say what the sites hold before anything is trained: ``python -m lipsjax.experiments.survey``.

Nothing is trained, and no device is needed.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from lipsjax.experiments import command
from lipsjax.runs.config import Config, Execution, source, to_dict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Say what each client would hold, and what to ask before anything is trained.

    A STUDY.toml before the options says what the defaults are; every option overrides it. One that
    names own parts runs their code. The page
    and all numbers are written to OUT/survey.html and OUT/survey.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)
    execution: Annotated[Execution, tyro.conf.arg(name="")] = Execution()
    anonymise: command.Flag = False
    """Write to OUT/anonymous, without names of sites, classes and data, commands and paths, as
    these can identify people. Recordings keep names."""


class Surveyed(NamedTuple):
    """What was found, and the page that says so."""

    sites: Any  # lipsjax.partition.Survey
    remarks: Any  # of lipsjax.survey
    title: str
    setting: str
    page: Path
    names: Any  # of the sites, None for made-up clients


def write_survey(
    dataset: Any,
    config: Config,
    out: Path,
    line: str,
    cell: str = "",
    *,
    anonymise: bool = False,
) -> Surveyed:
    """Share out the data as a config says; write what came of it to OUT.

    Args:
      dataset: a :class:`lipsjax.datasets.Dataset`.
      config: the science, of which partition and local training are read.
      out: OUT.
      line: the command, for the record.
      cell: which of a study's grid this is, if it has one.
      anonymise: whether to write it without names and paths, to a folder of OUT.

    Raises:
      ValueError: for data that cannot be shared out so; then nothing is written.
    """
    from lipsjax import datasets, partition
    from lipsjax.partition.survey import compare_sites, look
    from lipsjax.report import anonymise as hidden
    from lipsjax.report import survey
    from lipsjax.report.setting import describe_features, describe_partition, seeds_stand_for
    from lipsjax.runs.data import share_out

    said = to_dict(config)
    # what sites hold, whatever of it they are scored on
    parted = dataclasses.replace(config.partition, score_whole=False)
    shared = share_out(dataclasses.replace(config, partition=parted), dataset)
    if anonymise:
        known = () if dataset.sites is None else dataset.sites.names
        names = hidden.names_for((*(shared.names or ()), *known), [config.dataset])
        dataset = hidden.anonymous_dataset(shared.dataset, names)
        shared = shared._replace(
            dataset=dataset, names=shared.names and tuple(names.sites[n] for n in shared.names)
        )
        said, line = hidden.anonymous_config(said, names), "lipsjax survey"
        out = out / hidden.FOLDER
    wanted, parts = said["partition"], shared.partition
    sites, looks = partition.describe(parts, shared.dataset), look(parts, shared.dataset)
    facts = None if shared.names is None else compare_sites(parts, shared.dataset)
    found = survey.remarks(
        sites,
        shared.dataset,
        batch_size=config.local.batch_size,
        epochs=config.local.epochs,
        new_clients=config.partition.new_clients,
        features=describe_features(wanted),
        looks=looks,
        sites=shared.names,
        facts=facts,
    )
    todo: list[survey.Item] = []
    if facts is not None:
        todo = survey.checklist(sites, facts, looks, shared.dataset, survey.Called(shared.names))
    setting = f"{describe_partition(wanted)}; drawn with seed {config.seed}."
    setting += f" One cell of a grid: {cell}." if cell else ""
    # the digest of data that somebody else has would tell which they are
    digest = None if anonymise else datasets.fingerprint(dataset)
    about = {"dataset": dataset.name, "fingerprint": digest}
    about |= {"class_names": dataset.class_names, "images": looks.to_dict()}
    about |= {"site_names": shared.names, "sites": facts and facts.to_dict()}
    about |= {"setting": setting, "command": line, "config": said}
    out.mkdir(parents=True, exist_ok=True)
    survey.write_json(out / "survey.json", sites, found, about, todo)
    title, page = f"Site survey: {dataset.name}", out / "survey.html"
    survey.write_page(
        page,
        sites,
        found,
        title=title,
        setting=setting,
        command=line,
        # only where they say something that numbers do not: they are somebody's images
        pictures=survey.pictures(shared.data) if config.partition.features != "alike" else None,
        names=dataset.class_names,
        sites=shared.names,
        facts=facts,
        todo=todo,
        seeds=seeds_stand_for(wanted),
        # a sweep writes its study before the survey, and its report at the end
        report=(out / "study.json").is_file() or (out / "report.html").is_file(),
    )
    return Surveyed(sites, found, title, setting, page, shared.names)


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
      ValueError: for data that cannot be had, or not be shared out so; then nothing is written.
    """
    study, options = command.read_study(argv)
    defaults = Options(config=study.config, execution=study.execution)
    chosen = command.parse(Options, options, program="lipsjax survey", default=defaults)
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from lipsjax.report import survey
    from lipsjax.runs.data import check_numbers
    from lipsjax.runs.sites import in_turn, read, settle

    config, execution = chosen.config, chosen.execution
    check_numbers(config)  # before data is read that may be large
    config, in_turns = in_turn(config, execution.data_dir)
    config = settle(config, execution.data_dir)
    dataset, _ = read(*source(config), execution.data_dir)
    line = command.command_line("survey", argv)
    sites, found, title, setting, page, names = write_survey(
        dataset, config, Path(execution.out), line, anonymise=chosen.anonymise
    )
    console = Console(width=None if Console().is_terminal else 100)
    shown = survey.table(sites, names)
    console.print(Text(title, style="bold"), Text(setting), "", shown, sep="\n")
    console.print("Entropy of the class mix in nats: 0 is a single class.", highlight=False)
    listed = Table.grid(padding=(0, 1))
    for remark in found:
        text = Text.assemble((remark.topic, "bold"), ": ", remark.statement)
        listed.add_row("•", text + Text(f" {remark.question}" * bool(remark.question), "italic"))
    console.print("", listed, "", sep="\n", highlight=False)
    for name in (*study.grid, *["partition.hold_out_sites"] * bool(in_turns)):
        console.print(f"grid: {name} varies; give it as an option to survey another cell")
    console.print(f"page: {page}", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    command.guarded(main)
