"""`geomdiag plot`: one figure of a result, of many runs or of a checkpoint, as a file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomdiag_cli.asked import AllowPickle, Model, open_all
from geomdiag_cli.console import Debug, clean, say, stdout

if TYPE_CHECKING:
    from geomdiag.plots import Figure

#: What a figure is made of, for people.
_OF = {"run": "one run of a result", "runs": "a result or corpus", "checkpoint": "checkpoints"}


def _list(wanted: bool) -> None:
    if not wanted:
        return
    from rich.table import Table

    from geomdiag.plots import FIGURES

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("kind", "of", "what it shows"):
        table.add_column(heading, no_wrap=heading == "kind", overflow="fold")
    for figure in FIGURES.values():
        table.add_row(clean(figure.name), _OF[figure.of], clean(figure.about))
    stdout().print(table)
    raise typer.Exit


def command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Figure; --list shows all.")],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT", help="What geomdiag analyze left behind; or a corpus, or checkpoints."
        ),
    ],
    run: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="Which run, where there are many.")
    ] = None,
    step: Annotated[
        int | None, typer.Option("--step", min=0, help="Which checkpoint. Default: the last.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", help="Of the checkpoints, or whose runs of many."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="File.svg, .png or .pdf. Default: NAME.KIND.svg in this folder."
        ),
    ] = None,
    model: Model = None,
    allow_pickle: AllowPickle = False,
    listing: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--list", callback=_list, is_eager=True, help="List the figures."),
    ] = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Draw a figure.

    Figures of the embedding need the checkpoints, which a result does not hold: give their
    folder in place of the result, and --task.
    """
    from geomdiag.plots import FIGURES, save_figure
    from geomdiag.plots.style import check_format, pyplot

    figure: Figure = FIGURES[kind]
    if step is not None and "step" not in figure.takes:
        raise typer.BadParameter(f"{kind} shows no single step; leave --step out")
    if run is not None and figure.of == "runs":
        raise typer.BadParameter(f"{kind} shows many runs; leave --run out")
    if task is not None and figure.of == "run":
        raise typer.BadParameter(f"{kind} is of a result, which knows its task; leave --task out")
    if figure.of != "checkpoint" and (model is not None or allow_pickle):
        raise typer.BadParameter(f"{kind} reads no checkpoints; leave --model, --allow-pickle out")
    if out is not None:
        check_format(out)  # before any work
    pyplot().switch_backend("agg")  # draws into files, on machines without a screen as well
    options: dict[str, Any] = {}
    if figure.of == "run":
        shown = _run(source, run, kind)
        if "step" in figure.takes:
            options["step"] = step
    elif figure.of == "runs":
        shown = _many(source)
        options["task"] = task
    else:
        shown = _checkpoint(source, run, step, task, model, allow_pickle)
    drawn = figure.draw(shown, **options)
    target = out if out is not None else _default_out(source, kind, run, step)
    save_figure(drawn, target)
    pyplot().close("all")
    stdout().print(f"figure: {clean(target)}", soft_wrap=True)


def _chosen(names: list[str], run: str | None) -> int:
    """Return the place of the run that was asked for, or of the only one."""
    from geomdiag.errors import UnknownNameError

    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    if run is None:
        if len(names) == 1:
            return 0
        raise UnknownNameError(f"there are {len(names)} runs; choose one with --run: {shown}")
    if run not in names:
        raise UnknownNameError(f"there is no run {run!r}; known: {shown}")
    return names.index(run)


def _run(source: Path, run: str | None, kind: str) -> Any:
    from geomdiag.errors import StoreError
    from geomdiag.store import load

    tree = load(source)
    nodes = [(name, node.to_dataset()) for name, node in tree.children.items()]
    nodes = [(name, node) for name, node in nodes if "step" in node.dims]
    if not nodes:
        raise StoreError(f"{source} holds no run with a checkpoint; there is nothing to draw")
    dataset = nodes[_chosen([str(node.attrs.get("run") or name) for name, node in nodes], run)][1]
    if kind == "forecast" and "onset" not in dataset:
        from geomdiag.dynamics.forecast import forecast_run

        return dataset.merge(forecast_run(dataset))
    return dataset


def _many(source: Path) -> Any:
    from geomdiag.dynamics.corpus import load_corpus
    from geomdiag.store import load

    if source.is_file() and zipfile.is_zipfile(source):
        return load_corpus(source)
    return load(source)


def _checkpoint(
    source: Path,
    run: str | None,
    step: int | None,
    task: str | None,
    model: str | None,
    allow_pickle: bool,
) -> Any:
    from geomdiag.errors import CheckpointError
    from geomdiag.models import infer_task, snapshot
    from geomdiag.plots._results import nearest_row

    if task is None:
        raise typer.BadParameter("say what the checkpoints are of: --task, as in --task modadd")
    runs, notices = open_all([source], None, allow_pickle)
    for notice in notices:
        say(notice)
    names = list(runs)
    series = runs[names[_chosen(names, run)]]
    row = len(series) - 1 if step is None else nearest_row(series.steps, step, series.name)
    checkpoint = series[row]
    if checkpoint.error:
        raise CheckpointError(f"step {checkpoint.step}: {checkpoint.error}")
    known = infer_task(task, checkpoint, series.config)
    return snapshot(checkpoint, known, model=model, config=series.config)


def _default_out(source: Path, kind: str, run: str | None, step: int | None) -> Path:
    """Return where the figure goes when nobody says: in this folder, named after the source."""
    path = source.expanduser().resolve()
    name = path.name.partition(".geomdiag.")[0]
    if name == path.name and path.is_file():
        name = path.stem
    parts = [
        name or "runs",
        (run or "").replace("/", "__"),
        kind,
        "" if step is None else str(step),
    ]
    return Path(".".join(part for part in parts if part) + ".svg")
